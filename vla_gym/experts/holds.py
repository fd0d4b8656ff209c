"""
Find where to hold a fixture's part in order to move it: by its handle, or from outside with closed fingers.

The part's geometry offers candidates: the fingers close on its handle or hook it, or push a drawer's handle or points
along a door. A copy of the scene tells how well the arm reaches each candidate, and what it would hit on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vla_gym.experts.articulation_scene import ArticulationScene
from vla_gym.experts.hand import DOWN, rotation_vector
from vla_gym.experts.part import Part
from vla_gym.sim.core import SimCore
from vla_gym.type_aliases import Float64Array

STANDOFF = 0.09
"""Distance (m) from which a part is approached and to which the hand retreats."""
MIN_DROP = 0.02
"""Least height (m) above the point of approach from which the hand comes down."""
PUSH_STANDOFF = 0.05
PUSH_DEPTH = 0.004
"""How deep (m) in the surface the fingertips are aimed, so that contact is certain."""
PUSH_PLACES = (-0.8, -0.5, -0.2, 0.2, 0.5, 0.8)
"""Where a door is pushed, from its middle (0) to its edges (1)."""
TILTS = np.deg2rad([0.0, 15.0, 30.0, 40.0, 50.0, 60.0, 75.0, 90.0])
"""Angles between the hand and the vertical that are tried."""
# beside a knob close to the robot's base, the forearm would have no room above an upright hand
KNOB_TILTS = np.deg2rad([0.0, 20.0, -20.0, 35.0, -35.0])
PENETRATION_COST = 100.0
"""Cost of a metre of penetration, where turning the hand by a radian costs 1."""
REACH_COST = 100.0
"""Cost of a metre out of reach."""
HOOK_COST = 1.0
"""Cost of hooking a handle instead of gripping it."""
PAD_DEPTH = 0.004
"""Distance (m) from the end effector back to the middle of the finger pads."""
TIP_LENGTH = 0.012
"""Distance (m) from the end effector to the fingertips."""
CLOSED_HALF = np.array([0.022, 0.01])
"""Half extents (m) of the closed fingers along closing and along the pads."""
HOOK_DEPTH = 0.004
"""How far (m) below the handle's top the tips are sent behind it."""
HOOK_PRESS = 0.025
"""How far (m) the hand is steered below the part while it hooks it."""
GRIP_DEPTH = 0.016
"""How far (m) below its top an upright handle is held."""
MAX_HANDLE_WIDTH = 0.06
UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Hold:
    """
    A pose of the hand at a part.

    :param pos: end effector in the part's frame (m), (3,)
    :param mat: its orientation in that frame, (3, 3)
    :param grips: whether the fingers close on the part
    :param approach: offset (m) from which the hand comes, in that frame, (3,)
    :param press: offset (m) at which the hand is steered beside the part while it moves, (3,)
    """

    pos: Float64Array
    mat: Float64Array
    grips: bool
    approach: Float64Array
    press: Float64Array


def find_hold(core: SimCore, part: Part, goal: float, pushes: bool) -> Hold | None:
    """
    Find the cheapest hold for moving a part.

    Turning the hand, poses that the arm does not reach, and penetration have a cost: above the part, in front of it, at
    it, and at the end, with the part at its goal.

    :param core: the simulation
    :param part: the part
    :param goal: goal position of its joint (m or rad)
    :param pushes: whether to push with closed fingers instead of pulling
    :return: the hold; None if the part offers none
    """
    change = goal - part.qpos

    def turn(hold: Hold) -> float:
        mats = (hold.mat, part.moved(hold.pos, hold.mat, change)[1])
        return max(float(np.linalg.norm(rotation_vector(mat @ DOWN.T))) for mat in mats)

    scene = ArticulationScene(core)
    touchable = np.zeros(core.model.ngeom, dtype=bool)
    touchable[part.obj.geoms] = True
    nothing = np.zeros_like(touchable)
    height = float(core.data.site_xpos[core.robot.eef_site, 2])
    best, lowest = None, np.inf
    candidates = _pushes(part) if pushes else _pulls(part)
    priced = [(turn(hold) + HOOK_COST * hold.press.any(), hold) for hold in candidates]
    for cost, hold in sorted(priced, key=lambda pair: pair[0]):
        if cost > lowest:
            break
        scene.reset(hold.grips)
        before = hold.pos + hold.approach
        above = np.append(before[:2], max(before[2] + MIN_DROP, height))
        at_hold = nothing if hold.grips else touchable
        for pos, may_touch in ((above, nothing), (before, nothing), (hold.pos, at_hold)):
            cost += REACH_COST * scene.reach(pos, hold.mat) + PENETRATION_COST * scene.penetration(may_touch)
        scene.set_joint(part.address, goal)
        for pos, may_touch in ((hold.pos, touchable), (hold.pos + hold.approach, nothing)):
            cost += REACH_COST * scene.reach(*part.moved(pos, hold.mat, change))
            cost += PENETRATION_COST * scene.penetration(may_touch)
        if cost < lowest:
            best, lowest = hold, cost
    if best is None:
        return None
    frame = part.obj.mat.T
    return Hold(frame @ (best.pos - part.obj.pos), frame @ best.mat, best.grips, frame @ best.approach, best.press)


def _pushes(part: Part) -> Iterator[Hold]:
    """Yield ways of pushing a part from outside, in the world's frame."""
    outwards = part.outwards()
    for centre, face in _push_points(part, outwards):
        for mat in _orientations(outwards):
            reach = np.abs(mat[:, :2].T @ outwards) @ CLOSED_HALF + max(0.0, -TIP_LENGTH * mat[:, 2] @ outwards)
            pos = centre + (face + float(reach) - PUSH_DEPTH) * outwards
            yield Hold(pos, mat, False, PUSH_STANDOFF * outwards, np.zeros(3))


def _push_points(part: Part, outwards: Float64Array) -> Iterator[tuple[Float64Array, float]]:
    """Yield points at which to push (a drawer's handle, points along a door), and the surface's distance (m)."""
    points = part.corners(part.handle(outwards) if part.is_slide else part.panel())
    centre, along = _grip_centre(points), np.cross(UP, outwards)
    face, half = float((points @ outwards).max() - centre @ outwards), 0.5 * float(np.ptp(points @ along))
    for place in (0.0,) if part.is_slide else PUSH_PLACES:
        yield centre + place * half * along, face


def _pulls(part: Part) -> Iterator[Hold]:
    """Yield ways of pulling or turning a part by its handle, in the world's frame."""
    outwards = part.outwards()
    handle = part.handle(outwards)
    points = part.corners(handle)
    centre = _grip_centre(points)
    is_knob = abs(outwards[2]) > 0.9
    for mat in _knob_orientations(part.frame(handle)) if is_knob else _orientations(outwards):
        if np.ptp(points @ mat[:, 0]) < MAX_HANDLE_WIDTH:
            yield Hold(centre + PAD_DEPTH * mat[:, 2], mat, True, -STANDOFF * mat[:, 2], np.zeros(3))
        elif not is_knob:
            # too wide to grip this way: put the tips of the closed fingers behind it, from above
            inside = centre @ outwards - (points @ outwards).min() + CLOSED_HALF[1]
            tip = centre - inside * outwards + (points[:, 2].max() - centre[2] - HOOK_DEPTH) * UP
            yield Hold(tip - TIP_LENGTH * mat[:, 2], mat, False, -STANDOFF * mat[:, 2], -HOOK_PRESS * UP)


def _grip_centre(points: Float64Array) -> Float64Array:
    """Return the point at which a handle is held: its middle, or near its upper end if it is upright (m), (3,)."""
    centre = 0.5 * (points.max(axis=0) + points.min(axis=0))
    centre[2] += max(0.0, 0.5 * float(np.ptp(points[:, 2])) - GRIP_DEPTH)
    return np.asarray(centre)


def _orientations(outwards: Float64Array) -> Iterator[Float64Array]:
    """Yield orientations of a hand that points down or inwards, (3, 3) each."""
    side = np.cross(UP, outwards)
    for tilt in TILTS:
        ahead = -np.cos(tilt) * UP - np.sin(tilt) * outwards
        for closing in (side, np.cross(side, ahead)):
            yield from _both_ways(closing, ahead)


def _knob_orientations(frame: Float64Array) -> Iterator[Float64Array]:
    """Yield orientations of a hand that closes across the lever of a knob with a given orientation, (3, 3) each."""
    for closing in (column for column in frame.T if abs(column[2]) < 0.1):
        for tilt in KNOB_TILTS:
            yield from _both_ways(closing, -np.cos(tilt) * UP + np.sin(tilt) * np.cross(UP, closing))


def _both_ways(closing: Float64Array, ahead: Float64Array) -> Iterator[Float64Array]:
    for x in (closing, -closing):
        yield np.column_stack([x, np.cross(ahead, x), ahead])
