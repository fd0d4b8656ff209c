"""
Open, close and turn the parts of fixtures: drawers, doors and knobs.

All of them are the same motion. The part's geometry says where to take hold of it: by its handle to draw it out or to
turn it, from outside with closed fingers to shut it. That pose of the hand is fixed to the part, and the joint says
where the part takes it; the hand is steered to where the part shall be a little later, until the goal holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import mujoco
import numpy as np

from vla_gym.experts.articulation_scene import ArticulationScene
from vla_gym.experts.geometry import Boxes, Thing
from vla_gym.experts.hand import ANGLE_TOLERANCE, DOWN, Hand, Motion, rotation_vector
from vla_gym.experts.style import Style
from vla_gym.sim.controller import rotation_matrix
from vla_gym.sim.core import SimCore
from vla_gym.tasks.goals import JOINT_RULES, Atom, JointRule
from vla_gym.tasks.registry import GRIPPER_CLOSE, GRIPPER_OPEN
from vla_gym.type_aliases import Float64Array

MAX_MARGIN = 0.15
"""How far (m or rad) beyond its threshold a joint is moved at most."""
LEAD = 0.045
"""How far (m) the hand is steered ahead of the part."""
MAX_LEAD_ANGLE = 0.35
"""The same (rad), for the parts that turn in place."""
MAX_SLIP = 0.045
"""How far (m) the hand may get from its place on the part before it has lost it."""
STANDOFF = 0.09
"""Distance (m) from which a part is approached and to which the hand withdraws."""
MIN_DROP = 0.02
"""Least height (m) above the point of approach from which the hand comes down."""
PUSH_STANDOFF = 0.05
PUSH_DEPTH = 0.004
"""How deep (m) in the surface the fingertips are aimed, so that contact is certain."""
PUSH_PLACES = (-0.8, -0.5, -0.2, 0.2, 0.5, 0.8)
"""Where a door is pushed, from its middle (0) to its edges (1)."""
MAX_TRIES = 3
TILTS = np.deg2rad([0.0, 15.0, 30.0, 40.0, 50.0, 60.0, 75.0, 90.0])
"""Angles between the hand and the vertical that are tried."""
# beside a knob close to the robot's base, the forearm would have no room above an upright hand
KNOB_TILTS = np.deg2rad([0.0, 20.0, -20.0, 35.0, -35.0])
OVERLAP_COST = 100.0
"""What a metre of depth in something else costs, where a radian of turning the hand costs 1."""
REACH_COST = 100.0
"""What a metre out of reach costs."""
HOOK_COST = 1.0
"""What it costs that a handle is hooked, not gripped."""
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
KNOB_RADIUS = 0.04
"""A part whose middle is closer (m) than this to its axis is a knob."""
MAX_LEAD_STEPS = 120
STUCK_STEPS = 15
STUCK_WAY = 0.002
"""A part is stuck when it moves less than this (m or rad) in ``STUCK_STEPS`` control steps."""
UP = np.array([0.0, 0.0, 1.0])


class Part:
    """
    The moving part of a fixture.

    :param core: the simulation
    :param joint: name of the joint that it moves on
    """

    def __init__(self, core: SimCore, joint: str) -> None:
        self._data = core.data
        self._joint = core.model.joint(joint).id
        self.address = int(core.model.jnt_qposadr[self._joint])
        self.range: Float64Array = core.model.jnt_range[self._joint]
        self.is_slide = int(core.model.jnt_type[self._joint]) == int(mujoco.mjtJoint.mjJNT_SLIDE)
        self.thing = Thing(core, core.model.body(int(core.model.jnt_bodyid[self._joint])).name)

    @property
    def qpos(self) -> float:
        """Position of the joint (m or rad)."""
        return float(self._data.qpos[self.address])

    @property
    def axis(self) -> Float64Array:
        """Direction of the joint, (3,)."""
        return self._data.xaxis[self._joint].copy()

    def arm(self, point: Float64Array) -> Float64Array:
        """
        Way of a point per unit of the joint (m or m/rad), (3,).

        :param point: fixed to the part (m), (3,)
        """
        return self.axis if self.is_slide else np.cross(self.axis, point - self._data.xanchor[self._joint])

    def moved(self, point: Float64Array, mat: Float64Array, change: float) -> tuple[Float64Array, Float64Array]:
        """
        Where a pose that is fixed to the part gets when the joint moves.

        :param point: position now (m), (3,)
        :param mat: orientation now, (3, 3)
        :param change: of the joint (m or rad)
        """
        if self.is_slide:
            return point + change * self.axis, mat
        turn, anchor = rotation_matrix(change * self.axis), self._data.xanchor[self._joint]
        return anchor + turn @ (point - anchor), turn @ mat


@dataclass(frozen=True)
class Hold:
    """
    Where the hand is put to a part.

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


def move_joint(hand: Hand, atom: Atom, style: Style) -> Motion:
    """
    Fulfil ``(Open a)``, ``(Close a)``, ``(Turnon a)`` or ``(Turnoff a)``.

    :param hand: the gripper
    :param atom: the atom
    :param style: how
    """
    rule = JOINT_RULES[atom.category][atom.predicate]
    part = Part(hand.core, atom.joints[0])
    goal = goal_position(rule, part.range)
    for attempt in range(MAX_TRIES):
        if rule(part.qpos):
            return
        # what is not shut by pushing is shut by its handle
        hold = find_hold(hand.core, part, goal, pushes=atom.predicate == "close" and attempt < 1)
        if hold is None:
            return
        hold = replace(hold, pos=hold.pos + part.thing.mat.T @ style.grasp_offset)
        yield from take_hold(hand, part, hold, style)
        yield from lead(hand, part, hold, goal)
        yield from withdraw(hand, part, hold)


def opening_before(core: SimCore, atom: Atom) -> Atom | None:
    """
    What has to be open before an atom can be brought about: the drawer or the door of what something is put into.

    :param core: the simulation
    :param atom: the atom
    :return: the atom ``(Open a)``; None where nothing can be opened
    """
    category = next((name for name in JOINT_RULES if atom.target_site.startswith(name)), "")
    if atom.predicate != "in" or "open" not in JOINT_RULES.get(category, {}):
        return None
    model = core.model
    body = int(model.site_bodyid[model.site(atom.target_site).id])
    # a drawer's region moves with it, a microwave's does not move with the door
    joints = [j for j in range(model.njnt) if int(model.jnt_bodyid[j]) == body] or [
        j for j in range(model.njnt) if model.body_rootid[model.jnt_bodyid[j]] == model.body_rootid[body]
    ]
    names = tuple(model.joint(j).name for j in joints)
    return Atom("open", atom.arguments[1:], joints=names, category=category)


def goal_position(rule: JointRule, limits: Float64Array) -> float:
    """
    A joint position that fulfils a rule with a margin.

    :param rule: the rule
    :param limits: lowest and highest position (m or rad), (2,)
    """
    beyond = 0.5 * float(limits[1 if rule.above else 0] - rule.threshold)
    return rule.threshold + float(np.clip(beyond, -MAX_MARGIN, MAX_MARGIN))


def is_beyond(part: Part, above: bool, goal: float) -> bool:
    """
    Whether a joint has got to a position or further.

    :param part: the part that it moves
    :param above: whether further means more
    :param goal: the position (m or rad)
    """
    return part.qpos > goal if above else part.qpos < goal


def find_hold(core: SimCore, part: Part, goal: float, pushes: bool) -> Hold | None:
    """
    The place for the hand to move a part from that costs least.

    It costs to turn the hand, to ask for poses that the arm does not reach, and to be inside of something: above the
    part, before it, at it, and at the end, with the part where it shall be.

    :param core: the simulation
    :param part: the part
    :param goal: where its joint shall get (m or rad)
    :param pushes: whether to push with closed fingers instead of drawing
    :return: None if the part offers no place
    """
    outwards = _outwards(core, part)
    handle = _handle(core, part, outwards)
    holds = list(_pushes(core, part, handle, outwards) if pushes else _draws(core, part, handle, outwards))
    change = goal - part.qpos

    def turn(hold: Hold) -> float:
        mats = (hold.mat, part.moved(hold.pos, hold.mat, change)[1])
        return max(float(np.linalg.norm(rotation_vector(mat @ DOWN.T))) for mat in mats)

    scene = ArticulationScene(core)
    touchable = np.zeros(core.model.ngeom, dtype=bool)
    touchable[part.thing.geoms] = True
    nothing = np.zeros_like(touchable)
    height = float(core.data.site_xpos[core.robot.eef_site, 2])
    best, lowest = None, np.inf
    priced = [(turn(hold) + HOOK_COST * hold.press.any(), hold) for hold in holds]
    for cost, hold in sorted(priced, key=lambda pair: pair[0]):
        if cost > lowest:
            break
        scene.reset(hold.grips)
        before = hold.pos + hold.approach
        above = np.append(before[:2], max(before[2] + MIN_DROP, height))
        at_hold = nothing if hold.grips else touchable
        for pos, may_touch in ((above, nothing), (before, nothing), (hold.pos, at_hold)):
            cost += REACH_COST * scene.reach(pos, hold.mat) + OVERLAP_COST * scene.penetration(may_touch)
        scene.set_joint(part.address, goal)
        for pos, may_touch in ((hold.pos, touchable), (hold.pos + hold.approach, nothing)):
            cost += REACH_COST * scene.reach(*part.moved(pos, hold.mat, change))
            cost += OVERLAP_COST * scene.penetration(may_touch)
        if cost < lowest:
            best, lowest = hold, cost
    if best is None:
        return None
    frame = part.thing.mat.T
    return Hold(frame @ (best.pos - part.thing.pos), frame @ best.mat, best.grips, frame @ best.approach, best.press)


def _pushes(core: SimCore, part: Part, handle: Thing, outwards: Float64Array) -> Iterator[Hold]:
    """Ways of pushing a part from outside, in the world's frame."""
    for centre, face in _push_points(core, part, handle, outwards):
        for mat in _orientations(outwards):
            reach = np.abs(mat[:, :2].T @ outwards) @ CLOSED_HALF + max(0.0, -TIP_LENGTH * mat[:, 2] @ outwards)
            pos = centre + (face + float(reach) - PUSH_DEPTH) * outwards
            yield Hold(pos, mat, False, PUSH_STANDOFF * outwards, np.zeros(3))


def _push_points(
    core: SimCore, part: Part, handle: Thing, outwards: Float64Array
) -> Iterator[tuple[Float64Array, float]]:
    """Points (m) at which to push, with the distance (m) of the surface: a drawer's handle, places along a door."""
    if part.is_slide:
        points = handle.boxes().corners()
        centre = _grip_centre(points)
        yield centre, float((points @ outwards).max() - centre @ outwards)
        return
    panel = _panel(core, part)
    points = Boxes(core, np.array([panel])).corners()
    along = np.cross(UP, outwards)
    centre, half = _grip_centre(points), 0.5 * float(np.ptp(points @ along))
    for place in PUSH_PLACES:
        yield centre + place * half * along, float((points @ outwards).max() - centre @ outwards)


def _panel(core: SimCore, part: Part) -> int:
    """The largest collision geom of a part."""
    return int(part.thing.geoms[np.argmax(core.model.geom_aabb[part.thing.geoms, 3:].prod(axis=1))])


def _draws(core: SimCore, part: Part, handle: Thing, outwards: Float64Array) -> Iterator[Hold]:
    """Ways of drawing a part by its handle, in the world's frame."""
    points = handle.boxes().corners()
    centre = _grip_centre(points)
    is_knob = abs(outwards[2]) > 0.9
    for mat in _knob_orientations(core, handle) if is_knob else _orientations(outwards):
        if np.ptp(points @ mat[:, 0]) < MAX_HANDLE_WIDTH:
            yield Hold(centre + PAD_DEPTH * mat[:, 2], mat, True, -STANDOFF * mat[:, 2], np.zeros(3))
        elif not is_knob:
            # too wide to grip this way: the tips of the closed fingers go behind it, from above
            inside = centre @ outwards - (points @ outwards).min() + CLOSED_HALF[1]
            tip = centre - inside * outwards + (points[:, 2].max() - centre[2] - HOOK_DEPTH) * UP
            yield Hold(tip - TIP_LENGTH * mat[:, 2], mat, False, -STANDOFF * mat[:, 2], -HOOK_PRESS * UP)


def _grip_centre(points: Float64Array) -> Float64Array:
    """Where a handle is held: at its middle, if it is upright near its upper end (m), (3,)."""
    centre = 0.5 * (points.max(axis=0) + points.min(axis=0))
    centre[2] += max(0.0, 0.5 * float(np.ptp(points[:, 2])) - GRIP_DEPTH)
    return np.asarray(centre)


def take_hold(hand: Hand, part: Part, hold: Hold, style: Style) -> Motion:
    """
    Bring the hand to a part, from above and then from outside.

    :param hand: the gripper
    :param part: the part
    :param hold: where
    :param style: how
    """
    mat = part.thing.mat @ hold.mat

    def place() -> Float64Array:
        return part.thing.pos + part.thing.mat @ hold.pos

    def before() -> Float64Array:
        return place() + part.thing.mat @ hold.approach

    top = max(hand.pos[2], before()[2] + MIN_DROP + style.height)

    def above() -> Float64Array:
        return np.array([*before()[:2], top])

    hand.gripper = GRIPPER_OPEN if hold.grips else GRIPPER_CLOSE
    yield from hand.reach(above, mat, tolerance=0.03)
    yield from hand.reach(before, mat, tolerance=0.015)
    yield from hand.lower(lambda: place() - hand.pos, tolerance=0.007)
    if hold.grips:
        yield from hand.close(style.close_steps)


def lead(hand: Hand, part: Part, hold: Hold, goal: float) -> Motion:
    """
    Move a part on its joint, until it is where it shall be, or the hand has lost it, or it does not move any more.

    :param hand: the gripper
    :param part: the part
    :param hold: where the hand is on it
    :param goal: where its joint shall get (m or rad)
    """
    above = goal > part.qpos
    way: list[float] = []
    for _ in range(MAX_LEAD_STEPS):
        pos = part.thing.pos + part.thing.mat @ hold.pos
        way.append(part.qpos)
        is_stuck = len(way) > STUCK_STEPS and abs(way[-1] - way[-STUCK_STEPS]) < STUCK_WAY
        if is_beyond(part, above, goal) or is_stuck or np.linalg.norm(hand.pos - pos) > MAX_SLIP:
            return
        ahead = min(LEAD / float(np.linalg.norm(part.arm(pos))), MAX_LEAD_ANGLE)
        target, mat = part.moved(pos, part.thing.mat @ hold.mat, ahead if above else -ahead)
        turn = rotation_vector(mat @ hand.mat.T)
        is_turned = float(np.linalg.norm(turn)) < ANGLE_TOLERANCE
        yield hand.command(target + hold.press - hand.pos, np.zeros(3) if is_turned else turn)


def withdraw(hand: Hand, part: Part, hold: Hold) -> Motion:
    """
    Let go of a part, and leave it the way the hand came.

    :param hand: the gripper
    :param part: the part
    :param hold: where the hand is on it
    """
    if hold.grips:
        yield from hand.open()
    direction = part.thing.mat @ hold.approach / np.linalg.norm(hold.approach)
    away = hand.pos + STANDOFF * direction
    yield from hand.lower(lambda: away - hand.pos, tolerance=0.02)
    hand.gripper = GRIPPER_OPEN
    up = hand.pos + np.array([0.0, 0.0, STANDOFF])
    yield from hand.reach(lambda: up, DOWN, tolerance=0.03, max_steps=40)


def _outwards(core: SimCore, part: Part) -> Float64Array:
    """Direction in which the handle sticks out: the way in which a part opens, or the axis of a knob, (3,)."""
    points = part.thing.boxes().corners()
    middle = 0.5 * (points.max(axis=0) + points.min(axis=0))
    arm = part.arm(middle)
    if not part.is_slide and np.linalg.norm(arm) < KNOB_RADIUS:
        return np.asarray(part.axis * np.sign(part.axis[2]))
    # parts open towards the far end of their range
    opening = arm / np.linalg.norm(arm) * np.sign(part.range[int(np.argmax(np.abs(part.range)))])
    if part.is_slide:
        return np.asarray(opening)
    # a door: the normal of its panel
    panel = _panel(core, part)
    normal = core.data.geom_xmat[panel].reshape(3, 3)[:, int(np.argmin(core.model.geom_aabb[panel, 3:]))]
    return np.asarray(normal * np.sign(normal @ opening))


def _handle(core: SimCore, part: Part, outwards: Float64Array) -> Thing:
    """The collision geom of a part that sticks out furthest."""
    geoms = part.thing.geoms
    extents = [(Boxes(core, geoms[k : k + 1]).corners() @ outwards).max() for k in range(len(geoms))]
    handle = Thing(core, core.model.body(part.thing.body).name)
    handle.geoms = geoms[[int(np.argmax(extents))]]
    return handle


def _orientations(outwards: Float64Array) -> Iterator[Float64Array]:
    """Orientations of a hand that points down or inwards, (3, 3) each."""
    side = np.cross(UP, outwards)
    for tilt in TILTS:
        ahead = -np.cos(tilt) * UP - np.sin(tilt) * outwards
        for closing in (side, np.cross(side, ahead)):
            yield from _both_ways(closing, ahead)


def _knob_orientations(core: SimCore, handle: Thing) -> Iterator[Float64Array]:
    """Orientations of a hand that closes across the lever of a knob, (3, 3) each."""
    frame = core.data.geom_xmat[handle.geoms[0]].reshape(3, 3)
    for closing in (column for column in frame.T if abs(column[2]) < 0.1):
        for tilt in KNOB_TILTS:
            yield from _both_ways(closing, -np.cos(tilt) * UP + np.sin(tilt) * np.cross(UP, closing))


def _both_ways(closing: Float64Array, ahead: Float64Array) -> Iterator[Float64Array]:
    for x in (closing, -closing):
        yield np.column_stack([x, np.cross(ahead, x), ahead])
