"""Find where and how to put an object so that an atom of the goal holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product

import numpy as np

from vla_gym.experts.geometry import SceneObject
from vla_gym.experts.grasps import Grasp
from vla_gym.experts.hand import Live, about_vertical
from vla_gym.experts.pick_place_scene import PickPlaceScene
from vla_gym.sim.core import SimCore
from vla_gym.tasks.goals import Atom
from vla_gym.type_aliases import Float64Array

TURNS = np.deg2rad([0.0, 30.0, -30.0, 60.0, -60.0])
"""Turns of the object about the vertical that are tried where it is put on another object (rad)."""
SHARES = (0.0, 0.35, -0.35, 0.7, -0.7)
"""Places within a region that are tried, as shares of its half extents."""
DROPS = (0.005, 0.04)
"""Heights (m) above the target at which the object may be let go."""
DESCENT = (0.0, 0.08)
"""Heights (m) above the place at which object and hand must be free."""
NARROW = 0.05
"""Half width (m) below which a target between walls is narrow."""
MAX_WAYS = 60
SURFACE_RADIUS = 0.02


@dataclass(frozen=True)
class Target:
    """
    Place for an object.

    :param point: target of its origin, at the height of its underside (m), (3,)
    :param rim: height (m) over which the object must be lifted there
    :param axes: horizontal half extents (m) of the area around the point, as vectors, (2, 3)
    """

    point: Live
    rim: float
    axes: Float64Array

    @property
    def is_narrow(self) -> bool:
        """Whether the object must be lowered precisely, between walls."""
        widths = np.linalg.norm(self.axes, axis=1)
        return bool(0.0 < widths.min() < NARROW and self.rim > self.point()[2] + 0.02)


@dataclass(frozen=True)
class Placement:
    """
    A way to put an object down.

    :param offset: from the target's point (m), (3,)
    :param turn: rotation of the object about the vertical on the way (rad)
    :param mat: orientation of the object there, (3, 3)
    """

    offset: Float64Array
    turn: float
    mat: Float64Array


def target_of(core: SimCore, atom: Atom, share: tuple[int, int] = (0, 1)) -> Target:
    """
    Find where the first argument of ``(On a b)`` or ``(In a b)`` may go.

    :param core: the simulation
    :param atom: the atom
    :param share: number of this object among those that go to the same place, and their count
    """
    data = core.data
    if atom.target_body:
        support = SceneObject(core, atom.target_body)

        def on_object() -> Float64Array:
            surface = support.height_at(support.pos[:2], SURFACE_RADIUS)
            return np.array([*support.pos[:2], support.top() if surface is None else surface])

        return Target(on_object, support.top(), np.zeros((2, 3)))
    site = core.model.site(atom.target_site).id
    half = np.array(atom.target_size)
    axes = data.site_xmat[site].reshape(3, 3).T * half[:, None]
    flat = axes[np.argsort(np.abs(axes[:, 2]))[:2]] * [1.0, 1.0, 0.0]
    is_inside = atom.predicate == "in"
    which, of = share
    apart = ((2 * which + 1) / of - 1.0) * flat[int(np.argmax(np.linalg.norm(flat, axis=1)))]

    def in_region() -> Float64Array:
        pos, mat = data.site_xpos[site], data.site_xmat[site].reshape(3, 3)
        lowest = pos[2] - float(np.abs(mat[2]) @ half) if is_inside else pos[2]
        return np.asarray(np.array([pos[0], pos[1], lowest]) + apart)

    if not is_inside or not atom.target_geoms:
        return Target(in_region, float(in_region()[2]), flat)
    owner = SceneObject(core, core.model.body(int(core.model.site_bodyid[site])).name)
    rim = owner.height_at(in_region()[:2], float(np.linalg.norm(half[:2])) + 0.02)
    return Target(in_region, in_region()[2] if rim is None else rim, flat)


def find_placement(obj: SceneObject, target: Target, grasp: Grasp, scene: PickPlaceScene) -> Placement | None:
    """
    Find a way to put down an object, held by a grasp, without collision.

    :param obj: the object
    :param target: where it goes
    :param grasp: how it is held
    :param scene: for the same object
    """
    start = target.point()
    mat, foot = obj.mat, np.array([0.0, 0.0, obj.pos[2] - obj.bottom()])
    try:
        for placement in islice(_ways(target, mat), MAX_WAYS):
            rotation = about_vertical(placement.turn)
            scene.reset_arm()
            for height in DESCENT:
                pos = start + placement.offset + foot + [0.0, 0.0, height]
                scene.put_object(pos, rotation @ mat)
                if not scene.can_reach(pos + rotation @ mat @ grasp.pos, rotation @ grasp.mat):
                    break
                if scene.crowding(holds_object=True) is None:
                    break
            else:
                return placement
    finally:
        scene.put_object(obj.pos, mat)
    return None


def _aligning_turns(target: Target, mat: Float64Array) -> list[float]:
    """List the turns that align the object's horizontal axes with the target's (rad), the smallest first."""
    flattest = mat[:, int(np.argmin(np.abs(mat[2])))]
    turn = np.arctan2(target.axes[0, 1], target.axes[0, 0]) - np.arctan2(flattest[1], flattest[0])
    quarter = np.pi / 2
    first = float((turn + quarter / 2) % quarter - quarter / 2)
    return sorted((first + n * quarter for n in (-2, -1, 0, 1)), key=abs)


def _ways(target: Target, mat: Float64Array) -> Iterator[Placement]:
    has_room = bool(target.axes.any())
    places = sorted(product(SHARES, SHARES), key=lambda s: s[0] ** 2 + s[1] ** 2)[:9] if has_room else [(0.0, 0.0)]
    turns = [0.0, *_aligning_turns(target, mat)] if has_room else TURNS
    for drop in DROPS:
        for turn in turns:
            for first, second in places:
                offset = first * target.axes[0] + second * target.axes[1] + np.array([0.0, 0.0, drop])
                yield Placement(offset, float(turn), about_vertical(float(turn)) @ mat)
