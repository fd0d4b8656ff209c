"""Intervals for success rates: Wilson's within a training run, bootstrap over seeds across runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from scipy.stats import bootstrap

N_RESAMPLES = 10_000


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """
    Compute the score interval of a success rate; unlike the normal one it is sound near 0, near 1 and for few episodes.

    Reference: Wilson 1927 (https://doi.org/10.1080/01621459.1927.10502953), without continuity correction.

    :param successes: number of successes, 0..n
    :param n: number of episodes; 0 gives (0, 1)
    :param confidence: coverage, between 0 and 1
    :return: lower and upper end, in [0, 1]
    :raises ValueError: if the counts or the confidence are impossible
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} episodes; expected 0 <= successes <= n.")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95.")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    centre = rate + z * z / (2 * n)
    spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # exact ends, which rounding would miss by 1e-17
    lower = 0.0 if successes == 0 else (centre - spread) / scale
    upper = 1.0 if successes == n else (centre + spread) / scale
    return lower, upper


def bootstrap_interval(rates: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """
    Compute an interval of the mean over training runs, by resampling runs.

    The runs are the independent observations: episodes of one run share a policy. Pooling the episodes of several runs
    into one binomial interval ignores how far the runs lie apart.

    Reference: Agarwal et al. 2021 (https://arxiv.org/abs/2108.13264), percentile bootstrap; the resampling is SciPy's.
    With three runs it cannot reach beyond the worst and the best of them, and covers less than it claims.

    :param rates: one figure per run, such as a success rate
    :param confidence: coverage, between 0 and 1
    :return: lower and upper end, in the figures' unit; None for a single run, which says nothing about others
    :raises ValueError: if there is no run, a figure is not finite, or the confidence is impossible
    """
    samples = _runs("rates", rates, confidence)
    return None if len(samples) < 2 else _resample((samples,), np.mean, confidence)


def success_interval(successes: Sequence[int], n: int, confidence: float = 0.95) -> tuple[float, float]:
    """
    Compute an interval of a success rate, from the episodes of one run or from the spread of several.

    :param successes: of each run, 0..n
    :param n: episodes per run
    :param confidence: coverage, between 0 and 1
    :return: lower and upper end, in [0, 1]: Wilson's for one run, the bootstrap's over several
    :raises ValueError: if there is no run, or the counts or the confidence are impossible
    """
    if len(successes) == 1 or n == 0:
        return wilson_interval(successes[0], n, confidence)
    interval = bootstrap_interval([count / n for count in successes], confidence)
    assert interval is not None
    return interval


def bootstrap_difference(
    rates: Sequence[float], others: Sequence[float], confidence: float = 0.95
) -> tuple[float, float] | None:
    """
    Compute an interval of the difference of two means over training runs, resampling each set of runs by itself.

    "A is above B" is a claim that this interval lies above 0.

    :param rates: one figure per run of A
    :param others: one figure per run of B
    :param confidence: coverage, between 0 and 1
    :return: lower and upper end of mean(A) - mean(B); None where A or B has a single run
    :raises ValueError: if either has no run, a figure is not finite, or the confidence is impossible
    """
    a, b = _runs("rates", rates, confidence), _runs("others", others, confidence)
    if min(len(a), len(b)) < 2:
        return None
    return _resample((a, b), lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis), confidence)


def _runs(name: str, rates: Sequence[float], confidence: float) -> np.ndarray:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95.")
    samples = np.asarray(rates, dtype=np.float64)
    if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
        raise ValueError(f"{name} is {rates}; expected a finite number for each of at least one run.")
    return samples


def _resample(samples: tuple[np.ndarray, ...], statistic: object, confidence: float) -> tuple[float, float]:
    result = bootstrap(
        samples,
        statistic,
        n_resamples=N_RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        # the same runs give the same interval
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return float(low), float(high)
