"""Push an object away from where a drawer is about to open, over or into it."""

from __future__ import annotations

import numpy as np

from vla_gym.experts.articulated import goal_position
from vla_gym.experts.geometry import SceneObject
from vla_gym.experts.hand import DOWN, Hand, Motion
from vla_gym.experts.part import Part
from vla_gym.experts.pick_place_scene import PickPlaceScene
from vla_gym.experts.style import Style
from vla_gym.spec import GRIPPER_CLOSE, GRIPPER_OPEN
from vla_gym.tasks.goals import JOINT_RULES, Atom
from vla_gym.type_aliases import Float64Array

MIN_DISTANCE = 0.025
"""Horizontal distance (m) of an object's middle from an open drawer from which on the hand has room to grasp it."""
GOOD_DISTANCES = (0.05, 0.04, 0.03)
"""Distances (m) to which it is pushed, if there is room."""
FINGER_HALF_DEPTH = 0.012
GAP = 0.015
"""How far (m) beside the object the fingers come down."""
TIP_DEPTH = 0.018
"""How far (m) below the object's top they push."""
MAX_STEPS = 20


def clear(hand: Hand, obj: SceneObject, opening: Atom, style: Style) -> Motion:
    """
    Push an object aside, if it lies where a drawer will be and there is room for it and for the hand.

    :param hand: the gripper
    :param obj: the object
    :param opening: the atom ``(Open a)`` that is to be fulfilled next
    :param style: style of the motion
    """
    part = Part(hand.core, opening.joints[0])
    if not part.is_slide:
        return
    goal = goal_position(JOINT_RULES[opening.category][opening.predicate], part.range)
    distance, direction = _distance(obj.pos, part, goal)
    if distance > MIN_DISTANCE:
        return
    start = obj.pos
    beside = start - direction * (_extent(obj, -direction) + FINGER_HALF_DEPTH + GAP)
    beside[2] = obj.top() - TIP_DEPTH
    scene = PickPlaceScene(hand.core, obj)
    scene.reset(is_open=False)
    lengths = (good - distance for good in GOOD_DISTANCES)
    length = next((length for length in lengths if _is_free(scene, obj, beside, length * direction)), None)
    if length is None:
        return
    above = np.append(beside[:2], obj.top() + style.height)

    def is_clear() -> bool:
        return bool((obj.pos - start) @ direction > length)

    hand.gripper = GRIPPER_CLOSE
    yield from hand.reach(lambda: above, DOWN, tolerance=0.03)
    yield from hand.reach(lambda: beside, tolerance=0.01)
    end = beside + direction * (length + GAP + FINGER_HALF_DEPTH)
    yield from hand.reach(lambda: end, tolerance=0.005, stop=is_clear, max_steps=MAX_STEPS)
    hand.gripper = GRIPPER_OPEN
    yield from hand.rise(style.height)


def _distance(point: Float64Array, part: Part, goal: float) -> tuple[float, Float64Array]:
    """
    Horizontal distance (m) of a point from a drawer pulled out to ``goal``, negative where it is inside, and the
    direction to the nearer side of it, (3,); infinite in front of the drawer.
    """
    outwards = part.outwards()
    aside = np.cross(np.array([0.0, 0.0, 1.0]), outwards)
    corners = part.obj.boxes().corners() + abs(goal - part.qpos) * outwards
    if point @ outwards > (corners @ outwards).max():
        return np.inf, aside
    low, high = float((corners @ aside).min()), float((corners @ aside).max())
    beyond_low, beyond_high = low - float(point @ aside), float(point @ aside) - high
    return (beyond_low, -aside) if beyond_low > beyond_high else (beyond_high, aside)


def _is_free(scene: PickPlaceScene, obj: SceneObject, beside: Float64Array, way: Float64Array) -> bool:
    """Tell whether an object and the hand beside it can move along a path (m), (3,), without touching anything."""
    for share in (0.0, 0.5, 1.0):
        scene.put_object(obj.pos + share * way, obj.mat)
        if not scene.can_reach(beside + share * way, DOWN) or scene.crowding(holds_object=True) is None:
            return False
    return True


def _extent(obj: SceneObject, direction: Float64Array) -> float:
    """Measure how far (m) an object extends from its origin in a direction."""
    return float(((obj.boxes().corners() - obj.pos) @ direction).max())
