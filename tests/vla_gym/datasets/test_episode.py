"""Episodes hold what LIBERO can have produced, wherever they come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vla_gym.datasets.conventions import Conventions
from vla_gym.datasets.episode import Episode, SimulatorTrace
from vla_gym.errors import InvalidEpisodeError, UnknownNameError

EPISODE = Episode(
    images=np.zeros((4, 6, 6, 3), dtype=np.uint8),
    proprio=np.zeros((4, 8), dtype=np.float32),
    commands=np.zeros((4, 7)),
    instruction="put the bowl on the plate",
    task_id=8,
    init_state_id=0,
    success=True,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commands": np.zeros((4, 6))}, r"commands is \(4, 6\); expected \(T, 7\)"),
        ({"commands": np.zeros((0, 7))}, "T at least 1"),
        ({"commands": np.full((4, 7), np.nan)}, "commands holds NaN or infinity in row 0. Leave this episode out"),
        ({"commands": np.full((4, 7), 1.5)}, r"commands range over \[1\.5, 1\.5\]; expected \[-1, 1\]"),
        ({"proprio": np.zeros((3, 8), dtype=np.float32)}, r"proprio is \(3, 8\); expected \(4, 8\)"),
        ({"proprio": np.full((4, 8), -np.inf)}, "proprio holds NaN or infinity in row 0"),
        ({"images": np.zeros((4, 3, 6, 6), dtype=np.uint8)}, r"images is .* expected \(4, H, W, 3\) uint8"),
        ({"images": np.zeros((3, 6, 6, 3), dtype=np.uint8)}, r"images is \(3, 6, 6, 3\)"),
        ({"wrist_images": np.zeros((4, 6, 6, 3))}, "wrist_images is .* float64"),
        (
            {"trace": SimulatorTrace(np.full(5, np.nan), *[np.zeros((4, 5))] * 4)},
            "init_state holds NaN or infinity in row 0",
        ),
    ],
)
def test_what_no_episode_can_hold_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidEpisodeError, match=message):
        replace(EPISODE, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gripper": "one_open"}, "Unknown gripper convention 'one_open'. Did you mean 'one_opens'"),
        ({"color_order": "grb"}, "Unknown color order 'grb'"),
        ({"image_convention": "vulkan"}, "Unknown image convention 'vulkan'.*opencv, upright"),
        ({"keys": {"image": "image"}}, "Unknown field of an episode 'image'. Did you mean 'images'"),
    ],
)
def test_unknown_names_of_conventions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        Conventions(**changes)


@pytest.mark.parametrize("keys", ["image", ["images"], {"images": 3}])
def test_keys_are_a_mapping_of_texts(keys: Any) -> None:
    with pytest.raises(TypeError, match="expected a mapping such as"):
        Conventions(keys=keys)
