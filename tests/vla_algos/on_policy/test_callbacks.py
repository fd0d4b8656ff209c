"""Where the time of a roll-out goes."""

from __future__ import annotations

import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecMonitor

from vla_algos import TokenGRPO, TokenPPO
from vla_gym.envs.toy_env import ToyLiberoEnv


class Times(BaseCallback):
    """Keeps what was logged of each roll-out."""

    def _on_training_start(self):
        self.logged = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.logged.append({k: v for k, v in self.logger.name_to_value.items() if k.startswith("time/")})


class SlowReward(VecEnvWrapper):
    """Claims 1000 s for every step."""

    def __init__(self, venv):
        super().__init__(venv)
        self.reward_seconds = 500.0

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        self.reward_seconds += 1000.0
        return self.venv.step_wait()


@pytest.mark.parametrize("wrap", [lambda env: SlowReward(env), lambda env: VecMonitor(SlowReward(env))])
def test_time_of_a_reward_model_is_told_apart(wrap):
    env = wrap(DummyVecEnv([lambda: ToyLiberoEnv(image_size=32, horizon=3)] * 2))
    model = TokenPPO("VLAPolicy", env, n_steps=4, batch_size=8, policy_kwargs={"vla": "nano"}, device="cpu")
    times = Times()
    model.learn(16, times)
    assert [logged["time/reward_seconds"] for logged in times.logged] == [4 * 1000.0] * 2
    for logged in times.logged:
        split = sum(logged[f"time/{name}_seconds"] for name in ("env", "reward", "decoding"))
        assert split == pytest.approx(logged["time/rollout_seconds"], abs=1.0)


@pytest.mark.parametrize("algorithm", [TokenPPO, TokenGRPO])
def test_without_one_there_is_none(algorithm):
    kwargs = {"n_steps": 4} if algorithm is TokenPPO else {"group_size": 2, "n_groups": 1}
    env = DummyVecEnv([lambda: ToyLiberoEnv(image_size=32, horizon=3)] * 2)
    model = algorithm("VLAPolicy", env, batch_size=8, policy_kwargs={"vla": "nano"}, device="cpu", **kwargs)
    times = Times()
    model.learn(2, times)
    assert times.logged[0]["time/reward_seconds"] == 0.0 < times.logged[0]["time/env_seconds"]
