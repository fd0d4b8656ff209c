"""What a decision is paid for the progress it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_algos.errors import DiscountError, UnknownNameError
from vla_gym.type_aliases import Float64Array

Mode = Literal["delta", "potential", "sum"]
DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType({"delta": 1.0, "potential": 1.0, "sum": 0.01})
"""
Weight of each mode unless another is asked for. That of ``sum`` is small, as it pays for waiting: a hundred decisions
in the best state earn what success is worth.
"""


@dataclass(frozen=True)
class Shaping:
    """
    Process rewards from progress Phi in [0, 1].

    With s and s' the states before and after a decision, and w the weight:

    ``delta``: w (Phi(s') - Phi(s)). Over an episode this adds up to w (Phi(end) - Phi(start)): waiting earns nothing,
    partial success counts.

    ``potential``: w (gamma Phi(s') - Phi(s)), with Phi = 0 in states that end the task (Ng et al., 1999). No optimal
    policy changes; nor does more than a critic change that starts at Phi instead of 0.

    ``sum``: w Phi(s'), VLA-RL's own (https://arxiv.org/abs/2505.18719), up to ``episode_cap`` per episode. It pays for
    every decision, so a failure that lasts may earn more than a success.

    :param mode: ``delta``, ``potential`` or ``sum``
    :param weight: w, at least 0
    :param gamma: discount of the algorithm, per decision; for ``potential`` alone, which pays nothing without it
    :param episode_cap: most that ``sum`` pays in an episode, in units of the reward; None: no limit
    :raises UnknownNameError: for an unknown mode
    :raises ValueError: for a number out of its range, or one that the mode does not take
    """

    mode: Mode = "delta"
    weight: float = 1.0
    gamma: float | None = None
    episode_cap: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise UnknownNameError("mode", self.mode, get_args(Mode))
        if not 0 <= self.weight < np.inf:
            raise ValueError(f"weight is {self.weight}; expected a finite number of at least 0.")
        if self.gamma is not None and (self.mode != "potential" or not 0 <= self.gamma <= 1):
            raise ValueError(
                f"gamma is {self.gamma}, mode is {self.mode!r}; expected the discount of the algorithm, 0 to 1, for "
                "'potential', and None for other modes."
            )
        if self.episode_cap is not None and (self.mode != "sum" or not self.episode_cap > 0):
            raise ValueError(
                f"episode_cap is {self.episode_cap}, mode is {self.mode!r}; expected a number above 0, for 'sum' alone."
            )

    def __call__(self, before: ArrayLike, after: ArrayLike, is_end: ArrayLike, paid: ArrayLike = 0.0) -> NDArray[Any]:
        """
        Process rewards of N decisions.

        :param before: Phi(s), (N,)
        :param after: Phi(s'), (N,)
        :param is_end: whether s' ends the task, a time limit does not, (N,) bool
        :param paid: what the episode has been paid so far, (N,)
        :return: (N,)
        :raises DiscountError: if ``potential`` has no ``gamma``
        """
        before, after = np.asarray(before), np.asarray(after)
        if self.mode == "delta":
            return self.weight * (after - before)
        if self.mode == "potential":
            if self.gamma is None:
                raise DiscountError(
                    "mode is 'potential', and gamma is None: no algorithm has told its discount. Pass the algorithm's "
                    "gamma to VecProcessReward or Shaping."
                )
            return self.weight * (self.gamma * np.where(is_end, 0.0, after) - before)
        rewards = self.weight * after
        return rewards if self.episode_cap is None else np.minimum(rewards, self.episode_cap - np.asarray(paid))

    def of_episode(self, progress: Float64Array, is_success: bool) -> Float64Array:
        """
        Process rewards of a whole episode.

        :param progress: Phi of each state, (K,)
        :param is_success: whether the last state ends the task, by success
        :return: (K - 1,) float64
        """
        rewards = np.zeros(len(progress) - 1)
        for t in range(len(rewards)):
            is_end = is_success and t == len(rewards) - 1
            rewards[t] = self(progress[t], progress[t + 1], is_end, rewards[:t].sum())
        return rewards
