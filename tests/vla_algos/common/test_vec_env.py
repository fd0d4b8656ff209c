from __future__ import annotations

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from vla_algos.common.vec_env import make_workers
from vla_gym.envs.toy_env import ToyLiberoEnv


def test_one_environment_needs_no_process_and_several_agree_with_it() -> None:
    alone, several = make_workers([ToyLiberoEnv]), make_workers([ToyLiberoEnv] * 2)
    assert isinstance(alone, DummyVecEnv) and isinstance(several, SubprocVecEnv)
    alone.seed(3)
    several.seed(3)
    first, both = alone.reset(), several.reset()
    np.testing.assert_array_equal(both["agentview"][0], first["agentview"][0])
    alone.close()
    several.close()
