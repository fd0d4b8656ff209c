"""
Where to grasp an object from above, found from its collision geometry.

The fingers can close on any stretch of material that is thinner than the gripper's opening and has room on both sides:
a carton across its narrow side, a can across its diameter, a bottle at its neck, a bowl or a mug at its wall. So each
direction of closing cuts a thin slice out of the object, and each uninterrupted stretch of the slice is a candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_gym.experts.geometry import Obstacles, Thing
from vla_gym.experts.hand import turned
from vla_gym.sim.core import SimCore
from vla_gym.type_aliases import Float64Array

MAX_WIDTH = 0.066
"""Thickest stretch (m) that is grasped; the gripper opens to 8 cm."""
MIN_GAP = 0.02
"""Two stretches closer than this (m) are one: no finger fits between them."""
DEPTHS = (0.03, 0.018)
"""How far (m) below the object's top the fingertips go."""
MIN_HEIGHT = 0.008
"""Least height (m) of the fingertips above what the object stands on."""
PAD_HALF_WIDTH = 0.009
SLICE_HALF_HEIGHT = 0.02
YAWS = np.deg2rad(np.arange(-90.0, 91.0, 10.0))
"""Directions of closing that are tried (rad from the rest orientation)."""
LATERALS = (0.0, 0.015, -0.015, 0.03, -0.03, 0.05, -0.05)
"""Places of the slice (m) along the object."""
NEARLY_BEST = 0.12

# points of the open fingers and of the palm in the hand's frame: x along closing, y along the pads, z out of the hand
_FINGERS = np.array(
    [
        [side * x, y, z]
        for y in (-0.01, 0.01)
        for side in (-1, 1)
        for x in (0.04, 0.052, 0.064)
        for z in (0.006, -0.01, -0.03, -0.06, -0.12)
    ]
)
_PALM = np.array(
    [[x, y, z] for y in (-0.033, 0.033) for x in (-0.105, -0.05, 0.0, 0.05, 0.105) for z in (-0.05, -0.1, -0.16)]
)


@dataclass(frozen=True)
class Grasp:
    """
    A place for the hand, fixed to the object.

    :param pos: fingertips in the object's frame (m), (3,)
    :param mat: orientation of the hand in the world when the grasp was found, (3, 3)
    :param cost: the lower the better
    """

    pos: Float64Array
    mat: Float64Array
    cost: float


def find_grasps(core: SimCore, thing: Thing) -> list[Grasp]:
    """
    Grasps of an object from above, best first.

    :param core: the simulation
    :param thing: the object
    """
    points = thing.points()
    top, bottom = points[:, 2].max(), points[:, 2].min()
    centre = 0.5 * (points.max(axis=0) + points.min(axis=0))
    obstacles = Obstacles(core, thing)
    grasps = []
    for depth in DEPTHS:
        height = max(top - depth, bottom + MIN_HEIGHT)
        level = points[np.abs(points[:, 2] - height) < SLICE_HALF_HEIGHT]
        if len(level) == 0:
            continue
        for yaw in YAWS:
            mat = turned(float(yaw))
            across, along = mat[:2, 0], mat[:2, 1]
            for lateral in LATERALS:
                offset = (level[:, :2] - centre[:2]) @ along - lateral
                stretches = _stretches((level[:, :2] - centre[:2])[np.abs(offset) < PAD_HALF_WIDTH] @ across)
                for low, high in stretches:
                    middle = 0.5 * (low + high)
                    place = np.append(centre[:2] + lateral * along + middle * across, height)
                    cost = _cost(place, mat, high - low, float(yaw), centre, obstacles, points)
                    cost += 0.1 * (depth != DEPTHS[0])
                    grasps.append(Grasp(thing.mat.T @ (place - thing.pos), mat, cost))
    return sorted(grasps, key=lambda grasp: grasp.cost)


def choose_grasp(grasps: list[Grasp], choice: float) -> Grasp | None:
    """
    One of the grasps that are nearly as good as the best.

    :param grasps: best first
    :param choice: in [0, 1)
    """
    good = [grasp for grasp in grasps if grasp.cost < grasps[0].cost + NEARLY_BEST]
    return good[int(choice * len(good))] if good else None


def _stretches(positions: Float64Array) -> list[tuple[float, float]]:
    """Uninterrupted stretches of material along a line that are thin enough, as (low, high)."""
    if len(positions) == 0:
        return []
    ordered = np.sort(positions)
    ends = np.flatnonzero(np.diff(ordered) > MIN_GAP)
    lows, highs = ordered[np.append(0, ends + 1)], ordered[np.append(ends, len(ordered) - 1)]
    return [(float(a), float(b)) for a, b in zip(lows, highs, strict=True) if b - a < MAX_WIDTH]


def _cost(
    place: Float64Array,
    mat: Float64Array,
    width: float,
    yaw: float,
    centre: Float64Array,
    obstacles: Obstacles,
    points: Float64Array,
) -> float:
    fingers, palm = place + _FINGERS @ mat.T, place + _PALM @ mat.T
    # the object itself is in the way of a finger as well
    own = np.linalg.norm(fingers[:, None] - points[None], axis=-1).min(axis=1) < 0.008
    in_the_way = float((obstacles.hit(fingers, 0.004) | own).mean() + obstacles.hit(palm, 0.01).mean())
    lever = float(np.linalg.norm(place[:2] - centre[:2]))
    return 8.0 * in_the_way + 0.25 * abs(yaw) / (np.pi / 2) + 2.0 * lever + 1.5 * width
