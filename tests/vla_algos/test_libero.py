"""Algorithms on the real simulator, a few decisions each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import A2C, PPO

import vla_gym
from vla_algos import TokenPPO, VLAPolicy, evaluate_policy_on_suite
from vla_algos.common.vec_env import SB3VecEnv

ENV_KWARGS: dict[str, Any] = {"assets": "primitive", "image_size": 64, "render_quality": "fast", "settle_steps": 2}
NANO = {"vla": "nano"}


def make(**kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make("LIBERO-Goal-v0", **{**ENV_KWARGS, **kwargs})


@pytest.mark.parametrize(
    ("algorithm", "policy", "kwargs", "env_kwargs"),
    [
        (PPO, "MultiInputPolicy", {"n_steps": 8, "batch_size": 8, "n_epochs": 1}, {}),
        (PPO, "MultiInputPolicy", {"n_steps": 8, "batch_size": 8, "n_epochs": 1}, {"action_type": "continuous"}),
        (A2C, "MultiInputPolicy", {"n_steps": 4}, {}),
        (PPO, VLAPolicy, {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": NANO}, {}),
        (A2C, VLAPolicy, {"n_steps": 4, "policy_kwargs": NANO}, {}),
    ],
)
def test_stock_algorithms_learn_unmodified(algorithm: Any, policy: Any, kwargs: Any, env_kwargs: Any) -> None:
    env = make(**env_kwargs)
    model = algorithm(policy, env, **kwargs).learn(8)
    assert model.num_timesteps == 8
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(model.predict(observation)[0])
    env.close()


def test_the_policy_ignores_what_is_for_a_critic_alone() -> None:
    venv = SB3VecEnv(vla_gym.make_vec("LIBERO-Goal-v0", 2, "process", privileged_obs=True, **ENV_KWARGS))
    observations = venv.reset()
    assert observations["privileged"].shape == (2, *venv.observation_space["privileged"].shape)
    spaces = {key: space for key, space in venv.observation_space.items() if key != "privileged"}
    actions = []
    for space in (venv.observation_space, gym.spaces.Dict(spaces)):
        policy = VLAPolicy(space, venv.action_space, lambda _: 1e-3, vla="nano", seed=0)
        actions.append(policy.predict({key: observations[key] for key in space}, deterministic=True)[0])
    np.testing.assert_array_equal(*actions)
    before = observations["privileged"].copy()
    after = venv.step(actions[0])[0]["privileged"]
    assert (after != before).any()
    venv.close()


def test_token_ppo_takes_an_id() -> None:
    model = TokenPPO("VLAPolicy", "LIBERO-Goal-v0", n_steps=2, batch_size=2, policy_kwargs=NANO)
    assert model.learn(2).num_timesteps == 2
    model.get_env().close()


def test_token_ppo_learns_saves_and_acts_the_same(tmp_path: Path) -> None:
    env = make(chunk_size=2)
    model = TokenPPO("VLAPolicy", env, n_steps=8, batch_size=4, critic_warmup_iterations=1, policy_kwargs=NANO, seed=0)
    model.learn(16)
    assert model.logger.name_to_value["train/ratio_deviation"] < 1e-4
    model.save(tmp_path / "model.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]
    observation, _ = env.reset(seed=1)
    loaded = TokenPPO.load(tmp_path / "model.zip", env=env)
    expected = model.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)
    env.close()


def test_a_policy_that_stands_still_scores_nothing_in_the_harness() -> None:
    class Standing:
        def predict(self, observation: Any, **kwargs: Any) -> tuple[np.ndarray, None]:
            return np.tile([127] * 6 + [255], (len(observation["proprio"]), 75)), None

    result = evaluate_policy_on_suite(
        Standing(), n_init_states=2, task_ids=[0, 8], env_kwargs={**ENV_KWARGS, "cameras": (), "chunk_size": 75}
    )
    assert result.assets == "primitive"
    assert [(e.task_id, e.init_state_id, e.is_success, e.length) for e in result.episodes] == [
        (task, state, False, 300) for task in (0, 8) for state in (0, 1)
    ]
