"""
Evaluate goal predicates on ``MjData`` with LIBERO's contact and region rules.

A goal is a conjunction of atoms. When a scene is built, LIBERO's code looks up the elements that an atom depends on
(bodies, geoms, sites, joints). Their names are stored; here they are resolved to ids once per model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Protocol

import mujoco
import numpy as np

from vla_gym.errors import SceneBuildError, UnknownNameError
from vla_gym.type_aliases import BoolArray, Float64Array, Int64Array

MAX_ON_OFFSET = 0.03
"""Horizontal distance (m) below which a touching, higher object counts as on another."""
MAX_HEIGHT_ABOVE_REGION = 0.10
"""Height (m) above a region up to which an object counts as on it."""

SPELLING = MappingProxyType(
    {"on": "On", "in": "In", "open": "Open", "close": "Close", "turnon": "Turnon", "turnoff": "Turnoff"}
)
"""Predicate as parsed (lower case) -> as BDDL files write it."""


@dataclass(frozen=True)
class JointRule:
    """
    Range of joint positions that fulfils a predicate.

    :param above: whether the position must exceed (``True``) or stay below (``False``) the threshold
    :param threshold: rad or m
    :param inclusive: whether the threshold itself counts
    """

    above: bool
    threshold: float
    inclusive: bool = False

    def __call__(self, qpos: float) -> bool:
        """Tell whether ``qpos`` fulfils the rule."""
        if qpos == self.threshold:
            return self.inclusive
        return bool(qpos > self.threshold) is self.above

    def distance(self, qpos: float) -> float:
        """Return the distance (rad or m) of ``qpos`` from the threshold if it is on the wrong side, else 0."""
        return max(0.0, self.threshold - qpos if self.above else qpos - self.threshold)


JOINT_RULES: Mapping[str, Mapping[str, JointRule]] = MappingProxyType(
    {
        "microwave": {"open": JointRule(False, -1.3), "close": JointRule(True, -0.005)},
        "white_cabinet": {"open": JointRule(False, -0.14), "close": JointRule(True, 0.0)},
        "wooden_cabinet": {"open": JointRule(False, -0.14), "close": JointRule(True, 0.0)},
        "flat_stove": {"turnon": JointRule(True, 0.5, inclusive=True), "turnoff": JointRule(False, 0.0)},
    }
)
"""Category -> predicate -> rule (LIBERO, ``articulated_objects.py``)."""


@dataclass(frozen=True)
class Atom:
    """
    One predicate of a goal, with the names of all elements that it depends on.

    :param predicate: lower-case name
    :param arguments: names as in the BDDL file
    :param body: root body of the first argument (``on``, ``in``)
    :param geoms: contact geoms of the first argument
    :param target_body: root body of the second argument, if that is an object
    :param target_site: site of the second argument, if that is a region
    :param target_size: half extents (m) of that region, (3,)
    :param target_geoms: contact geoms of the second argument or of the region's owner; empty for regions of a table
    :param joints: joints the predicate reads (``open``, ``close``, ``turnon``, ``turnoff``)
    :param category: category that owns the joints
    """

    predicate: str
    arguments: tuple[str, ...]
    body: str = ""
    geoms: tuple[str, ...] = ()
    target_body: str = ""
    target_site: str = ""
    target_size: tuple[float, ...] = ()
    target_geoms: tuple[str, ...] = ()
    joints: tuple[str, ...] = ()
    category: str = ""

    @property
    def text(self) -> str:
        """The atom as the BDDL file writes it, e.g. ``(On akita_black_bowl_1 plate_1)``."""
        return f"({' '.join((SPELLING.get(self.predicate, self.predicate), *self.arguments))})"

    def to_dict(self) -> dict[str, Any]:
        """Convert to a JSON-serialisable form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Atom:
        """Invert ``to_dict`` (JSON turns tuples into lists)."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**fields)


class _Predicate(Protocol):
    def __call__(self, data: mujoco.MjData) -> bool: ...


class Goal:
    """
    Evaluate a conjunction of atoms in a compiled scene.

    :param atoms: the atoms, in BDDL order
    :param model: the scene
    :raises UnknownNameError: if a predicate is not supported
    :raises SceneBuildError: if a name does not exist in the scene
    """

    def __init__(self, atoms: Sequence[Atom], model: mujoco.MjModel) -> None:
        self.atoms = tuple(atoms)
        self._predicates = tuple(_bind(atom, model) for atom in self.atoms)

    def evaluate(self, data: mujoco.MjData) -> dict[str, bool]:
        """
        Evaluate each atom.

        :param data: simulation state with contacts and poses computed
        :return: BDDL text -> value
        """
        return {atom.text: predicate(data) for atom, predicate in zip(self.atoms, self._predicates, strict=True)}

    def is_satisfied(self, data: mujoco.MjData) -> bool:
        """Tell whether all atoms hold."""
        return all(predicate(data) for predicate in self._predicates)


def in_contact(data: mujoco.MjData, is_first: BoolArray, is_second: BoolArray) -> bool:
    """
    Tell whether any geom of one group touches any geom of another.

    :param data: simulation state
    :param is_first: membership of each geom in the first group, (ngeom,) bool
    :param is_second: the same for the second group
    """
    geoms: Int64Array = data.contact.geom[: data.ncon]
    first, second = geoms[:, 0], geoms[:, 1]
    return bool(np.any((is_first[first] & is_second[second]) | (is_first[second] & is_second[first])))


def is_over_region(size: Float64Array, site_pos: Float64Array, site_mat: Float64Array, pos: Float64Array) -> bool:
    """
    Apply LIBERO's rule for being on a region, which multiplies by the region's matrix, not by its transpose.

    :param size: half extents of the region (m), (3,)
    :param site_pos: its position (m), (3,)
    :param site_mat: its orientation, (3, 3)
    :param pos: position of the object (m), (3,)
    """
    delta = site_mat @ (pos - site_pos)
    is_above = size[2] - 0.005 < delta[2] < size[2] + MAX_HEIGHT_ABOVE_REGION
    return bool(is_above and np.all(np.abs(delta[:2]) < size[:2]))


def is_inside_region(size: Float64Array, site_pos: Float64Array, site_mat: Float64Array, pos: Float64Array) -> bool:
    """
    Apply LIBERO's rule for being in a region: inside its axis-aligned box, extended by 1 cm below.

    Parameters: see ``is_over_region``.
    """
    half = np.abs(site_mat @ size)
    low, high = site_pos - half, site_pos + half
    low[2] -= 0.01
    return bool(np.all(pos > low) and np.all(pos < high))


def _bind(atom: Atom, model: mujoco.MjModel) -> _Predicate:
    if atom.predicate in ("open", "close", "turnon", "turnoff"):
        return _bind_joints(atom, model)
    if atom.predicate == "on":
        return _bind_on_region(atom, model) if atom.target_site else _bind_on_object(atom, model)
    if atom.predicate == "in" and atom.target_site:
        return _bind_in_region(atom, model)
    raise UnknownNameError("goal predicate", atom.text, SPELLING.values())


def _bind_on_object(atom: Atom, model: mujoco.MjModel) -> _Predicate:
    body, target = (_id(model, mujoco.mjtObj.mjOBJ_BODY, name) for name in (atom.body, atom.target_body))
    geoms, target_geoms = _geom_mask(model, atom.geoms), _geom_mask(model, atom.target_geoms)

    def on_object(data: mujoco.MjData) -> bool:
        pos, target_pos = data.xpos[body], data.xpos[target]
        return bool(
            target_pos[2] <= pos[2]
            and np.linalg.norm(target_pos[:2] - pos[:2]) < MAX_ON_OFFSET
            and in_contact(data, geoms, target_geoms)
        )

    return on_object


def _bind_on_region(atom: Atom, model: mujoco.MjModel) -> _Predicate:
    body = _id(model, mujoco.mjtObj.mjOBJ_BODY, atom.body)
    site = _id(model, mujoco.mjtObj.mjOBJ_SITE, atom.target_site)
    geoms, owner_geoms = _geom_mask(model, atom.geoms), _geom_mask(model, atom.target_geoms)
    size = np.array(atom.target_size)

    def on_region(data: mujoco.MjData) -> bool:
        over = is_over_region(size, data.site_xpos[site], data.site_xmat[site].reshape(3, 3), data.xpos[body])
        return over and (not atom.target_geoms or in_contact(data, geoms, owner_geoms))

    return on_region


def _bind_in_region(atom: Atom, model: mujoco.MjModel) -> _Predicate:
    body = _id(model, mujoco.mjtObj.mjOBJ_BODY, atom.body)
    site = _id(model, mujoco.mjtObj.mjOBJ_SITE, atom.target_site)
    size = np.array(atom.target_size)

    def in_region(data: mujoco.MjData) -> bool:
        return is_inside_region(size, data.site_xpos[site], data.site_xmat[site].reshape(3, 3), data.xpos[body])

    return in_region


def _bind_joints(atom: Atom, model: mujoco.MjModel) -> _Predicate:
    try:
        rule = JOINT_RULES[atom.category][atom.predicate]
    except KeyError as error:
        valid = [f"{SPELLING[p]} {category}" for category, rules in JOINT_RULES.items() for p in rules]
        raise UnknownNameError("joint predicate", f"{atom.text} of category {atom.category!r}", valid) from error
    addresses = [int(model.jnt_qposadr[_id(model, mujoco.mjtObj.mjOBJ_JOINT, name)]) for name in atom.joints]
    # LIBERO: open and turned on if any joint is; closed and turned off if all joints are
    quantifier = any if atom.predicate in ("open", "turnon") else all

    def joints_fulfil(data: mujoco.MjData) -> bool:
        return quantifier(rule(float(data.qpos[address])) for address in addresses)

    return joints_fulfil


def _id(model: mujoco.MjModel, kind: mujoco.mjtObj, name: str) -> int:
    number = int(mujoco.mj_name2id(model, kind, name))
    if number < 0:
        raise SceneBuildError(f"The scene has no {kind.name.removeprefix('mjOBJ_').lower()} {name!r}; rebuild it.")
    return number


def _geom_mask(model: mujoco.MjModel, names: Sequence[str]) -> BoolArray:
    mask = np.zeros(model.ngeom, dtype=bool)
    for name in names:
        mask[_id(model, mujoco.mjtObj.mjOBJ_GEOM, name)] = True
    return mask
