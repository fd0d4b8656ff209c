"""Drawers, doors and knobs are moved by their handles, or pushed shut, wherever their goals need it."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium as gym
import mujoco
import numpy as np
import pytest

import vla_gym  # noqa: F401
from vla_gym.experts.articulated import Part, goal_position, move_joint, opening_before
from vla_gym.experts.hand import Hand, Motion
from vla_gym.experts.scripted import ScriptedExpert, is_met
from vla_gym.experts.style import Style
from vla_gym.sim.core import SimCore
from vla_gym.tasks.goals import JOINT_RULES, Atom

DRAWERS = ("top", "middle", "bottom")
STOVE = Atom("turnon", ("flat_stove_1",), joints=("flat_stove_1_button",), category="flat_stove")


@pytest.fixture(scope="module")
def env() -> Iterator[gym.Env]:
    env = gym.make("LIBERO-Goal-v0", task_ids=[0, 3, 7, 8], action_type="continuous", cameras=(), assets="primitive")
    yield env
    env.close()


def drawer(predicate: str, level: str) -> Atom:
    joints = (f"wooden_cabinet_1_{level}_level",)
    return Atom(predicate, (f"wooden_cabinet_1_{level}_region",), joints=joints, category="wooden_cabinet")


def start(env: gym.Env, task_id: int = 8, init_state_id: int = 0, **joints: float) -> SimCore:
    env.reset(options={"task_id": task_id, "init_state_id": init_state_id})
    core: SimCore = env.unwrapped.core
    state = core.get_state()
    for name, value in joints.items():
        state[1 + int(core.model.joint(name).qposadr[0])] = value
    core.set_state(state)
    return core


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
def test_opens_a_drawer_and_leaves_it(env: gym.Env, level: str) -> None:
    core, atom = start(env), drawer("open", level)
    commands = move(core, atom)
    assert is_met(core, atom)
    assert np.linalg.norm(commands[:, :3], axis=1).max() < 1.0
    hand = core.data.site_xpos[core.robot.eef_site]
    handle = Part(core, atom.joints[0]).thing.boxes().corners()
    assert np.linalg.norm(handle - hand, axis=1).min() > 0.05


@pytest.mark.parametrize("level", ["top", "middle"])  # where the bottom one opens, the bowl stands
def test_shuts_a_drawer(env: gym.Env, level: str) -> None:
    atom = drawer("close", level)
    core = start(env, **{atom.joints[0]: -0.15})
    assert not is_met(core, atom)
    move(core, atom)
    assert is_met(core, atom)


def test_turns_a_knob_back(env: gym.Env) -> None:
    core = start(env, flat_stove_1_button=1.2)
    off = Atom("turnoff", STOVE.arguments, joints=STOVE.joints, category=STOVE.category)
    assert is_met(core, STOVE)
    move(core, off)
    assert is_met(core, off)


def test_styles_differ(env: gym.Env) -> None:
    one, other = (move(start(env), STOVE, seed, n_steps=20) for seed in (0, 1))
    assert np.abs(one - other).max() > 0.01


def test_opens_the_drawer_that_something_goes_into(env: gym.Env) -> None:
    core = start(env, task_id=3)
    (atom,) = env.unwrapped.bundle.goal
    opening = opening_before(core, atom)
    assert opening == drawer("open", "top")
    bowl = core.data.body(atom.body).xpos
    height, expert = float(bowl[2]), ScriptedExpert(env, np.random.default_rng(0))
    for _ in range(150):
        core.step(expert.act())
        if is_met(core, opening):
            break
    assert is_met(core, opening)
    assert abs(float(bowl[2]) - height) < 0.01


def test_nothing_is_to_be_opened_for_other_atoms(env: gym.Env) -> None:
    core = start(env)
    assert all(opening_before(core, atom) is None for atom in (*env.unwrapped.bundle.goal, STOVE))


@pytest.mark.parametrize("joint", ["wooden_cabinet_1_top_level", "flat_stove_1_button"])
def test_part_moves_as_its_joint_says(env: gym.Env, joint: str) -> None:
    core = start(env)
    part = Part(core, joint)
    pos, mat = part.moved(part.thing.pos, part.thing.mat, -0.12)
    core.data.qpos[part.address] -= 0.12
    mujoco.mj_kinematics(core.model, core.data)
    np.testing.assert_allclose(part.thing.pos, pos, atol=1e-6)
    np.testing.assert_allclose(part.thing.mat, mat, atol=1e-6)


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
