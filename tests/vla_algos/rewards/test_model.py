"""True progress in states whose progress is known."""

from __future__ import annotations

import numpy as np
import pytest

from vla_algos.rewards.model import TrueProgress, truly_held
from vla_gym.envs.privileged import PRIVILEGED_NAMES


def vector(*atoms: dict[str, float]) -> np.ndarray:
    entries = {
        f"atom{i}/{name}": value for i, atom in enumerate(atoms) for name, value in {"exists": 1, **atom}.items()
    }
    return np.array([entries.pop(name, 0.0) for name in PRIVILEGED_NAMES] + list(entries), np.float32)


def bowl(hand: float, lift: float, target: float, **others: float) -> dict[str, float]:
    return {"is_on": 1, "subject_from_eef/x": hand, "subject_lift": lift, "target_from_subject/y": target, **others}


def knob(hand: float, joint: float, **others: float) -> dict[str, float]:
    return {"is_turnon": 1, "subject_from_eef/z": hand, "joint_distance": joint, **others}


def progress(first: np.ndarray, now: np.ndarray) -> float:
    return float(TrueProgress().score(np.stack([first, now])[None], ["whatever"])[0])


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (bowl(0.4, 0.0, 0.2), 0.0),
        (bowl(0.2, 0.0, 0.2), 0.125),
        (bowl(0.0, 0.0, 0.2), 0.25),
        (bowl(0.0, 0.015, 0.2), 0.375),
        (bowl(0.0, 0.1, 0.2), 0.5),
        (bowl(0.0, 0.1, 0.1), 0.75),
        # farther away than at the start
        (bowl(0.8, 0.0, 0.4), 0.0),
        (bowl(0.4, 0.0, 0.0, satisfied=1), 1.0),
    ],
)
def test_an_object_is_reached_lifted_and_carried(now: dict, expected: float) -> None:
    assert progress(vector(bowl(0.4, 0.0, 0.2)), vector(now)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("now", "expected"),
    [(knob(0.4, 0.5), 0.0), (knob(0.0, 0.5), 0.25), (knob(0.0, 0.25), 0.625), (knob(0.4, 0.0, satisfied=1), 1.0)],
)
def test_a_part_is_reached_and_turned(now: dict, expected: float) -> None:
    assert progress(vector(knob(0.4, 0.5)), vector(now)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (bowl(0.4, 0.0, 0.2, joint_distance=0.14), 0.0),
        (bowl(0.4, 0.0, 0.2, joint_distance=0.07), 0.25),
        (bowl(0.4, 0.0, 0.2), 0.5),
        (bowl(0.0, 0.1, 0.2), 0.75),
        (bowl(0.0, 0.1, 0.2, joint_distance=0.14), 0.25),
        (bowl(0.4, 0.0, 0.0, satisfied=1, joint_distance=0.14), 1.0),
    ],
)
def test_opening_the_drawer_is_half_of_putting_something_into_it(now: dict, expected: float) -> None:
    first = vector(bowl(0.4, 0.0, 0.2, joint_distance=0.14))
    assert progress(first, vector(now)) == pytest.approx(expected, abs=1e-6)


def test_atoms_of_a_goal_count_alike() -> None:
    first, now = vector(bowl(0.4, 0.0, 0.2), knob(0.4, 0.5)), vector(bowl(0.4, 0.0, 0.2), knob(0.4, 0.0, satisfied=1))
    assert progress(first, now) == pytest.approx(0.5)


def test_what_was_done_from_the_start_counts_as_done() -> None:
    assert progress(vector(knob(0.4, 0.0)), vector(knob(0.2, 0.0))) == pytest.approx(0.125 + 0.75)


def hand(gap: float, *atoms: dict[str, float]) -> np.ndarray:
    made = vector(*atoms)
    made[PRIVILEGED_NAMES.index("finger_pos/0")], made[PRIVILEGED_NAMES.index("finger_pos/1")] = gap / 2, -gap / 2
    return made


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (hand(0.01, bowl(0.05, 0.05, 0.2)), 1.0),
        # not lifted yet
        (hand(0.01, bowl(0.05, 0.0, 0.2)), 0.0),
        # somewhere else, where it was put
        (hand(0.01, bowl(0.4, 0.2, 0.0)), 0.0),
        # let go
        (hand(0.08, bowl(0.05, 0.2, 0.0)), 0.0),
        # any object of the goal will do, and joints do not count
        (hand(0.01, bowl(0.4, 0.0, 0.2), bowl(0.05, 0.05, 0.2)), 1.0),
        (hand(0.01, knob(0.0, 0.5), bowl(0.4, 0.0, 0.2)), 0.0),
        (hand(0.01, knob(0.0, 0.5)), np.nan),
    ],
)
def test_an_object_is_held_that_is_lifted_near_the_closed_hand(state: np.ndarray, expected: float) -> None:
    np.testing.assert_array_equal(truly_held(state[None]), [np.float32(expected)])
