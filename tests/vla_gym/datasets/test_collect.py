"""A collected episode holds what was seen before each command, and the commands as they were executed."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import vla_gym  # noqa: F401
from vla_gym.actions.tokenizer import CENTRES, ActionTokenizer
from vla_gym.datasets.collect import collect_episode, replay_episode
from vla_gym.errors import InvalidActionError
from vla_gym.experts.scripted import ScriptedExpert

pytestmark = pytest.mark.usefixtures("goal_scenes")


def make_env(**kwargs) -> gym.Env:
    kwargs = {"action_type": "continuous", "cameras": ()} | kwargs
    return gym.make("LIBERO-Goal-v0", task_ids=[8], assets="primitive", **kwargs)


def test_replaying_the_commands_gives_the_stored_observations() -> None:
    env = make_env()
    expert = ScriptedExpert(env, np.random.default_rng(1))
    episode = collect_episode(env, expert, {"init_state_id": 4}, ActionTokenizer())
    n_steps = len(episode)
    assert episode.images.shape == (n_steps, 0, 0, 3) and episode.images.dtype == np.uint8
    assert episode.proprio.shape == (n_steps, 8) and episode.proprio.dtype == np.float32
    assert episode.commands.shape == (n_steps, 7) and episode.commands.dtype == np.float64
    assert (episode.instruction, episode.task_id, episode.init_state_id) == ("put the bowl on the plate", 8, 4)
    distance = np.abs(episode.commands[:, :6, None] - CENTRES).min(axis=-1)
    np.testing.assert_allclose(distance, 0.0, atol=1e-12)

    observation, _ = env.reset(options={"init_state_id": 4})
    terminated = False
    for proprio, command in zip(episode.proprio, episode.commands, strict=True):
        assert not terminated
        np.testing.assert_array_equal(observation["proprio"], proprio)
        observation, _, terminated, _, _ = env.step(command)
    assert terminated and episode.success


def test_a_replay_ends_with_its_commands_and_has_the_same_trace() -> None:
    env = make_env(cameras=("wrist",), image_size=16, render_quality="fast")
    episode = collect_episode(env, ScriptedExpert(env, np.random.default_rng(1)), {"init_state_id": 4})
    replayed = replay_episode(env, episode.commands[:9], {"init_state_id": 4})
    assert len(replayed) == 9 and not replayed.success
    assert replayed.wrist_images.shape == (9, 16, 16, 3) and replayed.images.shape == (9, 0, 0, 3)
    np.testing.assert_array_equal(replayed.wrist_images, episode.wrist_images[:9])
    for name in ("states", "joint_states", "ee_states", "robot_states"):
        array = getattr(replayed.trace, name)
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, getattr(episode.trace, name)[:9])
    observed = np.concatenate([replayed.trace.ee_states, replayed.trace.robot_states[:, :2]], axis=1)
    np.testing.assert_array_equal(observed.astype(np.float32), replayed.proprio)
    x, y, z, w = replayed.trace.robot_states[0, 5:]
    np.testing.assert_allclose(
        replayed.trace.ee_states[0, 3:], np.array([x, y, z]) * 2 * np.arccos(w) / np.sin(np.arccos(w))
    )
    with pytest.raises(ValueError, match="no commands to replay"):
        replay_episode(env, episode.commands[:0])


def test_token_actions_are_refused() -> None:
    env = make_env(action_type="tokens")
    with pytest.raises(InvalidActionError, match="integers"):
        collect_episode(env, ScriptedExpert(env, np.random.default_rng(0)), {"init_state_id": 0})
