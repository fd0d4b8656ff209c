"""Callbacks that the algorithms of this package add by themselves."""

from __future__ import annotations

import time

from stable_baselines3.common.callbacks import BaseCallback

from vla_algos.common.buffers import TokenRolloutBuffer


class TokenRolloutCallback(BaseCallback):
    """
    Hands ``info["executed_steps"]`` to the token buffer and times the rollout.

    SB3 calls ``on_step`` between ``env.step`` and ``rollout_buffer.add``, the one moment when the infos of the step
    about to be stored are at hand; this spares an override of ``collect_rollouts``.
    """

    def _on_rollout_start(self) -> None:
        self._start = time.perf_counter()

    def _on_step(self) -> bool:
        buffer = self.locals["rollout_buffer"]
        if isinstance(buffer, TokenRolloutBuffer):
            buffer.mark_executed(self.locals["infos"])
        return True

    def _on_rollout_end(self) -> None:
        self.logger.record("time/rollout_seconds", time.perf_counter() - self._start)
