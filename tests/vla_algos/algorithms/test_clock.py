"""Where the time of a roll-out goes."""

from __future__ import annotations

import pytest
from rich.errors import LiveError
from stable_baselines3.common import callbacks
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecMonitor

from vla_algos import TokenGRPO, TokenPPO
from vla_algos.common.callbacks import TolerantProgressBar
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
        # what is left is the loop around them, whatever the machine; a reward model counted wrongly is 4000 s
        assert split == pytest.approx(logged["time/rollout_seconds"], abs=1000.0)


@pytest.mark.parametrize("algorithm", [TokenPPO, TokenGRPO])
def test_without_one_there_is_none(algorithm):
    kwargs = {"n_steps": 4} if algorithm is TokenPPO else {"group_size": 2, "n_groups": 1}
    env = DummyVecEnv([lambda: ToyLiberoEnv(image_size=32, horizon=3)] * 2)
    model = algorithm("VLAPolicy", env, batch_size=8, policy_kwargs={"vla": "nano"}, device="cpu", **kwargs)
    times = Times()
    model.learn(2, times)
    assert times.logged[0]["time/reward_seconds"] == 0.0 < times.logged[0]["time/env_seconds"]


class Broken(KVWriter):
    """A log on a disk that is full every other time."""

    def __init__(self):
        self.steps = []

    def write(self, key_values, key_excluded, step=0):
        self.steps.append((step, "train/loss" in key_values))
        if len(self.steps) % 2:
            raise OSError("No space left on device")

    def close(self):
        pass


def make(**kwargs):
    env = DummyVecEnv([lambda: ToyLiberoEnv(image_size=32, horizon=3)] * 2)
    return TokenPPO("VLAPolicy", env, n_steps=4, batch_size=8, policy_kwargs={"vla": "nano"}, device="cpu", **kwargs)


def test_a_log_that_cannot_be_written_is_a_warning(caplog):
    model, log = make(critic_warmup_iterations=0), Broken()
    model.set_logger(Logger(None, [log]))
    model.learn(24)
    assert log.steps == [(8, False), (16, True), (24, True)]
    assert [record.getMessage() for record in caplog.records] == [
        f"The log of iteration {i} could not be written: No space left on device" for i in (1, 3)
    ]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (ProgressBarCallback, "_on_training_start"),
        (callbacks.tqdm, "update"),
        (ProgressBarCallback, "_on_training_end"),
    ],
)
def test_a_progress_bar_that_fails_is_a_warning(owner, name, monkeypatch, caplog):
    def fail(self, *args):
        raise LiveError("Only one live display may be active at once")

    monkeypatch.setattr(owner, name, fail)
    model = make().learn(16, progress_bar=True)
    assert model.num_timesteps == 16
    (record,) = caplog.records
    assert "Only one live display" in record.getMessage()


def test_the_progress_bar_counts_decisions_that_are_learned_from():
    # one episode ends after one decision, the other after six
    env = DummyVecEnv([lambda: ToyLiberoEnv(image_size=32, horizon=1), lambda: ToyLiberoEnv(image_size=32, horizon=6)])
    kwargs = {"group_size": 2, "n_groups": 1, "resampling_rounds": 0, "policy_kwargs": {"vla": "nano"}}
    model = TokenGRPO("VLAPolicy", env, device="cpu", seed=2, **kwargs)
    for n_more in (7, 7):
        bar = TolerantProgressBar()
        before = model.num_timesteps
        model.learn(n_more, callback=bar, reset_num_timesteps=False)
        assert 0 < bar.pbar.n == model.num_timesteps - before < 12
