"""
``ScriptedExpert``: solves tasks from privileged simulator state through the environment's own commands.

The expert fulfils a goal atom by atom; ``SKILLS`` maps each predicate to a motion. A task whose goal uses known
predicates needs no new code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np

from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.errors import UnknownNameError
from vla_gym.experts.articulated import move_joint
from vla_gym.experts.clearing import clear
from vla_gym.experts.geometry import SceneObject
from vla_gym.experts.hand import Hand, Motion, capped
from vla_gym.experts.placing import pick_and_place
from vla_gym.experts.style import Style
from vla_gym.sim.core import SimCore
from vla_gym.tasks.goals import JOINT_RULES, SPELLING, Atom, Goal
from vla_gym.tasks.registry import SETTLE_COMMAND
from vla_gym.type_aliases import Float64Array

MAX_ROUNDS = 4
"""Passes over the list of atoms; a later skill may undo what an earlier one did."""

Skill = Callable[[Hand, Atom, Style], Motion]
SKILLS: Mapping[str, Skill] = MappingProxyType(
    {
        "on": pick_and_place,
        "in": pick_and_place,
        "open": move_joint,
        "close": move_joint,
        "turnon": move_joint,
        "turnoff": move_joint,
    }
)
"""Predicate -> motion that fulfils it."""
ORDER = ("open", "turnon", "turnoff", "in", "on", "close")
"""Predicates in the order in which they are fulfilled: drawers are opened first and closed last."""


class ScriptedExpert:
    """
    Solve tasks whose predicates are in ``SKILLS``, each episode in a different style.

    :param env: ``LiberoEnv``, wrapped or not
    :param rng: generator of styles and noise
    :param action_noise: standard deviation of normal noise on translation commands, unitless
    :raises TypeError: for another environment
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
        Plan from the environment's current state, in a new style; call it after every reset of the environment.

        :raises UnknownNameError: if the expert cannot reach the goal of the current task
        """
        self._motion = self._start()

    def _start(self) -> Motion:
        atoms = self._env.bundle.goal
        for atom in atoms:
            if atom.predicate not in SKILLS:
                raise UnknownNameError("predicate of the scripted expert", atom.text, [SPELLING[p] for p in SKILLS])
        self.style = Style.sample(self._rng)
        return solve(Hand(self._env.core, self.style.speed), atoms, self.style)

    def act(self) -> Float64Array:
        """
        Compute the command for the current state; call it once per control step. After the plan's end the hand rests,
        open.

        :raises UnknownNameError: same as ``reset``, which the first call calls
        :return: translation and rotation in [-1, 1], gripper -1 or +1, (7,) float64
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


def solve(hand: Hand, atoms: tuple[Atom, ...], style: Style) -> Motion:
    """
    Fulfil every atom of a goal that does not hold.

    :param hand: the gripper
    :param atoms: the goal
    :param style: how
    """
    core = hand.core
    for _ in range(MAX_ROUNDS):
        for atom in in_order(atoms):
            if is_met(core, atom):
                continue
            opening = opening_before(core, atom)
            if opening is not None and not is_met(core, opening):
                yield from clear(hand, SceneObject(core, atom.body), opening, style)
                yield from SKILLS[opening.predicate](hand, opening, style)
            yield from SKILLS[atom.predicate](hand, atom, style)
        if core.is_success():
            return


def is_met(core: SimCore, atom: Atom) -> bool:
    """
    Tell whether an atom, of the goal or not, holds now.

    :param core: the simulation
    :param atom: the atom
    """
    return Goal((atom,), core.model).is_satisfied(core.data)


def opening_before(core: SimCore, atom: Atom) -> Atom | None:
    """
    Find what must be open before an atom can be fulfilled: the drawer or door of the target.

    :param core: the simulation
    :param atom: the atom
    :return: the atom ``(Open a)``; None if nothing can be opened
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


def in_order(atoms: tuple[Atom, ...]) -> list[Atom]:
    """
    Sort atoms in the order in which they are fulfilled.

    An object is put in its place before anything is put on it.

    :param atoms: the goal
    """
    moved = {atom.body for atom in atoms if atom.predicate in ("in", "on")}
    return sorted(atoms, key=lambda atom: (ORDER.index(atom.predicate), atom.target_body in moved))
