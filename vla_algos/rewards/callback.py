"""``ProcessRewardCallback``: what a process reward pays during a run, and an alarm when a policy exploits it."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from vla_algos.common.vec_env import is_broken
from vla_algos.errors import RewardHackingWarning
from vla_algos.rewards.vec_process_reward import find_process_reward


def change(values: Sequence[float], window: int) -> tuple[float, float]:
    """
    Change of a mean between two windows that follow each other.

    :param values: the most recent last, at least ``2 * window``
    :param window: values per mean, at least 2
    :return: last mean minus the one before, and the standard error of this difference,
        sqrt(var(before) / window + var(last) / window)
    """
    before, last = np.array(values[-2 * window : -window]), np.array(values[-window:])
    return float(last.mean() - before.mean()), math.sqrt((before.var(ddof=1) + last.var(ddof=1)) / window)


class ProcessRewardCallback(BaseCallback):
    """
    Warns when the process reward per episode rises while success falls: the policy then learns to please the reward
    model instead of doing the task.

    After each roll-out the last ``window`` episodes are compared with the ``window`` before. The alarm is raised when
    the mean process reward is larger, and the success rate smaller, by more than ``threshold`` standard errors of the
    difference each. It is raised once, and again only after one of the two has turned. A change that takes much longer
    than two windows may not be seen; a larger window sees it. Broken episodes do not count.

    Works with every algorithm of SB3 whose environment contains a
    :class:`vla_algos.rewards.vec_process_reward.VecProcessReward`. The episodes are kept in
    ``model.process_reward_history``, which ``model.save`` keeps, and a resumed run adds to them.

    Logged after each roll-out: ``rollout/ep_process_rew_mean`` (mean over the last window; ``rollout/ep_rew_mean``
    beside it is the environment's), ``rollout/process_rew_alarm`` (1 while it is raised), ``time/reward_seconds`` and
    ``time/reward_share`` (of the time since the last roll-out ended).

    :param window: episodes per mean, at least 2
    :param threshold: standard errors, at least 0; with 2, noise alone raises the alarm in one of 2,000 comparisons
    :param verbose: as in SB3
    :raises ValueError: if a number is out of its range; at the start of training, if there is no ``VecProcessReward``
    """

    def __init__(self, window: int = 50, threshold: float = 2.0, verbose: int = 0) -> None:
        if window < 2:
            raise ValueError(f"window is {window}; expected at least 2 episodes.")
        if not 0 <= threshold < math.inf:
            raise ValueError(f"threshold is {threshold}; expected a finite number of standard errors, at least 0.")
        super().__init__(verbose)
        self.window = window
        self.threshold = threshold

    def _on_training_start(self) -> None:
        wrapper = find_process_reward(self.training_env)
        if wrapper is None:
            raise ValueError(
                "ProcessRewardCallback watches a VecProcessReward, and the environment has none. Leave the callback "
                "out, or wrap the environment."
            )
        self._wrapper = wrapper
        is_resumed = self.num_timesteps > 0 and hasattr(self.model, "process_reward_history")
        if not is_resumed:
            self.model.process_reward_history = {"paid": [], "is_success": [], "is_raised": False}  # type: ignore[attr-defined]
        self._history: dict[str, Any] = self.model.process_reward_history  # type: ignore[attr-defined]
        self._read_clocks()

    def _on_step(self) -> bool:
        for info in itertools.compress(self.locals["infos"], self.locals["dones"]):
            if "process_return" in info and not is_broken(info):
                self._history["paid"].append(float(info["process_return"]))
                self._history["is_success"].append(bool(info.get("is_success", False)))
        return True

    def _on_rollout_end(self) -> None:
        for name in ("paid", "is_success"):
            del self._history[name][: -2 * self.window]
        paid = self._history["paid"]
        if paid:
            self.logger.record("rollout/ep_process_rew_mean", float(np.mean(paid[-self.window :])))
        if len(paid) == 2 * self.window:
            self._compare()
        self.logger.record("rollout/process_rew_alarm", int(self._history["is_raised"]))
        seconds, reward_seconds = self._seconds, self._reward_seconds
        self._read_clocks()
        self.logger.record("time/reward_seconds", self._reward_seconds - reward_seconds)
        self.logger.record("time/reward_share", (self._reward_seconds - reward_seconds) / (self._seconds - seconds))

    def _compare(self) -> None:
        paid, successes = self._history["paid"], self._history["is_success"]
        rise, rise_error = change(paid, self.window)
        fall, fall_error = change(successes, self.window)
        if rise <= 0 or fall >= 0:
            self._history["is_raised"] = False
        elif (
            not self._history["is_raised"]
            and rise > self.threshold * rise_error
            and -fall > self.threshold * fall_error
        ):
            self._history["is_raised"] = True
            rates = [100 * np.mean(part) for part in (successes[: self.window], successes[self.window :])]
            means = [np.mean(part) for part in (paid[: self.window], paid[self.window :])]
            warnings.warn(
                f"After {self.num_timesteps} decisions: the process reward per episode rose from {means[0]:.3g} to "
                f"{means[1]:.3g} while success fell from {rates[0]:.0f} % to {rates[1]:.0f} % ({self.window} episodes "
                "each). The policy may be exploiting the reward model. Look at it with vla_algos.rewards.audit.audit; "
                "a smaller weight or mode='delta' leaves less to gain.",
                RewardHackingWarning,
                stacklevel=2,
            )

    def _read_clocks(self) -> None:
        self._seconds, self._reward_seconds = time.perf_counter(), self._wrapper.reward_seconds
