"""Callbacks for any algorithm of SB3."""

from __future__ import annotations

from dataclasses import dataclass

from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback

from vla_algos.common.progress import Tolerant
from vla_algos.common.vec_env import is_broken


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
    """Keeps one :class:`RolloutRecord` per roll-out in ``history``; broken episodes are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[RolloutRecord] = []

    def _on_rollout_start(self) -> None:
        self._successes: list[bool] = []
        self._lengths: list[float] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info and not is_broken(info):
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
