"""Copies of environments, states that are set, and observations without a step."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest

from vla_gym.envs.libero_env import LiberoEnv

pytestmark = pytest.mark.usefixtures("goal_scenes")

ACTION = np.array([200, 90, 40, 127, 150, 127, 0])
KEYWORDS = {"assets": "primitive", "image_size": 32, "render_quality": "fast", "settle_steps": 1, "task_ids": [3, 8]}


@pytest.fixture(scope="module")
def env() -> Iterator[gym.Env[Any, Any]]:
    env = gym.make("LIBERO-Goal-v0", cameras=["agentview"], privileged_obs=True, **KEYWORDS)
    yield env
    env.close()


@pytest.mark.parametrize(
    "duplicate",
    [lambda env: pickle.loads(pickle.dumps(env)), copy.deepcopy, lambda env: cloudpickle.loads(cloudpickle.dumps(env))],
    ids=["pickle", "deepcopy", "cloudpickle"],
)
def test_a_copy_goes_on_in_mid_episode_with_the_same_bits(
    env: gym.Env[Any, Any], duplicate: Callable[[Any], Any]
) -> None:
    env.reset(seed=0, options={"task_id": 3})
    env.step(ACTION)
    twin = duplicate(env)
    for step in (lambda each: each.step(ACTION), lambda each: each.step(ACTION), lambda each: each.reset()):
        expected, found = step(env), step(twin)
        for name, array in expected[0].items():
            np.testing.assert_array_equal(found[0][name], array, err_msg=name)
        assert found[1:] == expected[1:]
    twin.close()


def test_a_copy_made_before_the_first_reset_is_usable() -> None:
    env = LiberoEnv("goal", cameras=(), **KEYWORDS)  # type: ignore[arg-type]
    twin = pickle.loads(pickle.dumps(env))
    with pytest.raises(gym.error.ResetNeeded):
        twin.get_state()
    np.testing.assert_array_equal(twin.reset(seed=1)[0]["proprio"], env.reset(seed=1)[0]["proprio"])


def test_a_state_is_observed_without_a_step(env: gym.Env[Any, Any]) -> None:
    base: LiberoEnv = env.unwrapped  # type: ignore[assignment]
    observation, _ = env.reset(seed=0)
    for name, array in base.observe().items():
        np.testing.assert_array_equal(array, observation[name])
    state = base.get_state()
    env.step(ACTION)
    moved = base.get_state()
    assert base.set_state(state) is None
    seen = base.set_state(moved, return_observation=True)
    assert seen is not None
    for name, array in base.observe().items():
        np.testing.assert_array_equal(array, seen[name])
    assert not np.array_equal(seen["proprio"], observation["proprio"])


def test_every_entry_of_the_state_has_a_name_of_its_own(env: gym.Env[Any, Any]) -> None:
    base: LiberoEnv = env.unwrapped  # type: ignore[assignment]
    env.reset(seed=0)
    names = base.state_names
    assert len(set(names)) == len(names) == base.core.state_size
    model, data = base.core.model, base.core.data
    state = dict(zip(names, base.get_state(), strict=True))
    assert state["time"] == data.time
    assert state["qpos/robot0_joint4"] == data.joint("robot0_joint4").qpos[0]
    bowl = data.joint("akita_black_bowl_1_joint0")
    ends = ("x", "y", "z", "qw", "qx", "qy", "qz")
    assert [state[f"qpos/akita_black_bowl_1_joint0/{end}"] for end in ends] == bowl.qpos.tolist()
    assert state["qvel/akita_black_bowl_1_joint0/wz"] == bowl.qvel[5]
    assert names[-1] == f"qvel/{model.joint(model.njnt - 1).name}"


def test_a_step_after_the_end_warns_once() -> None:
    env = LiberoEnv("goal", cameras=(), chunk_size=300, **KEYWORDS)  # type: ignore[arg-type]
    env.reset(seed=0, options={"task_id": 8})
    chunk = np.tile([127] * 6 + [255], 300)
    assert env.step(chunk)[3]
    with pytest.warns(UserWarning, match="after the end of the episode; call reset"):
        env.step(chunk)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.reset()
        env.step(chunk)


@pytest.mark.parametrize("physics", ["fast", "exact"])
def test_an_absurd_state_ends_as_unstable_and_the_next_episode_is_sound(physics: str) -> None:
    env = LiberoEnv("goal", cameras=(), physics=physics, privileged_obs=True, **KEYWORDS)  # type: ignore[arg-type]
    expected, _ = env.reset(seed=0)
    sound = env.get_state()
    n_qpos = 1 + env.core.model.nq
    for start, stop, value in ((1, n_qpos, 1e300), (n_qpos, len(sound), -1e250), (1, len(sound), 1e160), (1, 8, 1e83)):
        state = sound.copy()
        state[start:stop] = value
        env.set_state(state)
        _, reward, terminated, truncated, info = env.step(ACTION)
        assert (reward, terminated, truncated, info["unstable"]) == (0.0, False, True, True)
        observation, info = env.reset(seed=0)
        assert not info["unstable"]
        np.testing.assert_array_equal(observation["proprio"], expected["proprio"])
