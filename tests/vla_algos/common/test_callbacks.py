from __future__ import annotations

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor

from vla_algos.common.callbacks import RolloutHistoryCallback
from vla_gym.envs.toy_env import ToyLiberoEnv


def test_history_counts_the_episodes_of_each_roll_out() -> None:
    # episodes of exactly two steps unless they succeed on the first
    env = Monitor(ToyLiberoEnv(image_size=36, horizon=2))
    recorder = RolloutHistoryCallback()
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0)
    model.learn(32, callback=recorder)
    assert [record.timesteps for record in recorder.history] == [16, 32]
    steps = sum(record.episodes * record.mean_length for record in recorder.history if record.mean_length)
    assert steps == pytest.approx(sum(env.get_episode_lengths()))
    successes = sum(record.episodes * record.success_rate for record in recorder.history if record.episodes)
    assert successes == pytest.approx(sum(env.get_episode_rewards()))
