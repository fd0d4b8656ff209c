"""The callback that the algorithms on action tokens add by themselves."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from vla_algos.common.buffers import TokenRolloutBuffer
from vla_algos.common.progress import Tolerant
from vla_algos.policies import VLAPolicy


class TokenRolloutCallback(BaseCallback):
    """
    Hands to the token buffer what SB3 does not, and says where the time of a roll-out goes.

    SB3 calls ``on_step`` between ``env.step`` and ``rollout_buffer.add``, the one moment when the infos of the step
    about to be stored are at hand; this spares a loop of its own.

    A ``VecEnvWrapper`` that makes rewards may keep the seconds it has taken so far in an attribute ``reward_seconds``;
    they are then told apart from those of the environment.
    """

    def _on_training_start(self) -> None:
        policy, env = self.model.policy, self.training_env
        assert isinstance(policy, VLAPolicy)
        # for everyone who later evaluates the model
        changes: dict[str, Any] = {"trained_temperature": policy.temperature}
        if env.has_attr("render_quality"):
            changes["trained_render_quality"] = env.get_attr("render_quality", 0)[0]
        policy.vla.record = dataclasses.replace(policy.vla.record, **changes)

    def _on_rollout_start(self) -> None:
        self._start = time.perf_counter()
        self._env_seconds = self._decoding_seconds = 0.0
        self._reward_seconds = _reward_seconds(self.training_env)

    def _on_step(self) -> bool:
        buffer, policy = self.locals.get("rollout_buffer"), self.model.policy
        assert isinstance(policy, VLAPolicy)
        if isinstance(buffer, TokenRolloutBuffer):
            infos, dones, rewards = (self.locals[name] for name in ("infos", "dones", "rewards"))
            buffer.mark_executed(infos)
            buffer.mark_limits(infos, dones, rewards, getattr(self.model, "time_limit", "bootstrap"))
            buffer.remember(policy.memory)
        self._env_seconds += time.perf_counter() - policy.decoded_at
        self._decoding_seconds += policy.decoding_seconds
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.locals.get("rollout_buffer")
        if isinstance(buffer, TokenRolloutBuffer) and buffer.values_at_limit:
            self.logger.record("rollout/value_at_limit", float(np.mean(buffer.values_at_limit)))
        self.logger.record("time/rollout_seconds", time.perf_counter() - self._start)
        reward_seconds = _reward_seconds(self.training_env) - self._reward_seconds
        self.logger.record("time/env_seconds", self._env_seconds - reward_seconds)
        self.logger.record("time/reward_seconds", reward_seconds)
        self.logger.record("time/decoding_seconds", self._decoding_seconds)


class TolerantProgressBar(Tolerant, ProgressBarCallback):
    """
    SB3's progress bar, which a terminal that is gone or taken by another live display cannot make fail a run.

    It counts as ``num_timesteps`` does: environments whose episode is over may not count.
    """

    def _on_training_start(self) -> None:
        self.is_shown = True
        self._n_before = self.num_timesteps
        self.attempt(super()._on_training_start)

    def _on_step(self) -> bool:
        self.attempt(lambda: self.pbar.update(self.num_timesteps - self._n_before - self.pbar.n))
        return True

    def _on_training_end(self) -> None:
        self.attempt(super()._on_training_end)


def _reward_seconds(env: VecEnv) -> float:
    """Seconds that the wrappers of an environment have spent on rewards."""
    seconds = 0.0
    while isinstance(env, VecEnvWrapper):
        # not getattr, by which a wrapper answers for those below it
        seconds += vars(env).get("reward_seconds", 0.0)
        env = env.venv
    return seconds
