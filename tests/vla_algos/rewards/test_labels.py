"""Labels of trajectories whose right answer is known by construction."""

from __future__ import annotations

import numpy as np
import pytest

from vla_algos.errors import TrajectoryError
from vla_algos.rewards.labels import LabelRule, label_trajectory

OPEN, CLOSED = (0.04, -0.04), (0.0, 0.0)
EXACT = LabelRule(smoothing=0.0)


def trajectory(*parts: tuple[int, float, tuple[float, float]], turning: float = 0.0) -> np.ndarray:
    """Rows of a hand that moves along x: each part lasts so many steps at so many m/s, with such fingers."""
    speeds = np.concatenate([np.full(n, speed) for n, speed, _ in parts])
    rows = np.zeros((len(speeds), 8))
    rows[:, 0] = np.concatenate([[0.0], np.cumsum(speeds / 20)[:-1]])
    rows[:, 3] = turning * np.arange(len(rows)) / 20
    rows[:, 6:] = np.concatenate([np.tile(fingers, (n, 1)) for n, _, fingers in parts])
    return rows


def pick_and_place() -> np.ndarray:
    return trajectory((20, 0.2, OPEN), (4, 0.0, OPEN), (6, 0.0, CLOSED), (20, 0.2, CLOSED))


def test_reaching_and_grasping_ends_one_segment_and_success_the_other() -> None:
    labels = label_trajectory(pick_and_place(), True, EXACT)
    # the stop lasts from row 20 to row 29; its middle is the key frame, and the segment ends when the arm moves on
    assert labels.cuts.tolist() == [30]
    assert labels.key_frames.tolist() == [24, 50]
    key_frame = labels.key_frames[0]
    assert np.flatnonzero(labels.is_positive).tolist() == [*range(key_frame - 8, key_frame), *range(42, 50)]


def test_the_end_of_a_failure_is_no_key_frame_and_has_no_progress() -> None:
    success, failure = (label_trajectory(pick_and_place(), is_success, EXACT) for is_success in (True, False))
    assert failure.key_frames.tolist() == success.key_frames[:1].tolist()
    assert np.isnan(failure.progress).all() and np.isfinite(success.progress).all()


def test_sub_tasks_count_alike_and_pauses_are_no_progress() -> None:
    labels = label_trajectory(pick_and_place(), True, EXACT)
    progress = labels.progress
    assert progress[0] == 0.0 and progress[10] == pytest.approx(0.25)
    # all of the pause is the end of the first of two sub-tasks
    assert progress[20:31] == pytest.approx(0.5)
    assert progress[40] == pytest.approx(0.75) and progress[-1] == pytest.approx(0.5 + 0.5 * 19 / 20)
    assert (np.diff(progress) >= 0).all()


def test_a_pause_that_lasts_longer_changes_no_progress_around_it() -> None:
    short = label_trajectory(pick_and_place(), True, EXACT).progress
    longer = trajectory((20, 0.2, OPEN), (40, 0.0, OPEN), (6, 0.0, CLOSED), (20, 0.2, CLOSED))
    long = label_trajectory(longer, True, EXACT).progress
    assert long[:20] == pytest.approx(short[:20]) and long[-20:] == pytest.approx(short[-20:])


def test_without_a_change_of_the_gripper_there_is_one_segment() -> None:
    labels = label_trajectory(trajectory((20, 0.2, OPEN), (5, 0.0, OPEN), (20, 0.2, OPEN)), True, EXACT)
    assert labels.cuts.tolist() == [] and labels.key_frames.tolist() == [22, 45]


def test_rest_at_the_beginning_is_no_key_frame() -> None:
    labels = label_trajectory(trajectory((10, 0.0, OPEN), (20, 0.2, OPEN)), False, EXACT)
    assert labels.key_frames.tolist() == [] and not labels.is_positive.any()


def test_a_hand_that_turns_on_the_spot_has_not_stopped() -> None:
    rows = trajectory((20, 0.2, OPEN), (6, 0.0, OPEN), (20, 0.2, OPEN), turning=1.0)
    assert label_trajectory(rows, False, EXACT).key_frames.tolist() == []
    assert label_trajectory(rows, False, LabelRule(smoothing=0.0, turning_weight=0.0)).key_frames.tolist() == [22]


def test_an_axis_angle_that_jumps_at_pi_is_no_motion() -> None:
    rows = trajectory((30, 0.2, OPEN))
    rows[:, 3] = np.where(np.arange(30) < 15, np.pi - 1e-3, -np.pi + 1e-3)
    assert label_trajectory(rows, False, EXACT).speed.max() < 0.21


def test_fingers_that_take_steps_to_close_cut_once() -> None:
    rows = trajectory((20, 0.2, OPEN), (12, 0.0, OPEN), (20, 0.2, CLOSED))
    width = np.linspace(0.04, 0.0, 8)
    rows[22:30, 6], rows[22:30, 7] = width, -width
    rows[30:32, 6:] = CLOSED
    assert label_trajectory(rows, False, EXACT).cuts.tolist() == [32]


def test_a_small_change_of_the_gripper_cuts_nothing() -> None:
    rows = trajectory((20, 0.2, OPEN), (5, 0.0, OPEN), (20, 0.2, (0.032, -0.032)))
    assert label_trajectory(rows, False, EXACT).cuts.tolist() == []


def test_key_frames_of_a_segment_keep_their_distance() -> None:
    rows = trajectory((20, 0.2, OPEN), (2, 0.01, OPEN), (3, 0.2, OPEN), (2, 0.0, OPEN), (20, 0.2, OPEN))
    labels = label_trajectory(rows, False, EXACT)
    assert len(labels.key_frames) == 1 and 25 <= labels.key_frames[0] <= 26
    assert len(label_trajectory(rows, False, LabelRule(smoothing=0.0, gap=2)).key_frames) == 2


def test_the_threshold_follows_the_trajectory() -> None:
    fast = trajectory((20, 1.0, OPEN), (6, 0.1, OPEN), (20, 1.0, OPEN))
    slow = trajectory((20, 0.2, OPEN), (6, 0.1, OPEN), (20, 0.2, OPEN))
    assert label_trajectory(fast, False, EXACT).threshold == pytest.approx(0.2)
    assert len(label_trajectory(fast, False, EXACT).key_frames) == 1
    assert len(label_trajectory(slow, False, EXACT).key_frames) == 0


def test_smoothing_takes_a_jitter_away() -> None:
    rows = trajectory((20, 0.2, OPEN), (1, 0.0, OPEN), (20, 0.2, OPEN))
    assert len(label_trajectory(rows, False, EXACT).key_frames) == 1
    assert len(label_trajectory(rows, False, LabelRule(smoothing=2.0)).key_frames) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 8)), r"has 2 control steps; expected at least 3"),
        (np.zeros((5, 7)), r"proprio is \(5, 7\); expected \(T, 8\)"),
        (np.zeros(8), r"proprio is \(8,\)"),
        (np.full((5, 8), np.nan), r"NaN or infinity in row 0"),
    ],
)
def test_what_is_no_trajectory_is_refused(rows: np.ndarray, message: str) -> None:
    with pytest.raises(TrajectoryError, match=message):
        label_trajectory(rows, True)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"lead": 0}, "lead is 0; expected at least 1"),
        ({"gap": -1}, "gap is -1"),
        ({"gripper_change": 0.0}, r"gripper_change is 0\.0"),
        ({"stop_speed": -1.0}, r"stop_speed is -1\.0"),
        ({"smoothing": float("nan")}, "smoothing is nan"),
        ({"gripper_width": 0.0}, r"gripper_width is 0\.0"),
    ],
)
def test_rules_out_of_range_are_refused(keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelRule(**keywords)
