"""Register the environments with Gymnasium; called by ``vla_gym/__init__.py`` only."""

from __future__ import annotations

import gymnasium as gym

from vla_gym.tasks.registry import SUITES


def register_envs() -> None:
    """Register one id per suite; the horizon is enforced by the env itself, in control steps."""
    for env_id in SUITES:
        if env_id not in gym.registry:
            gym.register(id=env_id, entry_point="vla_gym.envs.libero_env:LiberoEnv", kwargs={"suite": env_id})
