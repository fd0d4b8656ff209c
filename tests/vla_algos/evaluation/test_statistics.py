import math

import pytest

from vla_algos.evaluation.statistics import wilson_interval


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
