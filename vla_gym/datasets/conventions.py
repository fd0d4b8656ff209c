"""
Conventions of a data set, where other people's data may differ from LIBERO's.

What the data reveal is checked: data that differ are refused with the setting that reads them. The rest is set by
:class:`Conventions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla_gym.errors import DemonstrationFileError, UnknownNameError
from vla_gym.spec import COMMAND_DIM
from vla_gym.tasks.registry import CONTROL_HZ
from vla_gym.type_aliases import Float64Array, UInt8Array

GRIPPERS = {
    "minus_opens": "-1 opens, 1 closes",
    "plus_opens": "1 opens, -1 closes",
    "one_opens": "1 is open, 0 is closed",
    "one_closes": "1 is closed, 0 is open",
}
IMAGE_CONVENTIONS = ("opengl", "opencv", "upright")
COLOR_ORDERS = ("rgb", "bgr")
FIELDS = ("images", "wrist_images", "proprio", "commands")

_TOLERANCE = 1e-4
_HELD_STEPS = 10
"""Steps that the fingers take to follow a gripper command."""
_MAX_WIDTH = 0.085
"""Distance of the fingers that the gripper cannot exceed (m)."""
_OPEN_WIDTH, _CLOSED_WIDTH = 0.075, 0.005
"""With nothing between them, open fingers are further apart than the first, closed ones closer than the second (m)."""


@dataclass(frozen=True)
class Conventions:
    """
    Describe what a data set means, where it differs from LIBERO or leaves it open.

    :param gripper: meaning of stored gripper commands, a key of ``GRIPPERS``: ``minus_opens`` (LIBERO), ``plus_opens``,
        ``one_opens`` (OpenVLA's RLDS sets and their copies in LeRobot's format), ``one_closes``
    :param clip: limit commands to [-1, 1], as the controller does; False: refuse larger ones
    :param color_order: ``rgb`` or ``bgr``; None: as the data set says, else ``rgb``
    :param image_convention: how stored images lie: ``opengl`` (as LIBERO's cameras give them), ``opencv`` (those upside
        down) or ``upright`` (as the policy sees them); None: as the data set says, else the default of its format
    :param stated_hz: control rate that the data set may state (Hz). Public sets state 10 Hz although each of
        their steps is one of LIBERO's at 20 Hz: give 10 for those
    :param keys: field of :class:`Episode` -> key in the data set: ``images``, ``wrist_images`` (in HDF5 below ``obs``),
        for LeRobot also ``proprio`` and ``commands``. Cameras that are not named are left out. Empty: known keys
    :raises UnknownNameError: for unknown names
    """

    gripper: str = "minus_opens"
    clip: bool = False
    color_order: str | None = None
    image_convention: str | None = None
    stated_hz: float = CONTROL_HZ
    keys: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.keys, Mapping) or not all(isinstance(key, str) for key in self.keys.values()):
            raise TypeError(f"keys is {self.keys!r}; expected a mapping such as {{'images': 'image'}}.")
        for kind, value, valid in (
            ("gripper convention", self.gripper, tuple(GRIPPERS)),
            ("color order", self.color_order, (None, *COLOR_ORDERS)),
            ("image convention", self.image_convention, (None, *IMAGE_CONVENTIONS)),
            *(("field of an episode", name, FIELDS) for name in self.keys),
        ):
            if value not in valid:
                raise UnknownNameError(kind, value, valid)

    def commands(self, stored: Float64Array) -> Float64Array:
        """
        Convert commands to LIBERO's convention.

        :param stored: as stored, (T, 7)
        :return: (T, 7) float64; gripper -1 opens, 1 closes
        """
        commands = stored.astype(np.float64)
        gripper = commands[:, -1]
        commands[:, -1] = {
            "minus_opens": gripper,
            "plus_opens": -gripper,
            "one_opens": 1.0 - 2.0 * gripper,
            "one_closes": 2.0 * gripper - 1.0,
        }[self.gripper]
        # values beyond rounding are clipped only on request
        is_limited = np.isfinite(commands) & (self.clip | (np.abs(commands) <= 1.0 + _TOLERANCE))
        return np.where(is_limited, commands.clip(-1.0, 1.0), commands)

    def pictures(self, stored: UInt8Array, image_convention: str, color_order: str) -> UInt8Array:
        """
        Convert images to what the policy sees.

        :param stored: as stored, (T, H, W, 3)
        :param image_convention: of the data set, where none is set
        :param color_order: of the data set, where none is set
        :return: (T, H, W, 3) uint8, contiguous
        """
        convention = self.image_convention or image_convention
        images = stored if convention == "upright" else stored[:, :, ::-1]
        images = images[:, ::-1] if convention == "opengl" else images
        images = images[..., ::-1] if (self.color_order or color_order) == "bgr" else images
        return np.ascontiguousarray(images)

    def check_gripper(self, episodes: Iterable[tuple[np.ndarray, np.ndarray]], source: object) -> None:
        """
        Check the gripper commands of a whole data set against the convention.

        A single episode is not enough: if all its commands are 1, they may mean either.

        :param episodes: commands as stored, (T, 7), and fingers as stored, (T, 2), of each episode
        :param source: name of the data set
        :raises DemonstrationFileError: if the range differs, or the fingers move against the commands
        """
        pairs = [(np.asarray(commands)[:, -1], np.asarray(fingers)) for commands, fingers in episodes]
        values = np.concatenate([gripper for gripper, _ in pairs])
        values = values[np.isfinite(values)]  # others are refused with their episode
        if not values.size:
            return
        low, high = values.min(), values.max()
        is_binary = 0 <= low < 0.5
        if self.gripper.startswith("one"):
            is_plausible = low >= -_TOLERANCE and high <= 1 + _TOLERANCE and not 0 < high < 0.5
        else:
            is_plausible = not is_binary
        if not is_plausible:
            raise DemonstrationFileError(
                f"{source}: gripper commands range over [{low:g}, {high:g}], which does not fit "
                f"{self.gripper!r} ({GRIPPERS[self.gripper]}). {_remedy(self.gripper)}"
            )
        opened, closed = _widths(
            pairs,
            sign=-1.0 if self.gripper in ("one_opens", "plus_opens") else 1.0,
            middle=0.5 if self.gripper.startswith("one") else 0.0,
        )
        if _moves_against(opened, closed):
            raise DemonstrationFileError(
                f"{source}: the fingers move against the gripper commands if {self.gripper!r} "
                f"({GRIPPERS[self.gripper]}) is what they mean. {_remedy(self.gripper)}"
            )

    def check_rate(self, hz: Any, source: object) -> None:
        """
        Refuse data with another control rate.

        :param hz: as stated by the data set (Hz)
        :param source: name of the data set
        :raises DemonstrationFileError: if it is neither LIBERO's nor ``stated_hz``
        """
        if isinstance(hz, bool) or not isinstance(hz, (int, float)) or hz not in (CONTROL_HZ, self.stated_hz):
            raise DemonstrationFileError(
                f"{source} states {hz!r} steps per second; expected {CONTROL_HZ}, LIBERO's control rate. If each "
                f"step is one of LIBERO's all the same, give Conventions(stated_hz={hz!r}); else resample it."
            )


def check_command_names(names: Sequence[str], source: object) -> None:
    """
    Refuse commands other than a relative pose followed by the gripper, judging by their names.

    :param names: of the entries of a command, as far as the data set has some
    :param source: name of the data set
    :raises DemonstrationFileError: for joints, quaternions, absolute poses and another order
    """
    lowered = [name.lower() for name in names]
    is_other = any(word in name for name in lowered for word in ("joint", "quat", "abs"))
    grippers = [i for i, name in enumerate(lowered) if "grip" in name]
    if is_other or (len(lowered) == COMMAND_DIM and grippers not in ([], [COMMAND_DIM - 1])):
        raise DemonstrationFileError(
            f"{source}: the commands are {', '.join(names)}; expected translation (3), axis-angle rotation (3), both "
            "relative, and the gripper. Convert the data set."
        )


def check_proprio(state: Float64Array, names: Sequence[str], source: object) -> None:
    """
    Refuse a state other than position (m), axis-angle (rad) and two fingers (m).

    :param state: (T, 8)
    :param names: of its entries, as far as the data set has some
    :param source: name of the data set
    :raises DemonstrationFileError: for quaternions, joint angles, degrees and millimetres
    """
    if not np.isfinite(state).all():
        return  # refused with its episode
    expected = "expected position (3, m), axis-angle (3, rad), two fingers (2, m). Convert the data set."
    lowered = [name.lower() for name in names]
    if any("quat" in name or name in ("rw", "qw") for name in lowered) or _is_quaternion(state[:, 3:7]):
        raise DemonstrationFileError(f"{source}: the state's orientation is a quaternion; {expected}")
    if any("joint" in name for name in lowered):
        raise DemonstrationFileError(f"{source}: the state holds joint angles ({', '.join(names)}); {expected}")
    position, angle = np.abs(state[:, :3]).max(), np.linalg.norm(state[:, 3:6], axis=1).max()
    if position > 10.0 or angle > 2 * np.pi + 0.1:
        raise DemonstrationFileError(
            f"{source}: the state has positions up to {position:g} and angles up to {angle:g}; {expected}"
        )


def _is_quaternion(values: Float64Array) -> bool:
    return len(values) > 1 and bool(np.abs(np.linalg.norm(values, axis=1) - 1.0).max() < 1e-3)


def _remedy(gripper: str) -> str:
    others = ", ".join(f"{name!r} ({meaning})" for name, meaning in GRIPPERS.items() if name != gripper)
    return f"Say what they mean with Conventions(gripper=...): {others}."


def _widths(
    pairs: Sequence[tuple[Float64Array, Float64Array]], sign: float, middle: float
) -> tuple[Float64Array, Float64Array]:
    """Collect distances of the fingers (m) after long enough commands to open, and to close."""
    opened, closed = [np.empty(0)], [np.empty(0)]
    for gripper, fingers in pairs:
        width = fingers[:, 0] - fingers[:, 1]
        if len(width) <= _HELD_STEPS or not ((width >= 0) & (width <= _MAX_WIDTH)).all():
            continue  # too short, or not the fingers of LIBERO's robot
        closes = np.lib.stride_tricks.sliding_window_view(sign * (gripper - middle) > 0, _HELD_STEPS)[:-1]
        opens = np.lib.stride_tricks.sliding_window_view(sign * (gripper - middle) < 0, _HELD_STEPS)[:-1]
        opened.append(width[_HELD_STEPS:][opens.all(axis=1)])
        closed.append(width[_HELD_STEPS:][closes.all(axis=1)])
    return np.concatenate(opened), np.concatenate(closed)


def _moves_against(opened: Float64Array, closed: Float64Array) -> bool:
    if opened.size and closed.size:
        return bool(np.median(opened) < np.median(closed))
    if closed.size:
        return bool(closed.min() > _OPEN_WIDTH)
    return bool(opened.size and opened.max() < _CLOSED_WIDTH and opened.max() > 0)
