import itertools
import math

import numpy as np
import pytest

from vla_algos.evaluation.statistics import (
    bootstrap_difference,
    bootstrap_interval,
    success_interval,
    wilson_interval,
)


# Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3
@pytest.mark.parametrize(
    ("successes", "n", "lower", "upper"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_intervals(successes, n, lower, upper):
    assert wilson_interval(successes, n) == pytest.approx((lower, upper), abs=5e-5)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_ends_solve_the_score_equation(confidence):
    """At both ends the observed rate lies exactly z standard errors of that end away."""
    successes, n = 37, 50
    z = {0.5: 0.6744898, 0.95: 1.9599640, 0.99: 2.5758293}[confidence]
    for end in wilson_interval(successes, n, confidence):
        assert abs(successes / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), rel=1e-6)


def test_mirror_symmetry_and_limits():
    lower, upper = wilson_interval(3, 10)
    assert wilson_interval(7, 10) == pytest.approx((1 - upper, 1 - lower))
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(50, 50)[1] == 1.0 and wilson_interval(0, 50)[0] == 0.0


def test_impossible_input_is_refused():
    with pytest.raises(ValueError, match="11 successes in 10"):
        wilson_interval(11, 10)
    with pytest.raises(ValueError, match="confidence is 95"):
        wilson_interval(1, 10, confidence=95)


def test_the_bootstrap_agrees_with_all_resamples_of_the_runs():
    rates = [0.76, 0.36, 0.94, 0.5, 0.61]
    means = [np.mean(resample) for resample in itertools.product(rates, repeat=5)]
    expected = np.quantile(means, [0.025, 0.975])
    assert bootstrap_interval(rates) == pytest.approx(expected, abs=0.01)


def test_the_bootstrap_of_a_difference_agrees_with_all_resamples_of_both():
    a, b = [0.9, 0.8, 1.0], [0.7, 0.75, 0.5]
    means = [[np.mean(resample) for resample in itertools.product(rates, repeat=3)] for rates in (a, b)]
    expected = np.quantile(np.subtract.outer(*means).ravel(), [0.025, 0.975])
    low, high = bootstrap_difference(a, b)
    assert (low, high) == pytest.approx(expected, abs=0.01)
    assert bootstrap_difference(b, a) == pytest.approx((-high, -low), abs=0.01)


def test_runs_that_lie_apart_have_a_wider_interval_than_their_episodes_together():
    """Pooled, 38, 18 and 47 successes of 50 look like one policy of 61 to 76 %."""
    low, high = success_interval([38, 18, 47], 50)
    pooled = wilson_interval(38 + 18 + 47, 150)
    assert low < pooled[0] - 0.2 and high > pooled[1] + 0.1
    assert (low, high) == bootstrap_interval([38 / 50, 18 / 50, 47 / 50])


def test_one_run_has_the_interval_of_its_episodes_and_says_nothing_about_others():
    assert success_interval([38], 50) == wilson_interval(38, 50)
    assert bootstrap_interval([0.76]) is None and bootstrap_difference([0.76], [0.1, 0.2]) is None


def test_runs_that_agree_have_no_spread_and_the_same_runs_the_same_interval():
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    assert bootstrap_interval([0.1, 0.4, 0.3]) == bootstrap_interval([0.1, 0.4, 0.3])


@pytest.mark.parametrize("rates", [[], [math.nan, 0.5], [[0.1, 0.2]]])
def test_figures_that_are_none_are_refused(rates):
    with pytest.raises(ValueError, match="expected a finite number for each of at least one run"):
        bootstrap_interval(rates)
