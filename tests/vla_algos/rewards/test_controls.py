"""Controls that see no image: what each can tell, and what it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_algos.errors import FilmError, UnknownNameError
from vla_algos.rewards.audit import audit, audit_controls
from vla_algos.rewards.controls import fit_control
from vla_algos.rewards.films import Film
from vla_algos.rewards.shaping import Shaping


def film(n: int, is_success: bool, task_id: int = 0, start: int = 0, x: float = 0.0) -> Film:
    """``n`` decisions of 8 control steps at a constant speed; frames are noise. A failure stays where it is."""
    steps = 8 * np.arange(n + 1)
    trace = np.zeros((8 * n, 8), np.float32)
    trace[:, 0] = x + np.linspace(0.0, 0.5, len(trace)) * is_success
    # a hand that points downwards, whose axis-angle vector jumps by 2 pi at every other step
    trace[:, 3] = np.pi * np.where(np.arange(len(trace)) // 8 % 2, 1, -1)
    proprio = np.concatenate([trace[::8], trace[-1:]])
    frames = np.random.default_rng(n).integers(0, 256, (n + 1, 2, 2, 3), dtype=np.uint8)
    return Film(frames, steps, proprio, f"task {task_id}", task_id, start, is_success, "mine", trace=trace)


TRAIN = [film(10 if success else 20, success, start=k, x=0.01 * k) for k in range(4) for success in (True, False)]
HELD_OUT = [film(10 if success else 20, success, start=9, x=0.02) for success in (True, False)]


def test_proprioception_tells_how_far_the_hand_is():
    control = fit_control(TRAIN, "proprio", "progress")
    progress = control.progress(HELD_OUT[0])
    assert progress.shape == (11,) and progress.dtype == np.float64
    np.testing.assert_allclose(progress, np.linspace(0, 1, 11), atol=0.15)
    # played backwards it goes back
    assert audit(control, HELD_OUT, Shaping()).rewound == 1.0


def test_the_clock_says_the_same_of_every_film_and_runs_on_when_a_film_is_played_backwards():
    found = audit(fit_control(TRAIN, "clock", "progress"), HELD_OUT, Shaping())
    success, failure = (each.progress for each in found.films)
    np.testing.assert_array_equal(success, failure[:11])
    assert found.auc_mean == 0.5
    # nothing but failures lasts longer than 10 decisions
    assert failure[-1] < 0.1 and found.auc_last == 1.0
    early = audit(fit_control([film(10, True)], "clock", "progress"), HELD_OUT, Shaping())
    assert early.rewound == 0.0 and early.rewound_gain > 0.5


def test_the_length_gives_successes_away_in_every_frame():
    found = audit(fit_control(TRAIN, "length", "progress"), HELD_OUT, Shaping(), gamma=1.0)
    success, failure = (each.progress for each in found.films)
    np.testing.assert_allclose(success, 0.5, atol=0.05)
    np.testing.assert_allclose(failure, 0.0, atol=0.05)
    assert (found.auc_last, found.auc_mean, found.rewound) == (1.0, 1.0, 0.0)
    # the same in every frame: a difference pays nothing
    assert [each.pay for each in found.films] == pytest.approx([1.0, 0.0])


def test_controls_know_the_task_by_its_instruction():
    films = [film(10, task_id == 0, task_id=task_id, start=k) for task_id in (0, 1) for k in range(3)]
    films = [replace(each, proprio=films[0].proprio) for each in films]
    control = fit_control(films, "proprio", "progress")
    assert control.progress(films[0])[-1] > 0.8 and control.progress(films[3])[-1] < 0.2
    # under the other instruction they say something else, under an unknown one they still answer
    assert control.progress(replace(films[0], instruction="task 1"))[-1] < 0.2
    assert 0 <= control.progress(replace(films[0], instruction="unknown"))[-1] <= 1


def test_all_controls_are_judged_like_a_model():
    found = audit_controls(TRAIN, HELD_OUT, Shaping(), targets="progress")
    assert list(found) == ["proprio", "clock", "length"]
    assert all(each.n_films == (2, 1) for each in found.values())
    assert found["proprio"].auc_last == 1.0 and found["clock"].auc_mean == 0.5


def test_the_same_seed_gives_the_same_control_and_leaves_torchs_alone():
    import torch as th

    th.manual_seed(3)
    expected = th.rand(1)
    th.manual_seed(3)
    one, same, other = (fit_control(TRAIN, "clock", "progress", steps=5, seed=seed) for seed in (0, 0, 1))
    assert th.rand(1) == expected
    np.testing.assert_array_equal(one.progress(HELD_OUT[0]), same.progress(HELD_OUT[0]))
    assert (one.progress(HELD_OUT[0]) != other.progress(HELD_OUT[0])).any()


def test_what_a_control_cannot_be_fitted_on_is_refused():
    with pytest.raises(UnknownNameError, match=r"'image'.*proprio, clock, length"):
        fit_control(TRAIN, "image", "progress")
    with pytest.raises(FilmError, match="There are 0 films to fit a control on; expected some"):
        fit_control([], "clock", "progress")
    with pytest.raises(FilmError, match="no privileged observations"):
        fit_control(TRAIN, "clock")
