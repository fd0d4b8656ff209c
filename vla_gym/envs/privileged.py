"""
Privileged observations for critics: the state of robot and goal as one vector.

The vector is relative to the goal: its entries are the distances from the hand to the object and from the object to its
target. It has the same layout in all scenes, so that one value network serves all tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from vla_gym.sim.core import SimCore
from vla_gym.tasks.goals import JOINT_RULES, SPELLING, Atom, JointRule
from vla_gym.type_aliases import Float32Array, Float64Array

MAX_ATOMS = 3
"""Atoms of LIBERO's longest goal, that of task 8 of ``LIBERO-10-v0``."""
PRIVILEGED_LIMIT = 10.0
"""Bound of every entry (m, m/s, rad); only diverging physics exceeds it."""


def _xyz(name: str) -> tuple[str, ...]:
    return tuple(f"{name}/{axis}" for axis in "xyz")


_ROBOT_NAMES = (*_xyz("eef_pos"), *_xyz("eef_velocity"), "finger_pos/0", "finger_pos/1", "elapsed")
_ATOM_NAMES = (
    "exists",
    "satisfied",
    *(f"is_{predicate}" for predicate in SPELLING),
    *_xyz("subject_from_eef"),
    *_xyz("subject_velocity"),
    "subject_lift",
    *_xyz("target_from_subject"),
    "joint_pos",
    "joint_distance",
)
PRIVILEGED_NAMES = _ROBOT_NAMES + tuple(f"atom{i}/{name}" for i in range(MAX_ATOMS) for name in _ATOM_NAMES)
"""Name of each entry, in order."""
PRIVILEGED_DIM = len(PRIVILEGED_NAMES)
"""Length of the vector, for all suites and tasks."""

_PREDICATES = tuple(SPELLING)
# offsets in an atom's block
_SATISFIED, _PREDICATE, _FROM_EEF, _VELOCITY, _LIFT, _TO_TARGET, _JOINT = (
    _ATOM_NAMES.index(name)
    for name in (
        "satisfied",
        f"is_{_PREDICATES[0]}",
        "subject_from_eef/x",
        "subject_velocity/x",
        "subject_lift",
        "target_from_subject/x",
        "joint_pos",
    )
)


class PrivilegedObserver:
    """
    Compute the privileged observations of one episode; make it when the scene has settled.

    Poses and velocities are those in which goals are evaluated (see ``SimCore``); joint positions are the current ones.
    The subject of an atom is the object to be moved (its origin) or, for atoms about a joint, the part that the joint
    moves (its centre of mass). Where an object belongs into a drawer, the joint entries are the drawer's: its distance
    from being open.

    :param core: the simulation, with the task set
    :param initial_heights: zero of ``subject_lift`` for each atom (m); None: the current heights
    :raises ValueError: if the goal has more than ``MAX_ATOMS`` atoms
    """

    def __init__(self, core: SimCore, initial_heights: Float64Array | None = None) -> None:
        if len(core.goal.atoms) > MAX_ATOMS:
            raise ValueError(f"The goal has {len(core.goal.atoms)} atoms; privileged observations hold {MAX_ATOMS}.")
        self._core = core
        # rows of MjData's arrays are views, which follow the simulation
        self._eef_pos: Float64Array = core.data.site_xpos[core.robot.eef_site]
        self._subjects = [_Subject.of(atom, core) for atom in core.goal.atoms]
        if initial_heights is None:
            initial_heights = np.array([subject.pos[2] for subject in self._subjects])
        self.initial_heights = initial_heights
        self._velocity = np.zeros(6)
        self._vector = np.zeros(PRIVILEGED_DIM)
        blocks = self._vector[len(_ROBOT_NAMES) :].reshape(MAX_ATOMS, len(_ATOM_NAMES))
        self._blocks = list(blocks[: len(self._subjects)])
        for atom, block in zip(core.goal.atoms, self._blocks, strict=True):
            block[0] = block[_PREDICATE + _PREDICATES.index(atom.predicate)] = 1.0

    def observe(self, elapsed: float) -> Float32Array:
        """
        Return the current state.

        :param elapsed: fraction of the horizon that is over, in [0, 1]
        :return: entries named by ``PRIVILEGED_NAMES`` (m, m/s, rad), clipped, always finite, (PRIVILEGED_DIM,)
        """
        core, vector = self._core, self._vector
        qpos = core.data.qpos
        with np.errstate(invalid="ignore"):  # differences of infinities, where physics diverged
            vector[:3] = self._eef_pos
            vector[3:6] = self._linear_velocity(mujoco.mjtObj.mjOBJ_SITE, core.robot.eef_site)
            vector[6:8] = qpos[core.robot.gripper_qpos]
            vector[8] = elapsed
            satisfied = core.goal.evaluate(core.data)
            for atom, subject, height, block in zip(
                core.goal.atoms, self._subjects, self.initial_heights, self._blocks, strict=True
            ):
                block[_SATISFIED] = satisfied[atom.text]
                block[_FROM_EEF : _FROM_EEF + 3] = subject.pos - self._eef_pos
                block[_VELOCITY : _VELOCITY + 3] = self._linear_velocity(subject.kind, subject.number)
                block[_LIFT] = subject.pos[2] - height
                if subject.target is not None:
                    block[_TO_TARGET : _TO_TARGET + 3] = subject.target - subject.pos
                if subject.rule is not None:
                    joint_pos = float(qpos[subject.joint])
                    block[_JOINT : _JOINT + 2] = joint_pos, subject.rule.distance(joint_pos)
        # unlike np.clip, these replace NaN too
        return np.fmin(np.fmax(vector, -PRIVILEGED_LIMIT), PRIVILEGED_LIMIT).astype(np.float32)

    def _linear_velocity(self, kind: mujoco.mjtObj, number: int) -> Float64Array:
        mujoco.mj_objectVelocity(self._core.model, self._core.data, kind, number, self._velocity, 0)
        return self._velocity[3:]


@dataclass(frozen=True)
class _Subject:
    """Subject of an atom: its position and target, both views that follow the simulation."""

    kind: mujoco.mjtObj
    number: int
    pos: Float64Array
    target: Float64Array | None = None
    joint: int = 0
    rule: JointRule | None = None

    @classmethod
    def of(cls, atom: Atom, core: SimCore) -> _Subject:
        model, data = core.model, core.data
        if atom.joints:
            joint = model.joint(atom.joints[0])  # no goal of LIBERO reads more than one
            part = int(joint.bodyid[0])
            pos, rule = data.xipos[part], JOINT_RULES[atom.category][atom.predicate]
            return cls(mujoco.mjtObj.mjOBJ_BODY, part, pos, joint=int(joint.qposadr[0]), rule=rule)
        body = model.body(atom.body).id
        own = (mujoco.mjtObj.mjOBJ_XBODY, body, data.xpos[body])
        if not atom.target_site:
            return cls(*own, data.xpos[model.body(atom.target_body).id])
        site = model.site(atom.target_site).id
        return cls(*own, data.site_xpos[site], *_way_in(model, model.body(model.site_bodyid[site])))


def _way_in(model: mujoco.MjModel, holder: Any) -> tuple[int, JointRule | None]:
    """Where the joint of a drawer is in ``qpos``, and when the drawer is open; (0, None) for what does not move."""
    for number in range(int(holder.jntadr[0]), int(holder.jntadr[0] + holder.jntnum[0])):
        joint = model.joint(number)
        for category, rules in JOINT_RULES.items():
            if joint.name.startswith(category) and "open" in rules:
                return int(joint.qposadr[0]), rules["open"]
    return 0, None
