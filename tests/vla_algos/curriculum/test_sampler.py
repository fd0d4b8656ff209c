from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest

from vla_algos import SuccessSampler
from vla_algos.errors import UnknownNameError

STARTS = [(0, 0), (0, 1), (3, 0), (3, 5)]


def with_rates(rates: list[float], **kwargs) -> SuccessSampler:
    """A sampler that has seen so much that its rates are as given."""
    starts = [(0, k) for k in range(len(rates))]
    sampler = SuccessSampler(starts, **kwargs)
    n = 1e12
    sampler.load_state_dict(
        {
            "starts": starts,
            "episodes": [n] * len(rates),
            "successes": [n * rate for rate in rates],
            "total_episodes": [0] * len(rates),
            "total_successes": [0] * len(rates),
        }
    )
    return sampler


@pytest.mark.parametrize(
    ("scheme", "preferences"),
    [("paper", [math.e**2, math.e, 1, math.e**-2]), ("frontier", [math.e**-2, math.e**-1, 1, math.e**-2])],
)
def test_schemes_in_closed_form(scheme, preferences):
    sampler = with_rates([0.0, 0.25, 0.5, 1.0], scheme=scheme, tau=0.25, floor=0.0, optimism=0.0)
    expected = np.array(preferences) / sum(preferences)
    np.testing.assert_allclose(sampler.probabilities(), expected, rtol=1e-9)
    assert list(sampler.weights()) == list(sampler.starts)
    np.testing.assert_allclose(list(sampler.weights().values()), expected, rtol=1e-9)
    assert sampler.entropy() == pytest.approx(-(expected * np.log(expected)).sum())


def test_floor_is_a_mixture_with_the_uniform_distribution():
    pure = with_rates([0.0, 0.5, 1.0], tau=0.001, floor=0.0)
    np.testing.assert_allclose(pure.probabilities(), [1, 0, 0], atol=1e-12)
    assert pure.entropy() == pytest.approx(0, abs=1e-9)
    mixed = with_rates([0.0, 0.5, 1.0], tau=0.001, floor=0.3)
    np.testing.assert_allclose(mixed.probabilities(), [0.8, 0.1, 0.1], rtol=1e-9)
    np.testing.assert_allclose(with_rates([0.0, 0.5, 1.0], floor=1.0).probabilities(), 1 / 3, rtol=1e-9)


@pytest.mark.parametrize("scheme", ["paper", "frontier", "uniform"])
def test_without_episodes_all_starts_are_alike(scheme):
    sampler = SuccessSampler(STARTS, scheme)
    assert sampler.success_rates().tolist() == [0.5] * 4
    np.testing.assert_allclose(sampler.probabilities(), 0.25, rtol=1e-12)
    assert sampler.entropy() == pytest.approx(math.log(4))
    assert sampler.task_counts() == {0: (0, 0), 3: (0, 0)} == sampler.recent_task_counts()


def test_rates_are_shrunk_towards_the_task_and_that_towards_one_half():
    sampler = SuccessSampler(STARTS, half_life=math.inf, task_prior=2.0, start_prior=4.0)
    for is_success in (True, True, False):
        sampler.record((0, 1), is_success)
    task_rate = (2 + 1) / (3 + 2)
    tried = (2 + 4 * task_rate) / (3 + 4)
    np.testing.assert_allclose(sampler.success_rates(), [task_rate, tried, 0.5, 0.5], rtol=1e-12)
    # what is reported is what was counted, without any prior
    assert sampler.task_counts() == {0: (2, 3), 3: (0, 0)} == sampler.recent_task_counts()
    assert sampler.n_episodes == 3


def test_many_episodes_show_the_raw_rate():
    sampler = SuccessSampler(STARTS, half_life=math.inf)
    for i in range(4000):
        sampler.record((3, 5), i % 4 == 0)
        sampler.record((3, 0), True)
    np.testing.assert_allclose(sampler.success_rates()[2:], [1.0, 0.25], atol=2e-3)


def test_an_episode_counts_half_after_as_many_episodes_as_the_half_life():
    sampler = SuccessSampler(STARTS, half_life=5)
    sampler.record((0, 0), True)
    for _ in range(5):
        sampler.record((3, 0), False)
    state = sampler.state_dict()
    assert state["episodes"][0] == pytest.approx(0.5) and state["successes"][0] == pytest.approx(0.5)
    assert state["episodes"][2] == pytest.approx(sum(0.5 ** (age / 5) for age in range(5)))
    assert state["successes"][2] == 0 and sampler.n_episodes == 6
    # reported counts are not discounted, recent ones are
    assert sampler.task_counts() == {0: (1, 1), 3: (0, 5)}
    assert sampler.recent_task_counts()[0] == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("scheme", ["paper", "frontier"])
def test_of_two_starts_with_the_same_rate_the_one_seen_less_is_drawn_more(scheme):
    starts = [(0, 0), (1, 0)]
    for optimism in (0.0, 1.0):
        # the priors are all but off, so that both have the raw rate of 1/10
        kwargs = {"half_life": math.inf, "task_prior": 1e-9, "start_prior": 1e-9, "tau": 0.1, "floor": 0.0}
        sampler = SuccessSampler(starts, scheme, optimism=optimism, **kwargs)
        for i in range(200):
            sampler.record((0, 0), i % 10 == 0)
        for i in range(10):
            sampler.record((1, 0), i % 10 == 0)
        often, seldom = sampler.probabilities()
        assert sampler.success_rates() == pytest.approx([0.1, 0.1])
        assert seldom == pytest.approx(often) if optimism == 0 else seldom > 1.5 * often


def test_optimism_in_closed_form():
    sampler = SuccessSampler(
        [(0, 0), (1, 0)], "frontier", tau=0.1, floor=0.0, half_life=math.inf, task_prior=1e-12, start_prior=1e-12
    )
    for i in range(20):
        sampler.record((0, 0), i < 4)
        sampler.record((1, 0), i < 10)
    # s = 0.2 from 20 episodes: sqrt(0.2 * 0.8 / 21) = 0.0873 more is possible; s = 0.5 is the best there is
    expected = np.exp(np.array([-(0.5 - 0.2 - math.sqrt(0.16 / 21)), 0.0]) / 0.1)
    np.testing.assert_allclose(sampler.probabilities(), expected / expected.sum(), rtol=1e-6)


def test_a_task_that_failed_long_ago_is_tried_again():
    """Without optimism a frontier that has moved on hardly ever comes back to what once failed."""
    starts = [(task_id, k) for task_id in range(2) for k in range(5)]
    shares = {}
    for optimism in (0.0, 2.0):
        sampler = SuccessSampler(starts, "frontier", tau=0.1, floor=0.0, half_life=50, optimism=optimism)
        for k in range(5):
            for _ in range(20):
                sampler.record((0, k), False)
        for i in range(500):
            sampler.record((1, i % 5), i % 2 == 0)
        shares[optimism] = sampler.probabilities()[:5].sum()
    assert shares[2.0] > shares[0.0]
    assert shares[2.0] > 0.2


def test_uniform_counts_and_prefers_nothing():
    sampler = SuccessSampler(STARTS, "uniform")
    for _ in range(50):
        sampler.record((0, 0), False)
    np.testing.assert_allclose(sampler.probabilities(), 0.25, rtol=1e-12)
    assert sampler.task_counts() == {0: (0, 50), 3: (0, 0)}


def test_what_an_old_policy_did_is_forgotten():
    rates = {}
    for half_life in (10.0, math.inf):
        sampler = SuccessSampler([(0, 0)], half_life=half_life)
        for is_success in [False] * 200 + [True] * 200:
            sampler.record((0, 0), is_success)
        rates[half_life] = sampler.success_rates()[0]
    assert rates[10.0] > 0.85 and rates[math.inf] == pytest.approx(0.5)


def test_state_travels_through_json_to_starts_in_another_order():
    sampler = SuccessSampler(STARTS)
    for i in range(40):
        sampler.record(STARTS[i % 3], i % 7 < 3)
    other = SuccessSampler(STARTS[::-1])
    other.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert other.n_episodes == 40 and other.task_counts() == sampler.task_counts()
    assert len(set(sampler.weights().values())) > 2
    assert other.weights() == pytest.approx(sampler.weights())
    twin = pickle.loads(pickle.dumps(sampler))
    for each in (sampler, twin):
        each.record((3, 5), True)
    assert twin.weights() == sampler.weights()


def test_a_state_of_other_starts_is_refused():
    sampler = SuccessSampler(STARTS)
    sampler.record((0, 0), True)
    before = sampler.state_dict()
    with pytest.raises(ValueError, match=r"other starts: 3 are in one alone, \(0, 1\) for one"):
        sampler.load_state_dict(SuccessSampler([*STARTS[2:], (0, 0), (4, 0), (4, 1)]).state_dict())
    assert sampler.state_dict() == before


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tau": 0.0}, r"tau is 0\.0; expected a number above 0"),
        ({"tau": math.nan}, "tau is nan"),
        ({"half_life": -1.0}, r"half_life is -1\.0"),
        ({"task_prior": 0.0}, r"task_prior is 0\.0"),
        ({"start_prior": 0.0}, r"start_prior is 0\.0"),
        ({"floor": -0.1}, r"floor is -0\.1; expected a share from 0 to 1"),
        ({"floor": 1.1}, r"floor is 1\.1"),
        ({"optimism": -1.0}, r"optimism is -1\.0; expected a finite number of at least 0"),
        ({"optimism": math.inf}, "optimism is inf"),
        ({"starts": []}, "starts has 0 pairs"),
        ({"starts": [(0, 0), (0, 0)]}, "starts has 2 pairs, 1 of them distinct"),
    ],
)
def test_numbers_out_of_range_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SuccessSampler(**{"starts": STARTS, **kwargs})


def test_unknown_names_are_listed():
    with pytest.raises(
        UnknownNameError, match=r"Unknown scheme 'frontire'.*'frontier'.*Valid: paper, frontier, uniform"
    ):
        SuccessSampler(STARTS, "frontire")
    sampler = SuccessSampler(STARTS)
    assert (3, 5) in sampler and (3, 1) not in sampler
    with pytest.raises(
        UnknownNameError, match=r"Unknown start \(3, 1\)\. Valid: the 4 pairs from \(0, 0\) to \(3, 5\)"
    ):
        sampler.record((3, 1), True)
    assert sampler.n_episodes == 0
