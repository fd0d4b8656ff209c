"""Targets of frames, and negative examples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_algos.errors import FilmError, TrajectoryError, UnknownNameError
from vla_algos.rewards.films import Film
from vla_algos.rewards.labels import LabelRule
from vla_algos.rewards.model import OUTPUTS
from vla_algos.rewards.targets import (
    frame_outputs,
    frame_targets,
    make_examples,
    other_instructions,
    other_targets,
    scene_of,
    usable_films,
)
from vla_gym.envs.privileged import PRIVILEGED_NAMES
from vla_gym.tasks.registry import get_suite

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


def test_success_is_the_last_frame_of_a_success_and_held_is_known_to_the_simulator_alone() -> None:
    held = film()
    for name, values in (("is_turnon", 0.0), ("is_on", 1.0), ("subject_lift", [0.0, 0.0, 0.1, 0.1, 0.1, 0.1])):
        held.privileged[:, PRIVILEGED_NAMES.index(f"atom0/{name}")] = values
    held.privileged[5, PRIVILEGED_NAMES.index("finger_pos/0")] = 0.08
    found = frame_outputs(held, OUTPUTS, "truth")
    np.testing.assert_array_equal(found["held"], [0, 0, 1, 1, 1, 0])
    np.testing.assert_array_equal(found["success"], [0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(found["progress"], frame_targets(held, "truth"))
    blind = frame_outputs(replace(film(False), privileged=None), OUTPUTS, "progress", RULE)
    assert np.isnan(blind["held"]).all() and not blind["success"].any()
    assert list(frame_outputs(film(), ("progress",), "truth")) == ["progress"]
    with pytest.raises(UnknownNameError, match="output 'grasped'"):
        frame_outputs(film(), ("progress", "grasped"), "truth")


def test_films_that_cannot_be_labelled_are_left_out_and_counted() -> None:
    two = {"frames": film().frames[:2], "proprio": film().proprio[:2], "privileged": None}
    short = replace(film(), **two, steps=np.array([0, 2]), trace=film().trace[:2])
    blind = replace(film(), frames=np.zeros((6, 0, 0, 3), np.uint8))
    bare = replace(film(), privileged=None, trace=None)
    still = replace(film(), trace=np.zeros((40, 8), np.float32))
    films = [film(), short, film(False), blind, bare, still, short]
    for kind in ("progress", "paper"):
        kept, skipped = usable_films(films, kind)
        assert list(map(id, kept)) == [id(films[i]) for i in (0, 2, 5)]
        assert skipped == {
            "fewer than 3 control steps": 2,
            "no images": 1,
            "no trace of every control step (record with trace=True)": 1,
        }
        for each in kept:
            assert np.isfinite(frame_targets(each, kind, RULE)).all()
    kept, skipped = usable_films(films, "truth")
    assert list(map(id, kept)) == [id(films[i]) for i in (0, 2, 5)]
    assert skipped == {"no images": 1, "no privileged observations (record with privileged_obs=True)": 3}
    assert usable_films([], "paper") == ([], {})
    with pytest.raises(UnknownNameError, match="targets 'prog'"):
        usable_films([], "prog")  # type: ignore[arg-type]


def task_film(suite: str, task_id: int, **changes: object) -> Film:
    return replace(film(), instruction=get_suite(suite).task(task_id).instruction, task_id=task_id, **changes)


def test_other_instructions_come_from_the_same_scene_alone() -> None:
    goal = [task_film("goal", i) for i in (0, 7, 0)]
    texts = [each.instruction for each in goal]
    # KITCHEN_SCENE10 and KITCHEN_SCENE1
    kitchens = [task_film("90", i) for i in (0, 1, 2, 6, 7)]
    objects = [task_film("object", i) for i in (0, 1)]
    found = other_instructions([*goal, *kitchens, *objects])
    assert found[:3] == [[texts[1]], [texts[0]], [texts[1]]]
    assert {scene_of(each) for each in kitchens} == {"KITCHEN_SCENE10", "KITCHEN_SCENE1"}
    for each, others in zip(kitchens, found[3:8], strict=True):
        for text in others:
            (scene,) = {scene_of(other) for other in kitchens if other.instruction == text}
            assert scene == scene_of(each) and text != each.instruction
    assert found[8:] == [[], []]


def test_an_instruction_that_is_part_of_another_is_no_other_one() -> None:
    # "close the top drawer of the cabinet", the same "and put the black bowl on top of it", "put the black bowl ..."
    films = [task_film("90", i) for i in (0, 1, 2)]
    assert films[0].instruction in films[1].instruction
    found = other_instructions(films)
    assert found[0] == found[1] == [films[2].instruction]
    assert found[2] == [films[0].instruction, films[1].instruction]


def test_a_film_of_a_task_that_is_not_liberos_has_no_scene() -> None:
    assert scene_of(film()) is None and other_instructions([film(), film(task_id=1)]) == [[], []]
    turn_on = task_film("goal", 7)
    assert scene_of(turn_on) == "libero_goal" and scene_of(replace(turn_on, task_id=3)) is None
    # some kitchens of LIBERO-90 have a stove, too
    assert scene_of(replace(turn_on, task_id=-1)) is None


def test_the_simulator_says_what_is_done_of_other_instructions() -> None:
    under = {"b": np.linspace(0.0, 0.5, 6, dtype=np.float32), "c": np.linspace(0.0, 1.0, 6, dtype=np.float32)}
    knows = replace(film(), progress_under=under)
    assert other_instructions([knows, film()]) == [["b", "c"], []]
    found = other_targets(knows, ["b", "c", "d"], "truth")
    np.testing.assert_array_equal([found[text] for text in "bcd"], [under["b"], under["c"], np.zeros(6)])
    for kind in ("progress", "paper"):
        # it is no negative of what it fulfils
        assert {text: each.tolist() for text, each in other_targets(knows, ["b", "c"], kind).items()} == {
            "b": [0.0] * 6
        }
    examples = make_examples([knows], [frame_outputs(knows, OUTPUTS, "truth")], [found], 0.98, np.random.default_rng(0))
    under_c = [e for e in examples if e.instruction == "c"]
    assert {(e.now, e.progress, e.success) for e in under_c} == {
        (k, float(under["c"][k]), float(k == 5)) for k in range(6)
    }


NOTHING = np.zeros(6, np.float32)


def outputs(films: list[Film], names: tuple[str, ...] = ("progress",)) -> list[dict[str, np.ndarray]]:
    return [frame_outputs(each, names, "truth") for each in films]


def test_half_of_the_examples_are_negatives_of_both_kinds() -> None:
    films = [film(), film(False), film(task_id=1)]
    targets = outputs(films)
    examples = make_examples(films, targets, [dict.fromkeys("bc", NOTHING)] * 2 + [{}], 0.5, np.random.default_rng(0))
    assert len(examples) == 36
    shown, negatives = examples[:18], examples[18:]
    assert [(e.film, e.first, e.now) for e in shown] == [(i, 0, k) for i in range(3) for k in range(6)]
    np.testing.assert_allclose([e.progress for e in shown], np.concatenate([each["progress"] for each in targets]))
    assert all(e.progress == 0.0 for e in negatives)
    assert all(np.isnan([e.held, e.success]).all() for e in examples)
    others = [e for e in negatives if e.instruction != "a"]
    rewound = [e for e in negatives if e.instruction == "a"]
    assert len(others) == len(rewound) == 9
    assert {e.instruction for e in others} == {"b", "c"} and {e.film for e in others} <= {0, 1}
    assert all(e.first == 5 and e.now < 5 and films[e.film].is_success for e in rewound)


def test_cut_films_are_asked_about_where_success_is_taught() -> None:
    films = [film(), film(False), film(task_id=1)]
    for each in films:
        # an object to be moved, which the closed hand has lifted
        for name, value in (("is_turnon", 0.0), ("is_on", 1.0), ("subject_lift", 0.05)):
            each.privileged[:, PRIVILEGED_NAMES.index(f"atom0/{name}")] = value
    targets = outputs(films, OUTPUTS)
    examples = make_examples(films, targets, [{"b": NOTHING}] * 3, 0.5, np.random.default_rng(0))
    others = [e for e in examples if e.instruction == "b"]
    assert len(others) == 6 and all(np.isnan(e.held) and e.success == e.progress == 0.0 for e in others)
    rewound = [e for e in examples if e.first]
    assert len(rewound) == 6 and all((e.progress, e.held, e.success) == (0.0, 1.0, 0.0) for e in rewound)
    cut = examples[18:][2::3]
    assert len(cut) == 6 and {(e.film, e.first, e.now) for e in cut} == {(0, 0, 4), (2, 0, 4)}
    assert all(e.success == 0.0 and e.progress == pytest.approx(float(targets[0]["progress"][4])) for e in cut)


def test_without_other_instructions_or_successes_negatives_are_of_the_kinds_that_there_are() -> None:
    failures, successes = [film(False)], [film()]
    zeros = [{"progress": np.zeros(6, np.float32)}]
    rng = np.random.default_rng(0)
    assert len(make_examples(failures, zeros, [{}], 0.5, rng)) == 6
    assert len(make_examples(failures, zeros, [{"b": NOTHING}], 0.5, rng)) == 12
    assert len(make_examples(failures, zeros, [{"b": NOTHING}], 0.0, rng)) == 6
    assert sum(e.first == 5 for e in make_examples(successes, zeros, [{}], 0.5, rng)) == 6
    parts = {"frames": film().frames[:2], "proprio": film().proprio[:2], "privileged": None, "trace": None}
    two = replace(film(), **parts, steps=np.array([0, 8]))
    cut = make_examples([two], [{"progress": np.zeros(2), "success": np.array([0, 1])}], [{}], 0.5, rng)
    assert [(e.first, e.now, e.success) for e in cut[2:]] == [(1, 0, 0.0), (0, 0, 0.0)]
    with pytest.raises(ValueError, match=r"negatives is 1\.0"):
        make_examples(failures, zeros, [{}], 1.0, rng)
