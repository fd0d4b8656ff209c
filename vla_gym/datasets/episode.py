"""Arrays of one episode."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from vla_gym.errors import InvalidEpisodeError
from vla_gym.spec import COMMAND_DIM, PROPRIO_DIM
from vla_gym.type_aliases import Float32Array, Float64Array, UInt8Array


@dataclass(frozen=True)
class SimulatorTrace:
    """
    Simulator state during an episode of T control steps; row t precedes command t.

    :param init_state: stored initial state that the episode was reset to, not settled yet, (1 + nq + nv,) float64
    :param states: time (s), qpos, qvel, (T, 1 + nq + nv) float64
    :param joint_states: arm joints as observed (rad), (T, 7) float64
    :param ee_states: end effector as observed: position (m), axis-angle (rad), (T, 6) float64
    :param robot_states: finger positions (m), end-effector position (m) and quaternion (xyzw), (T, 9) float64
    """

    init_state: Float64Array
    states: Float64Array
    joint_states: Float64Array
    ee_states: Float64Array
    robot_states: Float64Array


@dataclass(frozen=True)
class Episode:
    """
    One episode of T control steps; row t of an observation precedes command t.

    :param images: camera ``agentview``, (T, H, W, 3) uint8; H = W = 0 if the environment does not render it
    :param proprio: (T, 8) float32
    :param commands: commands as executed, in [-1, 1], (T, 7) float64
    :param instruction: the task in words
    :param task_id: task; -1 if its source does not say
    :param init_state_id: initial state; -1 if its source does not say
    :param success: whether the goal was reached
    :param wrist_images: camera ``wrist``, (T, H, W, 3) uint8; None if the environment does not render it
    :param trace: simulator state; None if its source lacks it
    :raises InvalidEpisodeError: if an array has another shape or type, a number is not finite, or a command is outside
        [-1, 1]
    """

    images: UInt8Array
    proprio: Float32Array
    commands: Float64Array
    instruction: str
    task_id: int
    init_state_id: int
    success: bool
    wrist_images: UInt8Array | None = None
    trace: SimulatorTrace | None = None

    def __post_init__(self) -> None:
        n_steps = len(self.commands)
        if self.commands.shape != (n_steps, COMMAND_DIM) or n_steps == 0:
            raise InvalidEpisodeError(f"commands is {self.commands.shape}; expected (T, {COMMAND_DIM}), T at least 1.")
        if self.proprio.shape != (n_steps, PROPRIO_DIM):
            raise InvalidEpisodeError(f"proprio is {self.proprio.shape}; expected {(n_steps, PROPRIO_DIM)}.")
        for name in ("images", "wrist_images"):
            _check_images(name, getattr(self, name), n_steps)
        numbers: dict[str, Any] = {"commands": self.commands, "proprio": self.proprio}
        if self.trace is not None:
            numbers |= {part.name: getattr(self.trace, part.name) for part in fields(self.trace)}
        for name, array in numbers.items():
            if not np.isfinite(array).all():
                step = int(np.argwhere(~np.isfinite(array))[0][0])
                raise InvalidEpisodeError(f"{name} holds NaN or infinity in row {step}. Leave this episode out.")
        low, high = self.commands.min(), self.commands.max()
        if low < -1 or high > 1:
            raise InvalidEpisodeError(
                f"commands range over [{low:g}, {high:g}]; expected [-1, 1], the controller's units. Scale them, or "
                "limit them as the controller does: Conventions(clip=True) for data sets that are read."
            )

    def __len__(self) -> int:
        return len(self.commands)


def _check_images(name: str, images: Any, n_steps: int) -> None:
    if images is None:
        return
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != n_steps or images.shape[-1] != 3:
        raise InvalidEpisodeError(f"{name} is {images.shape} {images.dtype}; expected ({n_steps}, H, W, 3) uint8.")
