"""Intervals for success rates."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """
    Score interval of a success rate; unlike the normal one it is sensible near 0, near 1 and for few episodes.

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
