"""Workers find the control step compiled, and have nothing left to compile."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from vla_gym.sim import control_step
from vla_gym.vector.process import ProcessVectorEnv

ENTRIES = ("read_arm", "sense", "control_step")


class Counting(gym.Wrapper):
    """Tells what this process has compiled; code of the tests, so it is sent to the worker by value."""

    def signatures(self) -> list[list[object]]:
        return [list(getattr(control_step, name).signatures) for name in ENTRIES]


def make() -> gym.Env:
    return Counting(gym.make("LIBERO-Goal-v0", assets="primitive", cameras=(), disable_env_checker=True))


def test_workers_start_compiled() -> None:
    env = ProcessVectorEnv([make])
    try:
        (before,) = env.call("signatures")
        assert [len(found) for found in before] == [1, 1, 1]
        env.reset(seed=0)
        env.step(np.full((1, 7), 100))
        env.reset(seed=1)
        assert env.call("signatures") == (before,)
    finally:
        env.close()
