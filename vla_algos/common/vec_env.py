"""SB3 vector environments whose workers start fast."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

# imported once by the process that all workers are forked from, instead of once per worker
_PRELOADED = ["stable_baselines3.common.vec_env.subproc_vec_env", "vla_gym.envs.libero_env"]


def make_workers(env_fns: Sequence[Callable[[], gym.Env]]) -> VecEnv:
    """
    One process per environment, or none for a single one.

    :param env_fns: makers of the environments
    :return: SB3 vector environment
    """
    if len(env_fns) == 1:
        return DummyVecEnv(list(env_fns))
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    return SubprocVecEnv(list(env_fns), start_method="forkserver")
