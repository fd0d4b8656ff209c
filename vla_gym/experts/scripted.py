"""
``ScriptedExpert``: solves tasks from privileged simulator state through the environment's own commands.

Adding a goal is a row in ``PLANS`` where it is a bowl to be put somewhere, else a new plan function and its row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np

from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.errors import UnknownNameError
from vla_gym.experts.primitives import Hand, Motion, capped
from vla_gym.tasks.goals import Atom
from vla_gym.tasks.registry import SETTLE_COMMAND
from vla_gym.type_aliases import Float64Array

MAX_REGRASPS = 2
SPEED_RANGE = (0.65, 0.8)
AZIMUTH_RANGE = (np.deg2rad(70.0), np.deg2rad(110.0))
"""Where on the rim to grasp (rad); 90 degrees is +y, the side away from the cabinet, where the fingers straddle it."""
HEIGHT_RANGE = (0.03, 0.06)
CLOSE_STEPS_RANGE = (10, 12)
MAX_PLACE_OFFSET = 0.01

RIM_RADIUS, RIM_HEIGHT = 0.0485, 0.043
"""Grasp point on the bowl's wall, from its body origin (m)."""
PRESS_DEPTH = 0.01
"""How far (m) below the surface to aim when lowering, so that contact is certain."""
OPEN_STEPS = 6
RETREAT_HEIGHT = 0.08


@dataclass(frozen=True)
class Style:
    """
    What varies from episode to episode.

    :param speed: cap on the norm of a translation command
    :param azimuth: place on the rim where the bowl is grasped (rad), 0 is +x, pi / 2 is +y
    :param height: distance above a grasp or a surface to approach from (m)
    :param close_steps: control steps spent closing the gripper
    :param place_offset: where to put the object, from the centre of the target (m), (3,)
    """

    speed: float
    azimuth: float
    height: float
    close_steps: int
    place_offset: Float64Array

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Style:
        """
        Draw a style.

        :param rng: source of randomness
        """
        angle, radius = rng.uniform(0.0, 2.0 * np.pi), MAX_PLACE_OFFSET * np.sqrt(rng.uniform())
        return cls(
            speed=rng.uniform(*SPEED_RANGE),
            azimuth=rng.uniform(*AZIMUTH_RANGE),
            height=rng.uniform(*HEIGHT_RANGE),
            close_steps=int(rng.integers(CLOSE_STEPS_RANGE[0], CLOSE_STEPS_RANGE[1] + 1)),
            place_offset=radius * np.array([np.cos(angle), np.sin(angle), 0.0]),
        )


Plan = Callable[[Hand, Atom, Style], Motion]


def put_bowl(hand: Hand, atom: Atom, style: Style, surface: float) -> Motion:
    """
    Grasp the bowl by its rim and put it down; grasp anew if it slips.

    :param hand: the gripper
    :param atom: bowl and target
    :param style: how
    :param surface: height of the surface it comes to stand on above the target's origin (m)
    """
    data, goal = hand.core.data, hand.core.goal
    bowl = data.body(atom.body).xpos
    target = data.site(atom.target_site).xpos if atom.target_site else data.body(atom.target_body).xpos
    rim = np.array([RIM_RADIUS * np.cos(style.azimuth), RIM_RADIUS * np.sin(style.azimuth), RIM_HEIGHT])
    up = np.array([0.0, 0.0, style.height])
    down = np.array([0.0, 0.0, PRESS_DEPTH])

    for _ in range(1 + MAX_REGRASPS):
        yield from hand.reach(bowl + rim + up, tolerance=0.015)
        yield from hand.reach(bowl + rim, tolerance=0.005)
        yield from hand.close(style.close_steps)
        place = target + style.place_offset + [0.0, 0.0, surface]
        above_start = np.array([bowl[0], bowl[1], max(bowl[2], place[2])]) + up
        for via, tolerance in ((above_start, 0.015), (place + up, 0.012)):
            yield from hand.carry(bowl, via, tolerance, stop=lambda: hand.has_lost(bowl))
        if hand.has_lost(bowl):
            yield from hand.open(OPEN_STEPS)
            yield from hand.rise(RETREAT_HEIGHT)
            continue
        yield from hand.carry(bowl, place - down, 0.004, stop=lambda: goal.is_satisfied(data), max_steps=25)
        yield from hand.open(OPEN_STEPS)
        yield from hand.rise(RETREAT_HEIGHT)
        return


PLANS: Mapping[tuple[str, ...], Plan] = MappingProxyType(
    {
        ("(On akita_black_bowl_1 plate_1)",): partial(put_bowl, surface=0.004),
        ("(On akita_black_bowl_1 flat_stove_1_cook_region)",): partial(put_bowl, surface=0.024),
        ("(On akita_black_bowl_1 wooden_cabinet_1_top_side)",): partial(put_bowl, surface=0.0),
    }
)
"""Atoms of a goal, as BDDL files write them -> how to reach it."""


class ScriptedExpert:
    """
    Solves the tasks whose goals are in ``PLANS``; each episode with another style.

    :param env: ``LiberoEnv``, wrapped or not
    :param rng: source of the styles and the noise
    :param action_noise: standard deviation of normal noise on translation commands, unitless
    """

    def __init__(self, env: gym.Env[Any, Any], rng: np.random.Generator, action_noise: float = 0.0) -> None:
        unwrapped = env.unwrapped
        if not isinstance(unwrapped, LiberoEnv):
            raise TypeError(f"env is a {type(unwrapped).__name__}; the expert needs a LiberoEnv.")
        self._env = unwrapped
        self._rng = rng
        self._action_noise = action_noise
        self._motion: Motion | None = None
        self.style: Style | None = None

    def reset(self) -> None:
        """
        Start anew from the environment's current state, with a new style; to be called after every reset of it.

        :raises UnknownNameError: if the expert cannot reach the goal of the current task
        """
        self._motion = self._start()

    def _start(self) -> Motion:
        atoms = self._env.bundle.goal
        goal = tuple(atom.text for atom in atoms)
        if goal not in PLANS:
            raise UnknownNameError("goal of the scripted expert", " ".join(goal), map(" ".join, PLANS))
        self.style = Style.sample(self._rng)
        return PLANS[goal](Hand(self._env.core, self.style.speed), atoms[0], self.style)

    def act(self) -> Float64Array:
        """
        Command for the current state; call it once per control step. Rests with open gripper once the plan is over.

        :raises UnknownNameError: as ``reset``, which it calls the first time
        :return: translation and rotation (of exactly zero) in [-1, 1], gripper -1 or +1, (7,) float64
        """
        if self._motion is None:
            self._motion = self._start()
        command = next(self._motion, None)
        if command is None:
            return np.array(SETTLE_COMMAND)
        if self.style is not None and self._action_noise > 0.0:
            noise = self._rng.normal(0.0, self._action_noise, 3)
            command[:3] = capped(command[:3] + noise, self.style.speed)
        return command
