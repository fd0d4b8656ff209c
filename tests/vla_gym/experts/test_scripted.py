"""The scripted expert solves goals through the policy's bins, smoothly and reproducibly."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import vla_gym  # noqa: F401
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.datasets.collect import collect_episode
from vla_gym.errors import UnknownNameError
from vla_gym.experts import scripted
from vla_gym.experts.hand import MAX_TURN, capped
from vla_gym.experts.scripted import ScriptedExpert, is_met, opening_before
from vla_gym.experts.style import SPEED_RANGE
from vla_gym.tasks.goals import Atom

BIN_WIDTH = 2.0 / 255.0
DRAWER = "wooden_cabinet_1_top"
BOWL = "akita_black_bowl_1"


def start_expert(env: gym.Env, seed: int, task_id: int = 8, action_noise: float = 0.0) -> ScriptedExpert:
    env.reset(options={"task_id": task_id, "init_state_id": 0})
    return ScriptedExpert(env, np.random.default_rng(seed), action_noise)


def first_commands(env: gym.Env, seed: int, task_id: int = 8, action_noise: float = 0.0) -> np.ndarray:
    expert = start_expert(env, seed, task_id, action_noise)
    commands = []
    for _ in range(6):
        commands.append(expert.act())
        env.step(commands[-1])
    return np.array(commands)


def body_pos(env: gym.Env, name: str) -> np.ndarray:
    unwrapped = env.unwrapped
    return unwrapped.core.data.body(unwrapped.bundle.object_bodies[name]).xpos.copy()


def test_solves_the_task_through_bins_with_smooth_commands(env: gym.Env) -> None:
    expert = ScriptedExpert(env, np.random.default_rng(0))
    for init_state_id in (0, 17, 42):
        episode = collect_episode(
            env, expert, {"task_id": 8, "init_state_id": init_state_id}, action_tokenizer=ActionTokenizer()
        )
        assert episode.success
        assert len(episode) < 120
        assert np.linalg.norm(episode.commands[:, 3:6], axis=1).max() <= MAX_TURN + BIN_WIDTH
        assert expert.style is not None
        norms = np.linalg.norm(episode.commands[:, :3], axis=1)
        assert norms.max() <= expert.style.speed + BIN_WIDTH
        assert set(episode.commands[:, 6]) == {-1.0, 1.0}


def test_bowl_stays_on_the_plate_after_release(env: gym.Env) -> None:
    expert = start_expert(env, seed=3)
    core = env.unwrapped.core
    was_solved = False
    for _ in range(130):  # beyond the end of the episode, which comes with the first contact
        core.step(expert.act())
        was_solved = was_solved or core.is_success()
    assert was_solved and core.is_success()
    hand = core.data.site_xpos[core.robot.eef_site]
    assert hand[2] - body_pos(env, BOWL)[2] > 0.1


def test_grasps_again_when_the_bowl_is_taken_away(env: gym.Env) -> None:
    expert = start_expert(env, seed=0)
    unwrapped = env.unwrapped
    core = unwrapped.core
    joint = core.model.body(unwrapped.bundle.object_bodies[BOWL]).jntadr[0]
    qpos, qvel = core.model.jnt_qposadr[joint], core.model.jnt_dofadr[joint]
    resting = core.data.qpos[qpos : qpos + 7].copy()
    success = was_taken = False
    for _ in range(250):
        _, _, success, truncated, _ = env.step(expert.act())
        if success or truncated:
            break
        if not was_taken and body_pos(env, BOWL)[2] > resting[2] + 0.02:
            core.data.qpos[qpos : qpos + 7] = resting
            core.data.qvel[qvel : qvel + 6] = 0.0
            was_taken = True
    assert was_taken and success


def test_same_seed_same_commands_and_another_seed_others(env: gym.Env) -> None:
    commands = first_commands(env, seed=5)
    np.testing.assert_array_equal(commands, first_commands(env, seed=5))
    assert np.abs(commands - first_commands(env, seed=6))[:, :3].max() > 0.01


def test_noise_changes_translation_alone_and_keeps_the_cap(env: gym.Env) -> None:
    # turning a knob is planned faster than grasping
    clean, noisy = (first_commands(env, seed=5, task_id=7, action_noise=noise) for noise in (0.0, 0.2))
    assert np.abs(clean - noisy)[:, :3].max() > 0.05
    np.testing.assert_array_equal(noisy[:, 6], clean[:, 6])
    assert np.linalg.norm(noisy[:, :3], axis=1).max() <= SPEED_RANGE[1] + 1e-9


def test_unsupported_goal_lists_the_supported_predicates(env: gym.Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "SKILLS", {"in": scripted.pick_and_place})
    expert = start_expert(env, seed=0)
    with pytest.raises(UnknownNameError, match=r"On akita_black_bowl_1 plate_1.*Valid: In"):
        expert.act()


@pytest.mark.parametrize("task_id", [1, 6])
def test_another_target_needs_no_code_of_its_own(env: gym.Env, task_id: int) -> None:
    options = {"task_id": task_id, "init_state_id": 1}
    assert collect_episode(env, ScriptedExpert(env, np.random.default_rng(0)), options).success


def test_opens_the_drawer_that_something_goes_into(env: gym.Env, start) -> None:
    core = start(task_id=3)
    (atom,) = env.unwrapped.bundle.goal
    opening = opening_before(core, atom)
    assert opening == Atom("open", (f"{DRAWER}_region",), joints=(f"{DRAWER}_level",), category="wooden_cabinet")
    bowl = core.data.body(atom.body).xpos
    height, expert = float(bowl[2]), ScriptedExpert(env, np.random.default_rng(0))
    for _ in range(150):
        core.step(expert.act())
        if is_met(core, opening):
            break
    assert is_met(core, opening)
    assert abs(float(bowl[2]) - height) < 0.01


def test_nothing_is_to_be_opened_for_other_atoms(env: gym.Env, start) -> None:
    core = start()
    stove = Atom("turnon", ("flat_stove_1",), joints=("flat_stove_1_button",), category="flat_stove")
    assert all(opening_before(core, atom) is None for atom in (*env.unwrapped.bundle.goal, stove))


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["LIBERO-Spatial-v0", "LIBERO-Object-v0"])
def test_solves_nearly_all_episodes_of_a_suite(suite: str) -> None:
    with gym.make(suite, action_type="continuous", cameras=(), assets="primitive") as env:
        expert = ScriptedExpert(env, np.random.default_rng(0))
        episodes = [
            collect_episode(env, expert, {"task_id": task_id, "init_state_id": init_state_id})
            for task_id in range(10)
            for init_state_id in (5, 25, 45)
        ]
    assert sum(episode.success for episode in episodes) >= 27


def test_needs_a_libero_env() -> None:
    with pytest.raises(TypeError, match="needs a LiberoEnv"):
        ScriptedExpert(gym.make("CartPole-v1"), np.random.default_rng(0))


def test_capped_shortens_only_what_is_too_long() -> None:
    np.testing.assert_allclose(capped(np.array([3.0, 0.0, 4.0]), 0.5), [0.3, 0.0, 0.4])
    np.testing.assert_array_equal(capped(np.array([0.1, 0.2, 0.0]), 0.5), [0.1, 0.2, 0.0])
    np.testing.assert_array_equal(capped(np.zeros(3), 0.5), np.zeros(3))
