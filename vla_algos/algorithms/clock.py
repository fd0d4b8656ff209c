"""Where the time of a roll-out goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper


class RolloutClock:
    """
    Measures a roll-out from here on.

    A ``VecEnvWrapper`` that makes rewards may keep the seconds it has taken so far in an attribute ``reward_seconds``;
    they are then told apart from those of the environment.

    :param env: that is rolled out in
    """

    def __init__(self, env: VecEnv) -> None:
        self._env = env
        self._start = time.perf_counter()
        self._seconds = {"env": 0.0, "decoding": 0.0}
        self._reward_seconds = _reward_seconds(env)

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Count the block to the choice of actions."""
        with self._measured("decoding"):
            yield

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Count the block to the environments, rewards included."""
        with self._measured("env"):
            yield

    @contextmanager
    def _measured(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - start

    def log(self, logger: Logger) -> None:
        """
        Log what the roll-out took.

        :param logger: gets ``time/rollout_seconds`` and its parts
        """
        reward_seconds = _reward_seconds(self._env) - self._reward_seconds
        logger.record("time/rollout_seconds", time.perf_counter() - self._start)
        logger.record("time/env_seconds", self._seconds["env"] - reward_seconds)
        logger.record("time/reward_seconds", reward_seconds)
        logger.record("time/decoding_seconds", self._seconds["decoding"])


def _reward_seconds(env: VecEnv) -> float:
    """Seconds that the wrappers of an environment have spent on rewards."""
    seconds = 0.0
    while isinstance(env, VecEnvWrapper):
        # not getattr, by which a wrapper answers for those below it
        seconds += vars(env).get("reward_seconds", 0.0)
        env = env.venv
    return seconds
