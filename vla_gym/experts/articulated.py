"""
Open, close and turn the parts of fixtures: drawers, doors and knobs.

All are the same motion. A hold is a pose of the hand that is fixed to the part, so the joint tells where the part takes
it. The hand is steered to where the part should be a little later, until the goal holds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vla_gym.experts.hand import ANGLE_TOLERANCE, Hand, Motion, rotation_vector
from vla_gym.experts.holds import MIN_DROP, STANDOFF, Hold, find_hold
from vla_gym.experts.part import Part
from vla_gym.experts.style import Style
from vla_gym.spec import GRIPPER_CLOSE, GRIPPER_OPEN
from vla_gym.tasks.goals import JOINT_RULES, Atom, JointRule
from vla_gym.type_aliases import Float64Array

MAX_MARGIN = 0.15
"""Largest distance (m or rad) beyond its threshold that a joint is moved."""
LOOKAHEAD = 0.045
"""How far (m) the hand is steered ahead of the part."""
MAX_LOOKAHEAD_ANGLE = 0.35
"""The same (rad), for the parts that turn in place."""
MAX_SLIP = 0.045
"""Distance (m) of the hand from its place on the part at which it has lost the part."""
MAX_TRIES = 3
MAX_DRIVE_STEPS = 120
STUCK_STEPS = 15
STUCK_WAY = 0.002
"""A part is stuck when it moves less than this (m or rad) in ``STUCK_STEPS`` control steps."""


def move_joint(hand: Hand, atom: Atom, style: Style) -> Motion:
    """
    Fulfil ``(Open a)``, ``(Close a)``, ``(Turnon a)`` or ``(Turnoff a)``.

    :param hand: the gripper
    :param atom: the atom
    :param style: style of the motion
    """
    rule = JOINT_RULES[atom.category][atom.predicate]
    part = Part(hand.core, atom.joints[0])
    goal = goal_position(rule, part.range)
    for attempt in range(MAX_TRIES):
        if rule(part.qpos):
            return
        # if pushing does not shut it, use the handle
        hold = find_hold(hand.core, part, goal, pushes=atom.predicate == "close" and attempt < 1)
        if hold is None:
            return
        hold = replace(hold, pos=hold.pos + part.obj.mat.T @ style.grasp_offset)
        yield from take_hold(hand, part, hold, style)
        yield from drive_joint(hand, part, hold, goal)
        yield from retreat(hand, part, hold)


def goal_position(rule: JointRule, limits: Float64Array) -> float:
    """
    Choose a joint position that fulfils a rule with a margin.

    :param rule: the rule
    :param limits: lowest and highest position (m or rad), (2,)
    """
    beyond = 0.5 * float(limits[1 if rule.above else 0] - rule.threshold)
    return rule.threshold + float(np.clip(beyond, -MAX_MARGIN, MAX_MARGIN))


def take_hold(hand: Hand, part: Part, hold: Hold, style: Style) -> Motion:
    """
    Bring the hand to a part, from above and then from outside.

    :param hand: the gripper
    :param part: the part
    :param hold: where
    :param style: style of the motion
    """
    mat = part.obj.mat @ hold.mat

    def place() -> Float64Array:
        return part.obj.pos + part.obj.mat @ hold.pos

    def before() -> Float64Array:
        return place() + part.obj.mat @ hold.approach

    top = max(hand.pos[2], before()[2] + MIN_DROP + style.height)

    def above() -> Float64Array:
        return np.array([*before()[:2], top])

    hand.gripper = GRIPPER_OPEN if hold.grips else GRIPPER_CLOSE
    yield from hand.reach(above, mat, tolerance=0.03)
    yield from hand.reach(before, mat, tolerance=0.015)
    yield from hand.lower(lambda: place() - hand.pos, tolerance=0.007)
    if hold.grips:
        yield from hand.close(style.close_steps)


def drive_joint(hand: Hand, part: Part, hold: Hold, goal: float) -> Motion:
    """
    Move a part on its joint until it reaches the goal, the hand has lost it, or it is stuck.

    :param hand: the gripper
    :param part: the part
    :param hold: where the hand is on it
    :param goal: goal position of its joint (m or rad)
    """
    above = goal > part.qpos
    way: list[float] = []
    for _ in range(MAX_DRIVE_STEPS):
        pos = part.obj.pos + part.obj.mat @ hold.pos
        way.append(part.qpos)
        is_stuck = len(way) > STUCK_STEPS and abs(way[-1] - way[-STUCK_STEPS]) < STUCK_WAY
        is_there = part.qpos > goal if above else part.qpos < goal
        if is_there or is_stuck or np.linalg.norm(hand.pos - pos) > MAX_SLIP:
            return
        ahead = min(LOOKAHEAD / float(np.linalg.norm(part.jacobian(pos))), MAX_LOOKAHEAD_ANGLE)
        target, mat = part.moved(pos, part.obj.mat @ hold.mat, ahead if above else -ahead)
        turn = rotation_vector(mat @ hand.mat.T)
        is_turned = float(np.linalg.norm(turn)) < ANGLE_TOLERANCE
        yield hand.command(target + hold.press - hand.pos, np.zeros(3) if is_turned else turn)


def retreat(hand: Hand, part: Part, hold: Hold) -> Motion:
    """
    Release a part, and leave it the way the hand came.

    :param hand: the gripper
    :param part: the part
    :param hold: where the hand is on it
    """
    if hold.grips:
        yield from hand.open()
    direction = part.obj.mat @ hold.approach / np.linalg.norm(hold.approach)
    away = hand.pos + STANDOFF * direction
    yield from hand.lower(lambda: away - hand.pos, tolerance=0.02)
    hand.gripper = GRIPPER_OPEN
    up = hand.pos + np.array([0.0, 0.0, STANDOFF])
    yield from hand.reach(lambda: up, tolerance=0.03, max_steps=15)
