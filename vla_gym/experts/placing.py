"""Pick an object up and put it on or into something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vla_gym.experts.geometry import Obstacles, Thing
from vla_gym.experts.grasps import choose_grasp, find_grasps
from vla_gym.experts.hand import Hand, Live, Motion, Trial
from vla_gym.experts.style import Style
from vla_gym.tasks.goals import Atom
from vla_gym.type_aliases import Float64Array

MAX_REGRASPS = 3
MAX_SLIP = 0.03
"""How far (m) a held object may move in the hand before it counts as lost."""
CORRIDOR = 0.1
"""Half width (m) of the way that must be clear when an object is carried."""
CLEARANCE = 0.02
PRESS_DEPTH = 0.012
"""How far (m) below the surface to aim when lowering, so that contact is certain."""
RETREAT_HEIGHT = 0.1


@dataclass(frozen=True)
class Target:
    """
    Where an object shall go.

    :param point: where the middle of its underside shall come to rest (m), (3,)
    :param rim: height (m) of what the object has to be lifted over there
    """

    point: Live
    rim: Callable[[], float]


def target_of(hand: Hand, atom: Atom) -> Target:
    """
    Where the first argument of ``(On a b)`` or ``(In a b)`` shall go.

    :param hand: the gripper
    :param atom: the atom
    """
    core, data = hand.core, hand.core.data
    if atom.target_body:
        support = Thing(core, atom.target_body)

        def on_object() -> Float64Array:
            points = support.points()
            near = np.linalg.norm(points[:, :2] - support.pos[:2], axis=1) < 0.03
            surface = points[near if near.any() else slice(None), 2].max()
            return np.array([*support.pos[:2], surface])

        return Target(on_object, support.top)
    site = core.model.site(atom.target_site).id
    half = np.array(atom.target_size)

    def in_region() -> Float64Array:
        pos, mat = data.site_xpos[site], data.site_xmat[site].reshape(3, 3)
        lowest = pos[2] - float(np.abs(mat[2]) @ half) if atom.predicate == "in" else pos[2]
        return np.array([pos[0], pos[1], lowest])

    if not atom.target_geoms:  # a region of a table
        return Target(in_region, lambda: float(in_region()[2]))
    owner = Thing(core, core.model.body(int(core.model.site_bodyid[site])).name)

    def rim() -> float:
        if atom.predicate != "in" or len(owner.geoms) == 0:
            return float(in_region()[2])
        points = owner.points()
        near = np.linalg.norm(points[:, :2] - in_region()[:2], axis=1) < np.linalg.norm(half[:2]) + 0.03
        return float(points[near, 2].max()) if near.any() else float(in_region()[2])

    return Target(in_region, rim)


def pick_and_place(hand: Hand, atom: Atom, style: Style) -> Motion:
    """
    Fulfil ``(On a b)`` or ``(In a b)``: grasp from above, carry over everything on the way, lower, let go.

    :param hand: the gripper
    :param atom: the atom
    :param style: how
    """
    thing = Thing(hand.core, atom.body)
    target = target_of(hand, atom)
    for attempt in range(1 + MAX_REGRASPS):
        if not (yield from pick(hand, thing, style, attempt)):
            continue
        if (yield from carry(hand, thing, target, style)):
            yield from lower_and_release(hand, thing, target, atom, style)
            return
        yield from hand.open()
        yield from hand.rise(RETREAT_HEIGHT)


def pick(hand: Hand, thing: Thing, style: Style, attempt: int = 0) -> Trial:
    """
    Grasp an object and lift it a little.

    :param hand: the gripper
    :param thing: the object
    :param style: how
    :param attempt: the later, the further down the list of grasps
    :return: whether it is in the hand
    """
    grasps = find_grasps(hand.core, thing)
    grasp = choose_grasp(grasps, (style.choice + 0.37 * attempt) % 1.0)
    if grasp is None:
        return False
    start_height = thing.pos[2]

    def place() -> Float64Array:
        return thing.pos + thing.mat @ grasp.pos + style.grasp_offset

    up = np.array([0.0, 0.0, style.height])
    safe = max(place()[2] + style.height, Obstacles(hand.core, thing).highest_along(hand.pos, place(), 0.06) + 0.03)
    if hand.pos[2] < safe - 0.02:
        yield from hand.rise(safe - hand.pos[2])
    over = np.array([0.0, 0.0, max(safe - place()[2], style.height)])
    yield from hand.reach(lambda: place() + over, grasp.mat, tolerance=0.02)
    yield from hand.reach(lambda: place() + up, grasp.mat, tolerance=0.012)
    yield from hand.reach(place, grasp.mat, tolerance=0.005, max_steps=40)
    yield from hand.close(style.close_steps)
    lifted = hand.pos + np.array([0.0, 0.0, 0.03])
    yield from hand.reach(lambda: lifted, tolerance=0.01, max_steps=20)
    if thing.pos[2] > start_height + 0.01:
        return True
    yield from hand.open()
    yield from hand.rise(RETREAT_HEIGHT)
    return False


def carry(hand: Hand, thing: Thing, target: Target, style: Style) -> Trial:
    """
    Bring the held object to above its target.

    :param hand: the gripper
    :param thing: the object
    :param target: where it shall go
    :param style: how
    :return: whether it is still in the hand
    """
    held = thing.pos - hand.pos

    def has_lost() -> bool:
        return bool(np.linalg.norm(thing.pos - hand.pos - held) > MAX_SLIP)

    def over_target() -> Float64Array:
        goal = target.point() + style.place_offset
        return np.array([goal[0], goal[1], max(goal[2], target.rim())]) - middle_of_underside(thing)

    obstacles = Obstacles(hand.core, thing)
    goal = target.point()
    way = max(obstacles.highest_along(thing.pos, goal, CORRIDOR), goal[2], target.rim())
    height = way + CLEARANCE + style.height / 2

    def upwards() -> Float64Array:
        return np.array([0.0, 0.0, max(height - thing.bottom(), 0.0)])

    def across() -> Float64Array:
        offset = over_target()
        return np.array([offset[0], offset[1], height - thing.bottom()])

    yield from hand.steer(upwards, tolerance=0.02, stop=has_lost)
    yield from hand.steer(across, tolerance=0.012, stop=has_lost, max_steps=100)
    return not has_lost()


def lower_and_release(hand: Hand, thing: Thing, target: Target, atom: Atom, style: Style) -> Motion:
    """
    Lower the held object onto its target, let go and withdraw.

    :param hand: the gripper
    :param thing: the object
    :param target: where it shall go
    :param atom: what shall hold in the end
    :param style: how
    """

    def remaining() -> Float64Array:
        below = target.point() + style.place_offset - [0.0, 0.0, PRESS_DEPTH]
        return np.asarray(below - middle_of_underside(thing))

    yield from hand.lower(remaining, stop=lambda: atom.predicate == "on" and holds(hand, atom))
    yield from hand.open()
    yield from hand.rise(RETREAT_HEIGHT)


def middle_of_underside(thing: Thing) -> Float64Array:
    """
    Where an object would touch a table: the middle of its outline at its lowest height (m), (3,).

    :param thing: the object
    """
    points = thing.points()
    return np.append(0.5 * (points[:, :2].min(axis=0) + points[:, :2].max(axis=0)), points[:, 2].min())


def holds(hand: Hand, atom: Atom) -> bool:
    """
    Whether an atom of the goal holds now.

    :param hand: the gripper
    :param atom: the atom
    """
    return hand.core.goal.evaluate(hand.core.data)[atom.text]
