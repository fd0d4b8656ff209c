"""``SuccessSampler``: count how often each start is solved, and draw starts accordingly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from vla_algos.errors import UnknownNameError
from vla_gym.type_aliases import Float64Array

SCHEMES: dict[str, Callable[[Float64Array, Float64Array], Float64Array]] = {
    "paper": lambda low, high: 0.5 - low,
    "frontier": lambda low, high: -np.maximum(0.0, np.maximum(low - 0.5, 0.5 - high)),
    "uniform": lambda low, high: np.zeros_like(low),
}
"""
Preference of each start, of which exp(. / tau) is taken: the largest that a success rate between ``low`` and ``high``
would give it.
"""


class SuccessSampler:
    """
    Estimate the success rate of each start, and derive a distribution over starts.

    Reference: VLA-RL (https://arxiv.org/abs/2505.18719), with P(j) proportional to exp((0.5 - s_j) / tau), s_j the
    running success rate of start j, a pair (task_id, init_state_id). That formula is the scheme ``paper``; it prefers
    what fails most. The text beside it speaks of a preference for rates near one half, which is the scheme
    ``frontier``, exp(-abs(0.5 - s_j) / tau). ``uniform`` draws all starts alike, and counts.

    **Rates.** A start is seen too seldom for a rate of its own, so rates are shrunk, in the manner of empirical Bayes
    with a beta prior at both levels: that of a task towards one half, as if ``task_prior`` more episodes had gone half
    and half; that of a start towards its task's, as if ``start_prior`` more episodes had gone as the task goes. Without
    episodes the distribution is uniform, with many each start has its raw rate.

    **Forgetting.** Every episode, of any start, discounts all earlier ones, because they tell about an older policy.

    **Optimism.** A start that was seen rarely, or long ago, may be better than its estimate. Its preference is the best
    within ``optimism`` standard deviations of its rate (of a beta distribution with the start's discounted counts), as
    in upper-confidence-bound bandits. Without it, ``frontier`` with a small tau starves hard tasks: they fail a few
    times, are no longer drawn, and nobody notices when they become solvable.

    Deviations: the paper gives neither tau nor an estimator of the rates, and has no optimism. The default tau of 0.5
    draws a start that never succeeds exp(2) = 7.4 times as often as one that always does (``paper``), and a start that
    is solved half of the time exp(1) = 2.7 times as often as either (``frontier``).

    :param starts: pairs (task_id, init_state_id)
    :param scheme: ``paper``, ``frontier`` or ``uniform``
    :param tau: temperature of the distribution, positive; larger is closer to uniform
    :param floor: share of the uniform distribution that is mixed in, 0 to 1: no start has a probability below
        ``floor / len(starts)``, so that its rate stays known and what was learnt there is not forgotten
    :param half_life: episodes, of all starts together, after which an episode counts half, positive; ``math.inf``:
        nothing is forgotten
    :param task_prior: weight of one half in a task's rate (episodes), positive; 2 is a uniform prior
    :param start_prior: weight of the task's rate in a start's rate (episodes), positive; 4 expects starts to scatter
        around a rate of one half with a standard deviation of 0.22
    :param optimism: half-width of the interval that a preference is taken from, standard deviations of the rate, at
        least 0; 0: the rate itself
    :raises UnknownNameError: for an unknown scheme
    :raises ValueError: for a number out of range, and for starts that are missing or named twice
    """

    def __init__(
        self,
        starts: Iterable[tuple[int, int]],
        scheme: str = "paper",
        tau: float = 0.5,
        floor: float = 0.1,
        half_life: float = 1000.0,
        task_prior: float = 2.0,
        start_prior: float = 4.0,
        optimism: float = 1.0,
    ) -> None:
        if scheme not in SCHEMES:
            raise UnknownNameError("scheme", scheme, SCHEMES)
        for name, value in (
            ("tau", tau),
            ("half_life", half_life),
            ("task_prior", task_prior),
            ("start_prior", start_prior),
        ):
            if not value > 0:
                raise ValueError(f"{name} is {value}; expected a number above 0.")
        if not 0 <= floor <= 1:
            raise ValueError(f"floor is {floor}; expected a share from 0 to 1.")
        if not 0 <= optimism < math.inf:
            raise ValueError(f"optimism is {optimism}; expected a finite number of at least 0.")
        self.starts = tuple((int(task_id), int(init_state_id)) for task_id, init_state_id in starts)
        self._index = {start: j for j, start in enumerate(self.starts)}
        if not 0 < len(self._index) == len(self.starts):
            count, distinct = len(self.starts), len(self._index)
            raise ValueError(
                f"starts has {count} pairs, {distinct} of them distinct; expected each once, at least one."
            )
        self.scheme = scheme
        self.tau = tau
        self.floor = floor
        self.half_life = half_life
        self.task_prior = task_prior
        self.start_prior = start_prior
        self.optimism = optimism
        self.task_ids, self._task_of = np.unique([task_id for task_id, _ in self.starts], return_inverse=True)
        self._episodes = np.zeros(len(self.starts))
        self._successes = np.zeros(len(self.starts))
        self._total_episodes = np.zeros(len(self.starts), dtype=np.int64)
        self._total_successes = np.zeros(len(self.starts), dtype=np.int64)

    @property
    def n_episodes(self) -> int:
        """Episodes recorded so far, of all starts."""
        return int(self._total_episodes.sum())

    def __contains__(self, start: object) -> bool:
        """Whether a pair (task_id, init_state_id) is one of ``starts``."""
        return start in self._index

    def record(self, start: tuple[int, int], is_success: bool) -> None:
        """
        Count an episode.

        :param start: (task_id, init_state_id) that it began from
        :param is_success: how it ended
        :raises UnknownNameError: for a start that is not among ``starts``
        """
        if start not in self:
            valid = f"the {len(self.starts)} pairs from {self.starts[0]} to {self.starts[-1]}"
            raise UnknownNameError("start", start, [valid])
        keep = 0.5 ** (1.0 / self.half_life)
        self._episodes *= keep
        self._successes *= keep
        self._episodes[self._index[start]] += 1.0
        self._successes[self._index[start]] += float(is_success)
        self._total_episodes[self._index[start]] += 1
        self._total_successes[self._index[start]] += int(is_success)

    def success_rates(self) -> Float64Array:
        """
        Estimated success rate of each start, shrunk towards its task's and that towards one half.

        :return: (len(starts),) float64, 0 to 1; an estimate to draw by, not a measurement: see :meth:`task_counts`
        """
        episodes, successes = (np.bincount(self._task_of, counts) for counts in (self._episodes, self._successes))
        task_rates = (successes + 0.5 * self.task_prior) / (episodes + self.task_prior)
        prior = self.start_prior * task_rates[self._task_of]
        return (self._successes + prior) / (self._episodes + self.start_prior)

    def task_counts(self) -> dict[int, tuple[int, int]]:
        """
        Successes and episodes of each task since the start of the run, as they were recorded.

        :return: (successes, episodes) by task_id; of the starts that were drawn, which a curriculum repeats unevenly
        """
        counts = (self._total_successes, self._total_episodes)
        successes, episodes = (np.bincount(self._task_of, each) for each in counts)
        return {int(t): (int(successes[i]), int(episodes[i])) for i, t in enumerate(self.task_ids)}

    def recent_task_counts(self) -> dict[int, tuple[float, float]]:
        """
        Successes and episodes of each task, discounted by ``half_life``: their ratio is the recent success rate.

        :return: (successes, episodes) by task_id
        """
        successes, episodes = (np.bincount(self._task_of, each) for each in (self._successes, self._episodes))
        return {int(t): (float(successes[i]), float(episodes[i])) for i, t in enumerate(self.task_ids)}

    def probabilities(self) -> Float64Array:
        """Probability of each start, (len(starts),) float64."""
        rates = self.success_rates()
        # standard deviation of a beta distribution with mean s and weight n: sqrt(s (1 - s) / (n + 1))
        spread = self.optimism * np.sqrt(rates * (1 - rates) / (self._episodes + self.start_prior + 1.0))
        exponents = SCHEMES[self.scheme](np.maximum(rates - spread, 0.0), np.minimum(rates + spread, 1.0)) / self.tau
        preferences = np.exp(exponents - exponents.max())
        return (1.0 - self.floor) * preferences / preferences.sum() + self.floor / len(self.starts)

    def entropy(self) -> float:
        """Entropy of ``probabilities()`` in nats; log(len(starts)) if they are uniform."""
        probabilities = self.probabilities()
        return float(-(probabilities * np.log(np.maximum(probabilities, np.finfo(float).tiny))).sum())

    def weights(self) -> dict[tuple[int, int], float]:
        """``probabilities()`` by start, as the environments' ``set_start_weights`` takes them."""
        return dict(zip(self.starts, self.probabilities().tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The statistics without the settings, ready for JSON."""
        return {
            "starts": [list(start) for start in self.starts],
            "episodes": self._episodes.tolist(),
            "successes": self._successes.tolist(),
            "total_episodes": self._total_episodes.tolist(),
            "total_successes": self._total_successes.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Inverse of :meth:`state_dict`.

        :param state: of a sampler with the same starts, in any order
        :raises ValueError: if it has other starts; nothing is changed
        """
        theirs = {(int(task_id), int(k)): j for j, (task_id, k) in enumerate(state["starts"])}
        if theirs.keys() != self._index.keys():
            odd = sorted(theirs.keys() ^ self._index.keys())
            raise ValueError(f"The state is one of other starts: {len(odd)} are in one alone, {odd[0]} for one.")
        order = [theirs[start] for start in self.starts]
        self._episodes = np.array(state["episodes"], dtype=np.float64)[order]
        self._successes = np.array(state["successes"], dtype=np.float64)[order]
        self._total_episodes = np.array(state["total_episodes"], dtype=np.int64)[order]
        self._total_successes = np.array(state["total_successes"], dtype=np.int64)[order]
