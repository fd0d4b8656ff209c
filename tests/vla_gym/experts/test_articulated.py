"""Drawers, doors and knobs are moved by their handles, or pushed shut, wherever their goals need it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import vla_gym  # noqa: F401
from vla_gym.experts.articulated import goal_position, move_joint
from vla_gym.experts.hand import Hand, Motion
from vla_gym.experts.part import Part
from vla_gym.experts.scripted import ScriptedExpert, is_met
from vla_gym.experts.style import Style
from vla_gym.sim.core import SimCore
from vla_gym.tasks.goals import JOINT_RULES, Atom

DRAWERS = ("top", "middle", "bottom")
STOVE = Atom("turnon", ("flat_stove_1",), joints=("flat_stove_1_button",), category="flat_stove")


def drawer(predicate: str, level: str) -> Atom:
    joints = (f"wooden_cabinet_1_{level}_level",)
    return Atom(predicate, (f"wooden_cabinet_1_{level}_region",), joints=joints, category="wooden_cabinet")


def carry_out(core: SimCore, motion: Motion, n_steps: int) -> np.ndarray:
    commands = []
    for command in motion:
        core.step(command)
        commands.append(command)
        if len(commands) == n_steps:
            break
    return np.array(commands)


def move(core: SimCore, atom: Atom, seed: int = 0, n_steps: int = 250) -> np.ndarray:
    style = Style.sample(np.random.default_rng(seed))
    return carry_out(core, move_joint(Hand(core, style.speed), atom, style), n_steps)


def solves(env: gym.Env, task_id: int, init_state_id: int) -> bool:
    env.reset(options={"task_id": task_id, "init_state_id": init_state_id})
    expert = ScriptedExpert(env, np.random.default_rng(init_state_id))
    is_over = success = False
    while not is_over:
        _, _, success, truncated, _ = env.step(expert.act())
        is_over = success or truncated
    return bool(success)


@pytest.mark.parametrize("task_id", [0, 7])
def test_solves_the_joint_tasks_of_libero_goal(env: gym.Env, task_id: int) -> None:
    assert all(solves(env, task_id, init_state_id) for init_state_id in (0, 23))


@pytest.mark.parametrize("level", DRAWERS)
def test_opens_a_drawer_and_leaves_it(start, level: str) -> None:
    core, atom = start(), drawer("open", level)
    commands = move(core, atom)
    assert is_met(core, atom)
    assert np.linalg.norm(commands[:, :3], axis=1).max() < 1.0
    hand = core.data.site_xpos[core.robot.eef_site]
    handle = Part(core, atom.joints[0]).obj.boxes().corners()
    assert np.linalg.norm(handle - hand, axis=1).min() > 0.05


@pytest.mark.parametrize("level", ["top", "middle"])  # where the bottom one opens, the bowl stands
def test_shuts_a_drawer(start, level: str) -> None:
    atom = drawer("close", level)
    core = start(**{atom.joints[0]: -0.15})
    assert not is_met(core, atom)
    move(core, atom)
    assert is_met(core, atom)


def test_turns_a_knob_back(start) -> None:
    core = start(flat_stove_1_button=1.2)
    off = Atom("turnoff", STOVE.arguments, joints=STOVE.joints, category=STOVE.category)
    assert is_met(core, STOVE)
    move(core, off)
    assert is_met(core, off)


def test_styles_differ(start) -> None:
    one, other = (move(start(), STOVE, seed, n_steps=20) for seed in (0, 1))
    assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize(
    ("category", "limits"),
    [("microwave", (-2.094, 0.0)), ("white_cabinet", (-0.16, 0.01)), ("flat_stove", (-0.005, 2.1))],
)
def test_goal_position_fulfils_the_rule_within_the_limits(category: str, limits: tuple[float, float]) -> None:
    for rule in JOINT_RULES[category].values():
        position = goal_position(rule, np.array(limits))
        assert rule(position)
        assert limits[0] < position < limits[1]


@pytest.mark.slow
@pytest.mark.parametrize("task_id", [0, 6, 11, 20, 22, 28, 33, 35, 39, 44])
def test_solves_the_joint_tasks_of_libero_90(task_id: int) -> None:
    env = gym.make("LIBERO-90-v0", task_ids=[task_id], action_type="continuous", cameras=(), assets="primitive")
    try:
        assert sum(solves(env, task_id, init_state_id) for init_state_id in (0, 10, 20, 30, 40)) >= 4
    finally:
        env.close()
