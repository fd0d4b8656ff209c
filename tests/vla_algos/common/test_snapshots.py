"""What wrappers of Stable-Baselines3 hold goes on with the environments."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnvWrapper, VecFrameStack, VecMonitor, VecNormalize

from vla_algos.common.vec_env import SB3VecEnv
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.errors import SnapshotError
from vla_gym.snapshots import restore_snapshot, take_snapshot
from vla_gym.vector import vector_env_class


class NoisyReward(VecEnvWrapper):
    """A reward of the user's own, with a generator and a memory."""

    def __init__(self, venv):
        super().__init__(venv)
        self.rng, self.earned = np.random.default_rng(4), {"by_env": [0.0] * venv.num_envs}

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        observations, rewards, dones, infos = self.venv.step_wait()
        self.earned["by_env"] = [e + float(r) for e, r in zip(self.earned["by_env"], rewards, strict=True)]
        noise = self.rng.normal(size=self.num_envs)
        return observations, rewards + noise + np.array(self.earned["by_env"]), dones, infos


def toy():
    return TimeLimit(ToyLiberoEnv(image_size=16, horizon=50), 5)


def ours(n_envs=2, backend="sync"):
    return SB3VecEnv(vector_env_class(backend)([toy] * n_envs))


WRAPPERS = {
    "VecMonitor": VecMonitor,
    "VecFrameStack": partial(VecFrameStack, n_stack=3),
    "VecNormalize": VecNormalize,
    "VecNormalize of some keys": partial(VecNormalize, norm_obs_keys=["proprio"]),
    "of the user": NoisyReward,
    "several": lambda env: VecFrameStack(NoisyReward(VecNormalize(VecMonitor(env), norm_obs_keys=["proprio"])), 2),
}


def trace(env, n_steps, seed):
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(n_steps):
        observations, rewards, dones, infos = env.step(rng.integers(0, 256, (env.num_envs, 7)))
        episodes = [{k: v for k, v in info.get("episode", {}).items() if k != "t"} for info in infos]
        seen.append(({key: array.copy() for key, array in observations.items()}, rewards, dones, episodes))
    return seen


@pytest.mark.parametrize("make", [ours, partial(make_vec_env, toy, 2)], ids=["vla_gym", "DummyVecEnv"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapped_environments_go_on_with_the_same_bits(name, make):
    env, other = (WRAPPERS[name](make()) for _ in range(2))
    env.seed(3)
    env.reset()
    trace(env, 8, seed=0)
    snapshot = take_snapshot(env)
    other.seed(9)
    other.reset()
    trace(other, 3, seed=2)
    restore_snapshot(other, snapshot)
    first = trace(env, 12, seed=1)
    np.testing.assert_equal(trace(other, 12, seed=1), first)
    assert any(done.any() for _, _, done, _ in first)


@pytest.mark.parametrize("make", [ours, lambda n_envs=2: make_vec_env(toy, n_envs)], ids=["vla_gym", "DummyVecEnv"])
def test_another_number_of_environments_is_refused_and_leaves_the_wrappers_usable(make):
    env, other = VecMonitor(make()), VecMonitor(make(n_envs=3))
    env.reset()
    with pytest.raises(SnapshotError, match="has num_envs 3; the snapshot is of 2"):
        restore_snapshot(other, take_snapshot(env))
    assert other.num_envs == 3
    other.reset()
    trace(other, 6, seed=0)


def test_wrappers_are_as_they_were_if_an_environment_refuses():
    env, other = VecMonitor(ours()), VecMonitor(SB3VecEnv(vector_env_class("sync")([lambda: TimeLimit(toy(), 3)] * 2)))
    env.reset()
    trace(env, 2, seed=0)
    other.reset()
    with pytest.raises(SnapshotError, match="the snapshot is of"):
        restore_snapshot(other, take_snapshot(env))
    assert other.episode_lengths.tolist() == [0, 0]
