"""Pick an object up and put it on or into something."""

from __future__ import annotations

from itertools import islice

import numpy as np

from vla_gym.experts.geometry import Obstacles, SceneObject
from vla_gym.experts.grasps import Grasp, find_grasps
from vla_gym.experts.hand import ANGLE_TOLERANCE, Hand, Motion, Trial, about_vertical, rotation_vector
from vla_gym.experts.pick_place_scene import PickPlaceScene
from vla_gym.experts.placements import Placement, Target, find_placement, target_of
from vla_gym.experts.style import Style
from vla_gym.tasks.goals import Atom
from vla_gym.type_aliases import Float64Array

MAX_REGRASPS = 3
MAX_GRASPS = 8
"""Number of grasps that are compared, and tried in turn."""
MAX_MISPLACED = 3
"""Number of grasps without a free placement after which none is searched."""
NEARLY_BEST = 0.02
"""Difference in cost within which the style decides."""
NO_PLACEMENT_COST = 0.25
"""Cost of a grasp without a free placement: the object may still be lowered until it touches something."""
MAX_SLIP = 0.06
"""Distance (m) that a held object may move in the hand before it counts as lost."""
MAX_SLIP_LOWERING = 0.03
"""How far (m) it may move in the hand while it is lowered."""
MIN_LIFT = 0.004
"""Height (m) by which an object that is grasped at least rises with the hand; held at its rim, it tilts first."""
FUNNEL = 5.0
"""Height that the hand keeps above a grasp per horizontal distance from it."""
FUNNEL_MOUTH = 0.006
"""Horizontal distance (m) within which it goes straight down."""
AT_GRASP = (0.008, 0.009)
"""Horizontal and vertical distance (m) from a grasp at which the fingers close."""
MAX_MISS = 0.025
"""Distance (m) from a grasp at which closing is of no use."""
STUCK_STEPS, GIVE_UP_STEPS = 8, 12
STUCK_WAY = 0.002
"""The hand is stuck when it moves less than this (m) in ``STUCK_STEPS`` control steps."""
MAX_SHORT_OF_GRASP = 0.02
"""Height (m) above a grasp at which they close as well, if the hand gets no further."""
TURN_AS_DISTANCE = 0.1
"""Horizontal distance (m) that a radian of turning left to do counts as."""
RISE_FIRST = 4.0
"""How much more rising counts than moving across, where the hand is too low."""
HAND_RADIUS = 0.11
HAND_HEIGHT = 0.02
"""The hand is wide (m) from this height (m) above the fingertips on."""
CLEARANCE = 0.025
PRESS_DEPTH = 0.015
"""How far (m) below the surface to aim when lowering, so that contact is certain."""
RETREAT_HEIGHT = 0.1


def pick_and_place(hand: Hand, atom: Atom, style: Style) -> Motion:
    """
    Fulfil ``(On a b)`` or ``(In a b)``: grasp from above, carry over everything on the way, lower, let go.

    :param hand: the gripper
    :param atom: the atom
    :param style: style of the motion
    """
    obj = SceneObject(hand.core, atom.body)
    target = target_of(hand.core, atom, _share(hand, atom))
    for attempt in range(1 + MAX_REGRASPS):
        plan = plan_pick(hand, obj, target, style, attempt)
        if plan is None:
            yield from hand.go_home()
            continue
        grasp, placement = plan
        if (yield from pick(hand, obj, grasp, style)) and (yield from carry(hand, obj, target, placement, style)):
            yield from lower_and_release(hand, obj, target, placement, atom, style)
            return
        yield from hand.open()
        yield from hand.rise(RETREAT_HEIGHT)


def plan_pick(
    hand: Hand, obj: SceneObject, target: Target, style: Style, attempt: int = 0
) -> tuple[Grasp, Placement] | None:
    """
    Choose a grasp, and a way to put the object down with it.

    :param hand: the gripper
    :param obj: the object
    :param target: where it goes
    :param style: style of the motion
    :param attempt: the later, the further down the list of grasps
    :return: None if the object cannot be grasped
    """
    scene = PickPlaceScene(hand.core, obj)
    plans: list[tuple[float, Grasp, Placement | None]] = []
    for grasp in islice(find_grasps(obj, scene, hand.pos), MAX_GRASPS):
        is_hopeless = len(plans) >= MAX_MISPLACED and all(found is None for _, _, found in plans)
        placement = None if is_hopeless else find_placement(obj, target, grasp, scene)
        plans.append((grasp.cost + cost_of(placement), grasp, placement))
    plans.sort(key=lambda plan: plan[0])
    if not plans:
        return None
    good = [plan for plan in plans if plan[0] < plans[0][0] + NEARLY_BEST]
    _, grasp, placement = plans[attempt % len(plans)] if attempt else good[int(style.choice * len(good))]
    return grasp, placement or Placement(np.zeros(3), 0.0, obj.mat)


def cost_of(placement: Placement | None) -> float:
    """
    Compute what a placement adds to the cost of a grasp.

    :param placement: None if no free one was found
    """
    if placement is None:
        return NO_PLACEMENT_COST
    return 0.1 * abs(placement.turn) + float(np.abs(placement.offset).sum())


def pick(hand: Hand, obj: SceneObject, grasp: Grasp, style: Style) -> Trial:
    """
    Grasp an object and lift it a little.

    :param hand: the gripper
    :param obj: the object
    :param grasp: where
    :param style: style of the motion
    :return: whether it is in the hand
    """
    start_height = obj.pos[2]

    def place() -> Float64Array:
        return obj.pos + obj.mat @ grasp.pos + style.grasp_offset

    obstacles = Obstacles(hand.core, obj)
    safe = max(
        place()[2] + style.height,
        obstacles.highest_along(hand.pos, place(), 0.03) + CLEARANCE,
        obstacles.highest_along(hand.pos, place(), HAND_RADIUS) + CLEARANCE - HAND_HEIGHT,
        obj.top() + CLEARANCE,
    )
    if hand.pos[2] < safe - 0.05:
        yield from hand.rise(safe - hand.pos[2])

    def through_funnel() -> Float64Array:
        offset = place() - hand.pos
        aside = max(float(np.linalg.norm(offset[:2])) - FUNNEL_MOUTH, 0.0) + TURN_AS_DISTANCE * hand.angle_to(grasp.mat)
        offset[2] += min(FUNNEL * aside, safe - place()[2])
        offset[2] *= RISE_FIRST if offset[2] > 0.0 else 1.0
        return offset

    way: list[Float64Array] = []

    def is_there() -> bool:
        offset = np.abs(place() - hand.pos)
        way.append(np.append(hand.pos, TURN_AS_DISTANCE * hand.angle_to(grasp.mat)))
        if len(way) > GIVE_UP_STEPS and np.ptp(way[-GIVE_UP_STEPS:], axis=0).max() < STUCK_WAY:
            return True
        is_stuck = len(way) > STUCK_STEPS and np.ptp(way[-STUCK_STEPS:], axis=0)[2] < STUCK_WAY
        if np.linalg.norm(offset[:2]) > AT_GRASP[0] or hand.angle_to(grasp.mat) > ANGLE_TOLERANCE:
            return False
        return bool(offset[2] < AT_GRASP[1] or (is_stuck and offset[2] < MAX_SHORT_OF_GRASP))

    yield from hand.steer(through_funnel, grasp.mat, tolerance=0.0, stop=is_there, max_steps=80)
    if np.linalg.norm(place() - hand.pos) > MAX_MISS:
        return False
    yield from hand.close(style.close_steps)
    lifted = hand.pos + np.array([0.0, 0.0, 0.05])
    yield from hand.reach(lambda: lifted, tolerance=0.025, max_steps=15)
    return bool(obj.pos[2] > start_height + MIN_LIFT)


def carry(hand: Hand, obj: SceneObject, target: Target, placement: Placement, style: Style) -> Trial:
    """
    Carry the held object to above its target.

    :param hand: the gripper
    :param obj: the object
    :param target: where it goes
    :param placement: how it is put down there
    :param style: style of the motion
    :return: whether it is still in the hand
    """
    held = place_in_hand(hand, obj)

    def has_lost() -> bool:
        return bool(np.linalg.norm(place_in_hand(hand, obj) - held) > MAX_SLIP)

    obstacles = Obstacles(hand.core, obj)
    start, goal = obj.pos, target.point() + placement.offset
    tip = float(hand.pos[2] - obj.bottom())
    way = max(
        obstacles.highest_along(start, goal, obj.radius()),
        obstacles.highest_along(hand.pos, goal + hand.pos - start, HAND_RADIUS) - tip - HAND_HEIGHT,
        goal[2],
        target.rim,
    )
    height = way + CLEARANCE + style.height / 3

    aside = np.zeros(3) if target.is_narrow else style.place_offset

    def upwards() -> Float64Array:
        return np.array([0.0, 0.0, max(height - obj.bottom(), 0.0)])

    def across() -> Float64Array:
        offset = target.point() + placement.offset + aside - obj.pos
        return np.array([offset[0], offset[1], height - obj.bottom()])

    yield from hand.steer(upwards, tolerance=0.025, stop=has_lost)
    mat = None
    if placement.turn or target.is_narrow:  # what the object has turned in the hand is made good
        turn = rotation_vector(placement.mat @ obj.mat.T)
        mat = about_vertical(float(turn[2])) @ hand.mat
    tolerance = 0.006 if target.is_narrow else 0.02
    yield from hand.steer(across, mat, tolerance, stop=has_lost, max_steps=100)
    return not has_lost()


def lower_and_release(
    hand: Hand, obj: SceneObject, target: Target, placement: Placement, atom: Atom, style: Style
) -> Motion:
    """
    Lower the held object onto its target, let go and withdraw.

    :param hand: the gripper
    :param obj: the object
    :param target: where it goes
    :param placement: how it is put down there
    :param atom: atom to fulfil
    :param style: style of the motion
    """
    aside = np.zeros(3) if target.is_narrow else style.place_offset
    is_dropped = placement.offset[2] > PRESS_DEPTH
    held = place_in_hand(hand, obj)

    def is_over() -> bool:
        # do not press down an object that is caught on something
        has_slipped = np.linalg.norm(place_in_hand(hand, obj) - held) > MAX_SLIP_LOWERING
        return bool(has_slipped) or (atom.predicate == "on" and holds(hand, atom))

    def remaining() -> Float64Array:
        offset = target.point() + placement.offset + aside - obj.pos
        offset[2] += obj.pos[2] - obj.bottom() - (0.0 if is_dropped else PRESS_DEPTH)
        return offset

    yield from hand.lower(remaining, stop=is_over)
    yield from hand.open()
    yield from hand.rise(RETREAT_HEIGHT)


def place_in_hand(hand: Hand, obj: SceneObject) -> Float64Array:
    """
    Compute an object's position in the hand's frame (m), (3,).

    :param hand: the gripper
    :param obj: the object
    """
    return np.asarray(hand.mat.T @ (obj.pos - hand.pos))


def holds(hand: Hand, atom: Atom) -> bool:
    """
    Tell whether an atom of the goal holds now.

    :param hand: the gripper
    :param atom: the atom
    """
    return hand.core.goal.evaluate(hand.core.data)[atom.text]


def _share(hand: Hand, atom: Atom) -> tuple[int, int]:
    """Number an atom's object among those that go to the same region, and count them."""
    same = [other for other in hand.core.goal.atoms if other.target_site and other.target_site == atom.target_site]
    return (same.index(atom), len(same)) if same else (0, 1)
