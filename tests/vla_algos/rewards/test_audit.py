"""Figures of an audit on films whose figures are known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from vla_algos.errors import FilmError, RewardModelError
from vla_algos.rewards.audit import auc, audit, audit_controls, calibration_error, reliability
from vla_algos.rewards.films import Film
from vla_algos.rewards.judging import confusion, progress_in
from vla_algos.rewards.model import TrueProgress
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
    assert delta.best_failure == (pytest.approx(0.6), 3) and delta.worst_success[0] == pytest.approx(2.0)
    assert delta.loitering == pytest.approx(0.3) and not delta.does_failing_pay
    summed = audit(Brightness(), [*SUCCESSES, *FAILURES], Shaping("sum"), gamma=1.0)
    # 0.3 + 6 x 0.6 for the best failure, 0.5 + 1 + 1 for each success
    assert summed.auc_return == 0.0 and summed.best_failure[0] == pytest.approx(3.9)
    assert summed.worst_success[0] == pytest.approx(2.5) and summed.does_failing_pay
    assert summed.loitering == pytest.approx(7 * 0.6 / 2.5)
    capped = audit(Brightness(), [*SUCCESSES, *FAILURES], Shaping("sum", episode_cap=0.5), gamma=1.0)
    assert capped.best_failure[0] == pytest.approx(0.5) and capped.auc_return == 1.0


def test_the_mean_over_equal_lengths_does_not_see_how_long_a_film_is():
    short = [film(0.0, 0.2, 0.4, is_success=True, start=k) for k in range(3)]
    long = [film(*[0.0, 0.2, 0.4] * 4, is_success=False, start=k) for k in range(3)]
    assert audit(Brightness(), [*short, *long], Shaping()).auc_mean == 0.5


def test_lengths_are_equal_within_a_task_so_that_a_short_task_does_not_blind_another():
    # the successes of task 0 show only in its third frame; films of task 1 have two
    slow = [film(0.0, 0.0, 1.0, is_success=True), film(0.0, 0.0, 0.0, 0.0, is_success=False)]
    quick = [film(0.0, 0.4, is_success=True, task_id=1), film(0.0, 0.4, is_success=False, task_id=1)]
    found = audit(Brightness(), [*slow, *quick], Shaping())
    assert [found.of_task[task].auc_mean for task in (0, 1)] == [1.0, 0.5] and found.auc_mean == 0.75


def test_knowing_which_task_is_easy_is_not_seeing_what_was_done():
    # always 0.9 in the easy task and 0.1 in the hard one
    easy = [film(0.0, 0.9, is_success=k > 0) for k in range(4)]
    hard = [film(0.0, 0.1, is_success=k == 0, task_id=1) for k in range(4)]
    found = audit(Brightness(), [*easy, *hard], Shaping())
    assert found.auc_last == 0.5
    assert auc([each.progress[-1] for each in found.films], [each.film.is_success for each in found.films]) == 0.75


def test_tasks_weigh_by_their_pairs_and_one_kind_alone_counts_nowhere():
    one = [film(0.0, 0.1, is_success=True, task_id=1), film(0.0, 0.9, is_success=False, task_id=1)]
    alone = [film(0.0, 0.5, is_success=False, task_id=2), film(0.0, 0.2, is_success=True, task_id=3)]
    found = audit(Brightness(), [*SUCCESSES, *FAILURES, *one, *alone], Shaping(), gamma=1.0)
    assert [found.of_task[task].auc_last for task in (0, 1)] == [1.0, 0.0]
    # nine pairs in task 0, one in task 1
    assert found.auc_last == pytest.approx(0.9)
    assert found.of_task[2].n_films == (1, 0) and np.isnan(found.of_task[2].auc_last)
    assert np.isnan(found.of_task[2].worst_success) and np.isnan(found.of_task[3].waiting)
    assert not found.of_task[2].does_failing_pay and np.isnan(found.of_task[3].loitering)


def test_failing_pays_if_it_does_in_one_task():
    # the failure of task 0 earns more than the success of task 1, but no policy can choose between them
    cheap = [film(0.0, 0.0, is_success=True, task_id=1), film(0.0, 0.0, is_success=False, task_id=1)]
    rich = [film(0.0, 1.0, is_success=True), film(0.0, 1.0, is_success=False)]
    found = audit(Brightness(), [*cheap, *rich], Shaping(weight=1.5), gamma=1.0)
    assert found.best_failure == (1.5, 3) and found.worst_success == (1.0, 0) and not found.does_failing_pay
    late = [film(0.0, *[0.0] * 60, 1.0, is_success=True, task_id=2), film(0.0, 1.0, is_success=False, task_id=2)]
    assert audit(Brightness(), [*cheap, *rich, *late], Shaping(weight=1.5), gamma=0.99).does_failing_pay


def test_successes_fall_when_undone_and_groups_from_one_start_are_ranked():
    found = audit(Brightness(), [*SUCCESSES, *FAILURES], Shaping())
    assert found.rewound == 1.0 and found.rewound_gain == pytest.approx(-1.0)
    assert found.ranking == pytest.approx(1.0) and np.isnan(found.truth)
    clock = audit(Clock(), [*SUCCESSES, *FAILURES], Shaping())
    # failures last longer: their last frame shows a later time
    assert clock.auc_last == 0.0 and clock.ranking == pytest.approx(-1.0)


def test_a_model_that_compares_with_the_first_frame_is_asked_about_films_that_begin_at_their_end():
    class Difference(Brightness):
        def score(self, seen, instructions):
            return np.abs(seen[:, 1, 0, 0, 0].astype(np.float32) - seen[:, 0, 0, 0, 0]) / 100

    found = audit(Difference(), [*SUCCESSES, *FAILURES], Shaping())
    # within an episode undoing counts as such; in one that begins at the end, going back counts as progress
    assert found.rewound == 1.0 and found.rewound_gain == pytest.approx(1.0)


def privileged(n: int, *distances: float) -> np.ndarray:
    """The hand is where it was and the object is ``distances`` from its target: progress is 3/4 of the way."""
    from vla_gym.envs.privileged import PRIVILEGED_NAMES

    rows = np.zeros((n, len(PRIVILEGED_NAMES)), np.float32)
    rows[:, PRIVILEGED_NAMES.index("atom0/exists")] = 1
    rows[:, PRIVILEGED_NAMES.index("atom0/subject_from_eef/x")] = 1
    rows[:, PRIVILEGED_NAMES.index("atom0/target_from_subject/x")] = distances
    return rows


def test_progress_is_compared_with_the_simulators_where_films_have_it():
    true = replace(film(0.0, 0.2, 0.4, is_success=True), privileged=privileged(3, 1.0, 0.5, 0.0))
    false = replace(film(0.0, 0.4, 0.2, is_success=False), privileged=privileged(3, 1.0, 0.5, 0.2))
    unknown = film(0.9, 0.1, is_success=False)
    found = audit(Brightness(), [true, false, unknown], Shaping())
    assert found.films[0].truth == pytest.approx([0.0, 0.375, 0.75]) and found.films[2].truth is None
    expected = spearmanr([0, 20, 40, 0, 40, 20], [0, 0.5, 1.0, 0, 0.5, 0.8]).statistic
    assert found.truth == pytest.approx(expected) and found.of_task[0].truth == pytest.approx(expected)
    still = audit(Brightness(), [film(0.3, 0.3, is_success=True), replace(false, frames=false.frames * 0)], Shaping())
    assert still.truth == 0.0


def test_half_a_success_ranks_between_a_failure_and_a_success():
    def of(last: float, distance: float, is_success: bool) -> Film:
        return replace(film(0.0, last, is_success=is_success), privileged=privileged(2, 1.0, distance))

    right = [of(0.2, 0.9, False), of(0.6, 0.1, False), of(0.9, 0.0, True)]
    assert audit(Brightness(), right, Shaping()).ranking == pytest.approx(1.0)
    wrong = [of(0.6, 0.9, False), of(0.2, 0.1, False), of(0.9, 0.0, True)]
    # one of three pairs is in the wrong order
    assert audit(Brightness(), wrong, Shaping()).ranking == pytest.approx(1 / 3)
    # an answer that never changes ranks nothing; films of unknown starts have nothing in common
    assert audit(Brightness(), [of(0.5, 0.9, False), of(0.5, 0.0, True)], Shaping()).ranking == 0.0
    strangers = [replace(each, init_state_id=-1) for each in right]
    assert np.isnan(audit(Brightness(), strangers, Shaping()).ranking)


def test_discounting_prefers_a_quick_success():
    quick, slow = film(0.0, 1.0, is_success=True), film(0.0, *[0.0] * 50, 1.0, is_success=True)
    failure = film(0.0, 0.5, is_success=False)
    found = audit(Brightness(), [quick, slow, failure], Shaping("delta"), gamma=0.9)
    assert found.worst_success[0] == pytest.approx(2 * 0.9**50) and found.does_failing_pay


class Reads(Brightness):
    """Says how bright a frame is, times what the text says."""

    def __init__(self, **weights: float) -> None:
        self.weights = weights

    def score(self, seen, instructions):
        return super().score(seen, instructions) * [self.weights[text] for text in instructions]


def test_a_success_is_mistaken_for_what_scores_above_half_or_as_high_as_itself():
    films = [film(0.0, 1.0, is_success=True, task_id=i, instruction=text) for i, text in enumerate("abb")]
    films[2] = replace(films[2], task_id=1)
    films.append(film(0.0, 1.0, is_success=False, task_id=2, instruction="c"))
    others = {0: ["b", "c"], 1: ["a", "c"]}
    found = confusion(Reads(a=0.25, b=1.0, c=0.375), films, others)
    assert found.instructions == ("a", "b", "c")
    np.testing.assert_array_equal(found.progress, [[0.25, 1.0, 0.375]] * 2 + [[np.nan] * 3])
    # "a" is mistaken for both others, of which "c" is low, but as high as its own; "b" for none
    np.testing.assert_array_equal(found.mistaken, [[np.nan, 1, 1], [0, np.nan, 0], [np.nan] * 3])
    assert found.of_film == pytest.approx(1 / 3) and found.of_pair == pytest.approx(2 / 6)
    # high, though its own is higher
    assert confusion(Reads(a=0.9, b=0.6, c=0.0), films[:1], others).of_film == 1.0
    # one that does not read
    assert confusion(Reads(a=0.1, b=0.1, c=0.1), films, others).of_pair == 1.0


def test_the_instructions_of_a_scene_of_libero_are_found():
    bowl, stove = "put the bowl on the stove", "turn on the stove"
    films = [film(0.0, 1.0, is_success=True, task_id=1, instruction=bowl)]
    films.append(film(0.0, 0.5, is_success=False, task_id=7, instruction=stove))
    found = confusion(Reads(**{bowl: 1.0, stove: 0.6}), films)
    assert found.instructions == (bowl, stove) and found.of_film == 1.0


def test_half_of_the_way_may_be_told_and_what_was_done_as_well_is_not_asked():
    done = replace(
        film(0.0, 1.0, is_success=True, instruction="a"),
        progress_under={"b": np.array([0, 1.0], np.float32), "c": np.array([0.9, 0.5], np.float32)},
    )
    found = confusion(Reads(a=1.0, b=0.9, c=0.7), [done])
    assert found.instructions == ("a", "b", "c") and (found.of_film, found.of_pair, found.left_out) == (0.0, 0.0, 1)
    # nearer to done than to the half that is true
    assert confusion(Reads(a=1.0, b=0.9, c=0.8), [done]).of_film == 1.0
    assert confusion(Reads(a=0.6, b=0.9, c=0.7), [done]).of_film == 1.0
    # nothing is left to ask
    assert np.isnan(confusion(Reads(a=1.0, b=0.9), [done], {0: ["b"]}).of_film)
    # films played backwards know nothing of it
    assert audit(Reads(a=1.0, b=0.9, c=0.1), [done, *FAILURES], Shaping()).rewound_gain == pytest.approx(-1.0)


def test_the_instructions_of_a_scene_can_be_named():
    films = [film(0.0, 1.0, is_success=True, instruction="a"), film(0.0, 1.0, is_success=False, instruction="a")]
    assert np.isnan(confusion(Brightness(), films).of_film)
    found = confusion(Reads(a=1.0, b=0.7, c=0.3), films, {0: ["a", "b", "c"]})
    np.testing.assert_array_equal(found.mistaken[0], [np.nan, 1, 0])
    assert audit(Reads(a=1.0, b=0.4), films, Shaping(), instructions={0: ["b"]}).confused == 0.0
    with pytest.raises(
        TypeError, match=r"instructions\[0\] is 'open it'; expected a list of texts, such as \['open it'\]"
    ):
        confusion(Brightness(), films, {0: "open it"})


def test_the_simulators_own_state_is_not_asked_about_other_tasks():
    true = replace(film(0.0, 0.2, is_success=True), privileged=privileged(2, 1.0, 0.0))
    false = replace(film(0.0, 0.4, is_success=False, task_id=0), privileged=privileged(2, 1.0, 0.5))
    found = audit(TrueProgress(), [true, false], Shaping())
    assert found.confusion is None and np.isnan(found.confused) and found.truth == pytest.approx(1.0)
    with pytest.raises(RewardModelError, match=r"reads 'privileged'.*expected one that reads images"):
        confusion(TrueProgress(), [true])


def test_unusable_scores_pay_nothing_and_are_counted():
    class Broken(Brightness):
        def score(self, seen, instructions):
            scores = super().score(seen, instructions)
            return np.where(scores == np.float32(0.5), [np.nan], np.where(scores > 0.8, 1.5, scores))

    films = [film(0.5, 0.2, 0.5, 0.9, is_success=True), film(0.0, 0.1, is_success=False)]
    found = audit(Broken(), films, Shaping(), gamma=1.0)
    assert found.films[0].progress == pytest.approx([0.0, 0.2, 0.2, 0.2])
    assert found.worst_success[0] == pytest.approx(1.2) and found.invalid == pytest.approx(3 / 6)


def test_a_model_that_gives_another_number_of_scores_is_refused():
    class Short(Brightness):
        def score(self, seen, instructions):
            return super().score(seen, instructions)[:-1]

    with pytest.raises(RewardModelError, match=r"Short.score returned shape \(2,\) for 3 moments; expected \(3,\)"):
        audit(Short(), [*SUCCESSES, *FAILURES], Shaping())


def test_calibration_compares_scores_with_what_became_true():
    assert calibration_error([0.95] * 20, [True] * 19 + [False]) == pytest.approx(0.0)
    assert calibration_error([0.95, 0.05], [False, True]) == pytest.approx(0.95)
    assert calibration_error([1.0, 0.0], [True, False]) == 0.0
    assert np.isnan(calibration_error([], []))
    means, shares, counts = reliability([0.12, 0.18, 1.0], [True, False, True])
    assert means == pytest.approx([0.15, 1.0]) and shares.tolist() == [0.5, 1.0] and counts.tolist() == [2, 1]


def test_films_of_one_kind_alone_are_refused():
    with pytest.raises(FilmError, match="3 of 3 films are successes; expected successes and failures"):
        audit(Brightness(), SUCCESSES, Shaping())


def test_a_film_without_what_the_model_looks_at_is_refused():
    class Knows(Brightness):
        key = "privileged"

    with pytest.raises(FilmError, match=r"no 'privileged'.*privileged_obs=True"):
        progress_in(Knows(), SUCCESSES[0])


def test_films_without_a_task_of_both_kinds_are_refused():
    films = [film(0.0, 1.0, is_success=True), film(0.0, 1.0, is_success=False, task_id=1)]
    with pytest.raises(FilmError, match="1 of 2 films are successes, but no task has both"):
        audit(Brightness(), films, Shaping())
    with pytest.raises(FilmError, match="0 of 0 films are successes; expected successes and failures"):
        audit(Brightness(), [], Shaping())


@pytest.mark.parametrize(("shaping", "gamma"), [(Shaping("potential", gamma=0.9), 0.99), (Shaping(), 1.5)])
def test_one_discount_from_0_to_1_is_expected(shaping, gamma):
    with pytest.raises(ValueError, match=rf"gamma is {gamma}, that of the shaping .*; expected one discount"):
        audit(Brightness(), [*SUCCESSES, *FAILURES], shaping, gamma)


def test_the_figures_are_json_without_nan():
    others = [film(0.0, 1.0, is_success=True, task_id=1, instruction="b")]
    texts = {0: ["b"], 1: ["a"]}
    content = audit(Brightness(), [*SUCCESSES, *FAILURES, *others], Shaping(), instructions=texts).to_dict()
    again = json.loads(json.dumps(content, allow_nan=False))
    assert again["auc_last"] == 1.0 and again["truth"] is None and again["of_task"]["1"]["auc_last"] is None
    assert again["confusion"]["mistaken"] == [[None, 1.0], [1.0, None]]
    assert len(again["films"]) == 7 and again["films"][3]["largest_progress"] == pytest.approx(0.6)


def test_controls_learn_from_other_films_than_those_they_are_judged_on():
    with pytest.raises(FilmError, match=r"1 of 6 films are among those to fit on; expected others.*split_films"):
        audit_controls(FAILURES[:1], [*SUCCESSES, *FAILURES], Shaping(), targets="progress")
