"""Targets of frames, and negative examples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_algos.errors import FilmError, TrajectoryError, UnknownNameError
from vla_algos.rewards.films import Film
from vla_algos.rewards.labels import LabelRule
from vla_algos.rewards.targets import frame_targets, make_examples
from vla_gym.envs.privileged import PRIVILEGED_NAMES

RULE = LabelRule(smoothing=0.0)


def film(is_success: bool = True, task_id: int = 0) -> Film:
    """Reaching in 16 steps, a stop of 8 in which the hand grasps, carrying in 16; a frame every 8 steps."""
    speeds = np.array([0.2] * 16 + [0.0] * 8 + [0.2] * 16)
    trace = np.zeros((40, 8), np.float32)
    trace[:, 0] = np.concatenate([[0.0], np.cumsum(speeds / 20)[:-1]])
    trace[:20, 6], trace[:20, 7] = 0.04, -0.04
    steps = np.arange(0, 41, 8)
    privileged = np.zeros((6, len(PRIVILEGED_NAMES)), np.float32)
    names = [PRIVILEGED_NAMES.index(f"atom0/{name}") for name in ("exists", "is_turnon", "joint_distance")]
    privileged[:, names] = np.stack([np.ones(6), np.ones(6), np.linspace(1.0, 0.0, 6)], axis=1)
    frames = np.zeros((6, 2, 2, 3), np.uint8)
    return Film(frames, steps, np.zeros((6, 8), np.float32), "a", task_id, 0, is_success, "me", privileged, trace)


def test_truth_is_what_the_simulator_says_of_failures_too() -> None:
    for is_success in (True, False):
        found = frame_targets(film(is_success), "truth")
        np.testing.assert_allclose(found, 0.25 + 0.75 * np.linspace(0.0, 1.0, 6), atol=1e-6)


def test_progress_counts_key_frames_and_is_zero_in_failures() -> None:
    found = frame_targets(film(), "progress", RULE)
    np.testing.assert_allclose(found, [0.0, 0.25, 0.5, 0.5, 0.75, 1.0], atol=1e-6)
    np.testing.assert_array_equal(frame_targets(film(False), "progress", RULE), np.zeros(6))


def test_the_papers_labels_mark_frames_that_end_in_a_key_frame() -> None:
    # the stop lasts from 16 to 23, so its key frame is 19: commands 11 to 18 lead there, and 32 to 39 to the success
    np.testing.assert_array_equal(frame_targets(film(), "paper", RULE), [0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(frame_targets(film(False), "paper", RULE), [0, 0, 1, 0, 0, 0])


def test_films_without_what_a_target_needs_are_refused() -> None:
    with pytest.raises(FilmError, match="no privileged observations"):
        frame_targets(replace(film(), privileged=None), "truth")
    with pytest.raises(FilmError, match="no trace of every control step"):
        frame_targets(replace(film(), trace=None), "progress")
    with pytest.raises(UnknownNameError, match="targets 'prog'"):
        frame_targets(film(), "prog")  # type: ignore[arg-type]
    two = {"frames": film().frames[:2], "proprio": film().proprio[:2], "privileged": None}
    with pytest.raises(TrajectoryError, match="2 control steps"):
        frame_targets(replace(film(), **two, steps=np.array([0, 2]), trace=film().trace[:2]), "progress")


def test_half_of_the_examples_are_negatives_of_both_kinds() -> None:
    films = [film(), film(False), film(task_id=1)]
    targets = [frame_targets(each, "truth") for each in films]
    examples = make_examples(films, targets, {0: ["b", "c"]}, 0.5, np.random.default_rng(0))
    assert len(examples) == 36
    shown, negatives = examples[:18], examples[18:]
    assert [(e.film, e.first, e.now) for e in shown] == [(i, 0, k) for i in range(3) for k in range(6)]
    np.testing.assert_allclose([e.target for e in shown], np.concatenate(targets))
    assert all(e.target == 0.0 for e in negatives)
    others = [e for e in negatives if e.instruction != "a"]
    rewound = [e for e in negatives if e.instruction == "a"]
    assert len(others) == len(rewound) == 9
    assert {e.instruction for e in others} == {"b", "c"} and {e.film for e in others} <= {0, 1}
    assert all(e.first == 5 and e.now < 5 and films[e.film].is_success for e in rewound)


def test_without_other_instructions_or_successes_there_are_fewer_negatives() -> None:
    failures = [film(False)]
    zeros = [np.zeros(6, np.float32)]
    assert len(make_examples(failures, zeros, {}, 0.5, np.random.default_rng(0))) == 6
    assert len(make_examples(failures, zeros, {0: ["b"]}, 0.5, np.random.default_rng(0))) == 12
    assert len(make_examples(failures, zeros, {0: ["b"]}, 0.0, np.random.default_rng(0))) == 6
    with pytest.raises(ValueError, match=r"negatives is 1\.0"):
        make_examples(failures, zeros, {}, 1.0, np.random.default_rng(0))
