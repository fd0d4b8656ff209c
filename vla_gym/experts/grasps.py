"""
Find grasps of an object from above in its collision geometry.

The fingers can close on any stretch of material that is thinner than the gripper's opening and has room on both sides:
a carton across its narrow side, a can across its diameter, a bottle at its neck, a bowl or a mug at its wall. So the
lines along which the pads would close are intersected with the object, and each uninterrupted stretch is a candidate.
The arm tries the candidates in order, in a copy of the scene, until it finds some that it can reach without collision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vla_gym.experts.geometry import Boxes, SceneObject
from vla_gym.experts.hand import turned
from vla_gym.experts.pick_place_scene import MIN_DEXTERITY, PickPlaceScene
from vla_gym.type_aliases import Float64Array

MAX_WIDTH = 0.07
"""Thickest stretch (m) that is grasped; the gripper opens to 8 cm."""
MIN_GAP = 0.012
"""Two stretches closer than this (m) are one: no finger fits between them."""
DEPTHS = (0.022, 0.03, 0.012, 0.045, 0.07)
"""How far (m) below the object's top the fingertips go."""
MIN_HEIGHT = 0.011
"""Least height (m) of the fingertips above the object's underside."""
YAWS = np.deg2rad(np.arange(-90.0, 91.0, 15.0))
"""Directions of closing that are tried (rad from the rest orientation), besides the object's own axes."""
LATERALS = np.array([0.0, 0.015, -0.015, 0.03, -0.03, 0.05, -0.05])
"""Places of the slice (m) along the object."""
MAX_SLANT = 0.0035
"""Unevenness (m) of a side along the pads beyond which they slip: a slope of about 30 degrees."""
SLIP_FACTOR = 3.0
"""Additional weight of unevenness beyond that."""
EDGE_ROUGHNESS = 0.02
"""Cost of a third of the pads' breadth without contact (m): the pads would slip off an edge."""
_PAD = np.array([(y, z) for y in (-0.007, 0.0, 0.007) for z in (-0.002, 0.006, 0.014)])
"""Lines of a pad: along it, and up from the fingertips (m)."""
GOOD_DEXTERITY = 0.13
"""Below this, a grasp costs more."""
PASSES = ((0.0, MIN_DEXTERITY), (0.0, 0.05), (0.006, 0.05))
"""Depth (m) to which the hand may penetrate other objects, and least dexterity; later passes are more lenient."""
MAX_TRIED = 250
"""Number of candidates tried in a pass."""
APPROACH = (0.0, 0.07)
"""Heights above a grasp at which the hand must be free (m)."""


@dataclass(frozen=True)
class Grasp:
    """
    A pose of the hand, fixed to the object.

    :param pos: fingertips in the object's frame (m), (3,)
    :param mat: orientation of the hand in the world when the grasp was found, (3, 3)
    :param cost: the lower the better
    """

    pos: Float64Array
    mat: Float64Array
    cost: float


def find_grasps(obj: SceneObject, scene: PickPlaceScene, hand_pos: Float64Array) -> Iterator[Grasp]:
    """
    Yield grasps of an object from above that the arm can carry out, roughly in the order of their cost.

    :param obj: the object
    :param scene: for the same object
    :param hand_pos: where the hand comes from (m), (3,)
    """
    pos, mat = obj.pos, obj.mat
    grasps = sorted(candidates(obj, hand_pos), key=lambda grasp: grasp.cost)
    for leniency, dexterity in PASSES:
        has_any = False
        for grasp in grasps[:MAX_TRIED]:
            scene.reset_arm()
            place, crowding, stretch = pos + mat @ grasp.pos, 0.0, 0.0
            for height in APPROACH:
                if not scene.can_reach(place + np.array([0.0, 0.0, height]), grasp.mat, dexterity):
                    break
                here = scene.crowding(holds_object=False, leniency=leniency)
                if here is None:
                    break
                crowding = max(crowding, here)
                stretch = max(stretch, GOOD_DEXTERITY - scene.dexterity)
            else:
                has_any = True
                yield Grasp(grasp.pos, grasp.mat, grasp.cost + 0.2 * crowding + 4.0 * stretch)
        if has_any:
            return


def candidates(obj: SceneObject, hand_pos: Float64Array) -> Iterator[Grasp]:
    """
    Yield places where the fingers could close, reachable or not.

    :param obj: the object
    :param hand_pos: where the hand comes from (m), (3,)
    """
    boxes, pos, to_object = obj.boxes(), obj.pos, obj.mat.T
    corners = boxes.corners()
    low, high = corners.min(axis=0), corners.max(axis=0)
    centre = 0.5 * (low + high)
    heights = sorted(
        {max(high[2] - depth, low[2] + MIN_HEIGHT): i for i, depth in reversed([*enumerate(DEPTHS)])}.items()
    )
    for height, rank in heights:
        for yaw in np.append(YAWS, _own_yaws(obj)):
            mat = turned(float(yaw))
            across, along = mat[:, 0], mat[:, 1]
            for lateral in LATERALS:
                middle = np.array([*(centre[:2] + lateral * along[:2]), height])
                for position, width, roughness in _stretches(boxes, middle, across, along):
                    place = middle + position * across
                    cost = 0.25 * abs(yaw) / (np.pi / 2) + 0.08 * rank + 1.5 * width + 25.0 * roughness
                    cost += 2.0 * float(np.linalg.norm(place[:2] - centre[:2]))
                    cost += 0.15 * float(np.linalg.norm(place[:2] - hand_pos[:2]))
                    yield Grasp(to_object @ (place - pos), mat, cost)


def _own_yaws(obj: SceneObject) -> Float64Array:
    """Compute turns of the hand that close it along the object's horizontal axes (rad), (2,)."""
    flattest = obj.mat[:, int(np.argmin(np.abs(obj.mat[2])))]
    turn = float(np.arctan2(flattest[1], flattest[0]))
    return np.array([(turn + quarter) % np.pi - np.pi / 2 for quarter in (0.0, np.pi / 2)])


def _stretches(
    boxes: Boxes, middle: Float64Array, across: Float64Array, along: Float64Array
) -> Iterator[tuple[float, float, float]]:
    """Find position, width and roughness (m) of the stretches of material that are thin enough."""
    origins = middle + _PAD[:, :1] * along + _PAD[:, 1:] * np.array([0.0, 0.0, 1.0])
    cuts = boxes.cuts(origins, across)
    line, box = np.nonzero(cuts[..., 0] < cuts[..., 1])
    if len(line) == 0:
        return
    low, high = cuts[line, box].T
    order = np.argsort(low)
    line, low, high = line[order], low[order], high[order]
    reach = np.maximum.accumulate(high)
    starts = np.append(0, np.flatnonzero(low[1:] - reach[:-1] > MIN_GAP) + 1)
    for first, last in zip(starts, np.append(starts[1:], len(low)), strict=True):
        part = slice(first, last)
        width = float(high[part].max() - low[part].min())
        if width > MAX_WIDTH:
            continue
        ends = np.array(
            [(low[part][line[part] == i].min(), high[part][line[part] == i].max()) for i in set(line[part])]
        )
        missing = 1.0 - len(ends) / len(_PAD)
        unevenness = float(ends.std(axis=0).max())
        roughness = unevenness + SLIP_FACTOR * max(unevenness - MAX_SLANT, 0.0) + 0.01 * missing
        roughness += EDGE_ROUGHNESS * (3 - len(set(line[part] // 3)))
        yield float(0.5 * (low[part].min() + high[part].max())), width, roughness
