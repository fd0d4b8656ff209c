"""The callback that the algorithms on action tokens add by themselves."""

from __future__ import annotations

import time

from stable_baselines3.common.callbacks import BaseCallback

from vla_algos.common.buffers import TokenRolloutBuffer
from vla_algos.policies import VLAPolicy


class TokenRolloutCallback(BaseCallback):
    """
    Hands to the token buffer what SB3 does not, and says where the time of a roll-out goes.

    SB3 calls ``on_step`` between ``env.step`` and ``rollout_buffer.add``, the one moment when the infos of the step
    about to be stored are at hand; this spares a loop of its own.
    """

    def _on_rollout_start(self) -> None:
        self._start = time.perf_counter()
        self._env_seconds = self._decoding_seconds = 0.0

    def _on_step(self) -> bool:
        buffer, policy = self.locals.get("rollout_buffer"), self.model.policy
        assert isinstance(policy, VLAPolicy)
        if isinstance(buffer, TokenRolloutBuffer):
            buffer.mark_executed(self.locals["infos"])
            buffer.remember(policy.memory)
        self._env_seconds += time.perf_counter() - policy.decoded_at
        self._decoding_seconds += policy.decoding_seconds
        return True

    def _on_rollout_end(self) -> None:
        self.logger.record("time/rollout_seconds", time.perf_counter() - self._start)
        self.logger.record("time/env_seconds", self._env_seconds)
        self.logger.record("time/decoding_seconds", self._decoding_seconds)
