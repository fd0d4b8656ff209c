"""Callbacks that the algorithms of this package add by themselves."""

from __future__ import annotations

import time
from dataclasses import dataclass

from stable_baselines3.common.callbacks import BaseCallback

from vla_algos.common.buffers import TokenRolloutBuffer
from vla_algos.policies import VLAPolicy


class TokenRolloutCallback(BaseCallback):
    """
    Hands to the token buffer what SB3 does not, and says where the time of a roll-out goes.

    SB3 calls ``on_step`` between ``env.step`` and ``rollout_buffer.add``, the one moment when the infos of the step
    about to be stored are at hand; this spares an override of ``collect_rollouts``.
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


@dataclass(frozen=True)
class RolloutRecord:
    """
    What one roll-out showed.

    :param timesteps: decisions so far
    :param episodes: episodes that ended in this roll-out
    :param success_rate: share of these that succeeded; None if none ended
    :param mean_length: their mean length (decisions); None if none ended
    """

    timesteps: int
    episodes: int
    success_rate: float | None
    mean_length: float | None


class RolloutHistoryCallback(BaseCallback):
    """Keeps one :class:`RolloutRecord` per roll-out in ``history``."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[RolloutRecord] = []

    def _on_rollout_start(self) -> None:
        self._successes: list[bool] = []
        self._lengths: list[float] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self._successes.append(bool(info.get("is_success", False)))
                self._lengths.append(float(info["episode"]["l"]))
        return True

    def _on_rollout_end(self) -> None:
        n = len(self._successes)
        self.history.append(
            RolloutRecord(
                timesteps=self.num_timesteps,
                episodes=n,
                success_rate=sum(self._successes) / n if n else None,
                mean_length=sum(self._lengths) / n if n else None,
            )
        )
