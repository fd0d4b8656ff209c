"""``SuccessSampler``: how often each start is solved, and how often it is therefore to be drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from vla_algos.errors import UnknownNameError
from vla_gym.type_aliases import Float64Array

SCHEMES: dict[str, Callable[[Float64Array], Float64Array]] = {
    "paper": lambda rates: 0.5 - rates,
    "frontier": lambda rates: -np.abs(0.5 - rates),
}
"""What exp(. / tau) is taken of, by name of the scheme, as a function of the success rates."""


class SuccessSampler:
    """
    Success rate of each start, and a distribution over starts made from them.

    Reference: VLA-RL (https://arxiv.org/abs/2505.18719), with P(j) proportional to exp((0.5 - s_j) / tau), s_j the
    running success rate of start j, a pair (task_id, init_state_id). That formula is the scheme ``paper``; it prefers
    what fails most. The text beside it speaks of a preference for rates near one half, which is the scheme
    ``frontier``, exp(-abs(0.5 - s_j) / tau).

    **Rates.** A start is seen too seldom for a rate of its own, so rates are shrunk, in the manner of empirical Bayes
    with a beta prior at both levels: that of a task towards one half, as if ``task_prior`` more episodes had gone half
    and half; that of a start towards its task's, as if ``start_prior`` more episodes had gone as the task goes. Without
    episodes the distribution is uniform, with many each start has its raw rate.

    **Forgetting.** Every episode, of whichever start, lets all earlier ones count less, because the policy that they
    tell about is gone.

    Deviations: the paper gives neither tau nor how rates are estimated. The default tau of 0.5 draws a start that never
    succeeds exp(2) = 7.4 times as often as one that always does (``paper``), and a start solved half of the time
    exp(1) = 2.7 times as often as either (``frontier``).

    :param starts: pairs (task_id, init_state_id)
    :param scheme: ``paper`` or ``frontier``
    :param tau: temperature of the distribution, positive; larger is closer to uniform
    :param floor: share of the uniform distribution that is mixed in, 0 to 1: no start has a probability below
        ``floor / len(starts)``, so that its rate stays known and what was learnt there is not forgotten
    :param half_life: episodes, of all starts together, after which an episode counts half, positive; ``math.inf``:
        nothing is forgotten
    :param task_prior: weight of one half in a task's rate (episodes), positive; 2 is a uniform prior
    :param start_prior: weight of the task's rate in a start's rate (episodes), positive; 4 expects starts to scatter
        around a rate of one half with a standard deviation of 0.22
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
        self.n_episodes = 0
        self.task_ids, self._task_of = np.unique([task_id for task_id, _ in self.starts], return_inverse=True)
        self._episodes = np.zeros(len(self.starts))
        self._successes = np.zeros(len(self.starts))

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
        self.n_episodes += 1

    def success_rates(self) -> Float64Array:
        """Shrunk success rate of each start, (len(starts),) float64, 0 to 1."""
        episodes, successes = (np.bincount(self._task_of, counts) for counts in (self._episodes, self._successes))
        task_rates = (successes + 0.5 * self.task_prior) / (episodes + self.task_prior)
        prior = self.start_prior * task_rates[self._task_of]
        return (self._successes + prior) / (self._episodes + self.start_prior)

    def task_success_rates(self) -> dict[int, float]:
        """
        Success rate of each task that has been tried.

        The mean over its starts, not over episodes: the curriculum repeats some starts more often than others.

        :return: rate by task_id
        """
        totals, episodes = (np.bincount(self._task_of, each) for each in (self.success_rates(), self._episodes))
        means = totals / np.bincount(self._task_of)
        return {int(task_id): float(means[i]) for i, task_id in enumerate(self.task_ids) if episodes[i] > 0}

    def probabilities(self) -> Float64Array:
        """Probability of each start, (len(starts),) float64."""
        exponents = SCHEMES[self.scheme](self.success_rates()) / self.tau
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
            "n_episodes": self.n_episodes,
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
        self.n_episodes = int(state["n_episodes"])
