"""Commands that do nothing are found by OpenVLA's rule."""

from __future__ import annotations

import numpy as np

from vla_gym.datasets.noops import noop_mask


def commands(*rows: tuple[float, float]) -> np.ndarray:
    """Rows of forward motion and gripper."""
    array = np.zeros((len(rows), 7))
    array[:, 0], array[:, 6] = zip(*rows, strict=True)
    return array


def test_standing_still_is_nothing_unless_the_gripper_changes() -> None:
    mask = noop_mask(commands((0.5, -1), (0, -1), (0, 1), (0, 1), (9e-5, 1), (1.1e-4, 1), (0, -1)))
    assert mask.tolist() == [False, True, False, True, True, False, False]


def test_at_the_start_the_gripper_does_not_count() -> None:
    assert noop_mask(commands((0, 1), (0, -1), (0.5, -1), (0, 1))).tolist() == [True, True, False, False]


def test_the_gripper_is_compared_with_the_last_command_that_is_kept() -> None:
    # the second one is dropped, whatever the third one does
    assert noop_mask(commands((0.5, 1), (0, 1), (0, -1), (0, 1))).tolist() == [False, True, False, False]


def test_rotation_is_motion() -> None:
    array = commands((0, -1), (0, -1))
    array[:, 5] = [2e-4, 0.0]
    assert noop_mask(array).tolist() == [False, True]
