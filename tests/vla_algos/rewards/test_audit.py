"""Figures of an audit on films whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from vla_algos.errors import FilmError
from vla_algos.rewards.audit import auc, audit, calibration_error, confusion, progress_in, table
from vla_algos.rewards.films import Film
from vla_algos.rewards.shaping import Shaping


class Brightness:
    """Phi = brightness / 100."""

    key = "agentview"

    def score(self, seen, instructions):
        return seen[:, 1, 0, 0, 0].astype(np.float32) / 100


class Clock:
    """Counts on the finger's position, which the tests use as a clock: a control that sees no image."""

    key = "proprio"

    def score(self, seen, instructions):
        return seen[:, 1, 0]


def film(*progress: float, is_success: bool, task_id: int = 0, start: int = 0, instruction: str = "a") -> Film:
    n = len(progress)
    frames = np.zeros((n, 2, 2, 3), np.uint8)
    frames[:] = np.round(100 * np.array(progress)).astype(np.uint8)[:, None, None, None]
    proprio = np.zeros((n, 8), np.float32)
    proprio[:, 0] = np.arange(n) / 100
    return Film(frames, np.arange(n) * 8, proprio, instruction, task_id, start, is_success, "mine")


SUCCESSES = [film(0.0, 0.5, 1.0, is_success=True, start=k) for k in range(3)]
FAILURES = [film(*[0.0, 0.3, *[0.6 - 0.1 * k] * 6], is_success=False, start=k) for k in range(3)]


@pytest.mark.parametrize(
    ("scores", "is_positive", "expected"),
    [
        ([3, 2, 1], [1, 0, 0], 1.0),
        ([1, 2, 3], [1, 0, 0], 0.0),
        ([1, 1], [1, 0], 0.5),
        ([1, 2, 1, 0], [1, 1, 0, 0], 0.875),
    ],
)
def test_auc_is_the_share_of_pairs_in_order(scores, is_positive, expected):
    assert auc(scores, is_positive) == pytest.approx(expected)
    assert np.isnan(auc([1, 2], [1, 1]))


def test_delta_ranks_successes_first_and_the_plain_sum_pays_for_failing_longer():
    delta = audit(Brightness(), [*SUCCESSES, *FAILURES], Shaping("delta"), gamma=1.0)
    assert (delta.n_films, delta.auc_return, delta.auc_last) == ((6, 3), 1.0, 1.0)
    assert delta.best_failure == (pytest.approx(0.6), 3) and delta.worst_success == pytest.approx(2.0)
    assert delta.loitering == pytest.approx(0.3) and not delta.does_failing_pay
    summed = audit(Brightness(), [*SUCCESSES, *FAILURES], Shaping("sum"), gamma=1.0)
    # 0.3 + 6 x 0.6 for the best failure, 0.5 + 1 + 1 for each success
    assert summed.auc_return == 0.0 and summed.best_failure[0] == pytest.approx(3.9)
    assert summed.worst_success == pytest.approx(2.5) and summed.does_failing_pay
    assert summed.loitering == pytest.approx(7 * 0.6 / 2.5)
    capped = audit(Brightness(), [*SUCCESSES, *FAILURES], Shaping("sum", episode_cap=0.5), gamma=1.0)
    assert capped.best_failure[0] == pytest.approx(0.5) and capped.auc_return == 1.0


def test_the_mean_over_equal_lengths_does_not_see_how_long_a_film_is():
    short = [film(0.0, 0.2, 0.4, is_success=True, start=k) for k in range(3)]
    long = [film(*[0.0, 0.2, 0.4] * 4, is_success=False, start=k) for k in range(3)]
    assert audit(Brightness(), [*short, *long], Shaping()).auc_mean == 0.5


def test_rewound_films_fall_and_their_groups_are_ranked():
    found = audit(Brightness(), [*SUCCESSES, *FAILURES], Shaping())
    assert found.rewound == 1.0 and found.ranking == pytest.approx(1.0) and np.isnan(found.truth)
    clock = audit(Clock(), [*SUCCESSES, *FAILURES], Shaping())
    # failures last longer: their last frame shows a later time
    assert clock.auc_last == 0.0 and clock.ranking == pytest.approx(-1.0)


def test_figures_are_given_per_task():
    other = [film(0.0, 0.1, is_success=True, task_id=1), film(0.0, 0.9, is_success=False, task_id=1)]
    found = audit(Brightness(), [*SUCCESSES, *FAILURES, *other], Shaping())
    assert found.auc_last_of_task == {0: 1.0, 1: 0.0}


def test_discounting_prefers_a_quick_success():
    quick, slow = film(0.0, 1.0, is_success=True), film(0.0, *[0.0] * 50, 1.0, is_success=True)
    failure = film(0.0, 0.5, is_success=False)
    found = audit(Brightness(), [quick, slow, failure], Shaping("delta"), gamma=0.9)
    assert found.worst_success == pytest.approx(2 * 0.9**50) and found.does_failing_pay


def test_a_confusion_of_instructions_shows():
    class Reads(Brightness):
        def score(self, seen, instructions):
            return np.array([1.0 if text == "b" else 0.25 for text in instructions], np.float32)

    films = [film(0.0, 1.0, is_success=True, instruction=text) for text in ("a", "b", "b")]
    films.append(film(0.0, 1.0, is_success=False, instruction="c"))
    found = confusion(Reads(), films, ["a", "b", "c"])
    np.testing.assert_array_equal(found, [[0.25, 1.0, 0.25]] * 2 + [[np.nan] * 3])


def test_calibration_compares_scores_with_what_became_true():
    assert calibration_error([0.95] * 20, [True] * 19 + [False]) == pytest.approx(0.0)
    assert calibration_error([0.95, 0.05], [False, True]) == pytest.approx(0.95)
    assert calibration_error([1.0, 0.0], [True, False]) == 0.0


def test_films_of_one_kind_alone_are_refused():
    with pytest.raises(FilmError, match="3 of 3 films are successes; expected successes and failures"):
        audit(Brightness(), SUCCESSES, Shaping())


def test_a_film_without_what_the_model_looks_at_is_refused():
    class Knows(Brightness):
        key = "privileged"

    with pytest.raises(FilmError, match=r"no 'privileged'.*privileged_obs=True"):
        progress_in(Knows(), SUCCESSES[0])


def test_the_table_has_a_column_for_each_control():
    found = {
        name: audit(model, [*SUCCESSES, *FAILURES], Shaping()) for name, model in (("m", Brightness()), ("c", Clock()))
    }
    lines = table("m", found["m"], {"c": found["c"]}).splitlines()
    assert lines[0] == "| | m | c |" and all(line.count("|") == 4 for line in lines)
    assert "| AUC, last frame | 1.000 | 0.000 |" in lines
