"""A toy task that algorithms learn in seconds: LIBERO's spaces without a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from vla_gym.arguments import checked_int
from vla_gym.envs.starts import Starts
from vla_gym.errors import InvalidActionError, SnapshotError
from vla_gym.instructions import INSTRUCTION_BYTES, encode_instruction
from vla_gym.spec import AGENTVIEW, COMMAND_DIM, INSTRUCTION, N_BINS, PROPRIO, PROPRIO_DIM
from vla_gym.type_aliases import Int64Array, Observation, UInt8Array

INSTRUCTIONS = ("move to the left of the square", "move to the right of the square")
_BACKGROUND = (96, 96, 96)
_SQUARE = (220, 40, 40)


class ToyLiberoEnv(gym.Env[Observation, Int64Array]):
    """
    Move left or right, as the instruction says, and up or down, towards the square.

    The square is in one of ``n_init_states`` rows of the image. A command reaches the goal if its first bin is on the
    side that the instruction names and its second bin in the half of the image with the square; the other five bins
    have no effect. Uniform commands succeed with probability 1/4; a policy that ignores image or instruction reaches
    1/2.

    ===========  =================================  ========================================================
    observation  space                              meaning
    ===========  =================================  ========================================================
    agentview    (image_size, image_size, 3) uint8  red square on grey, 0..255
    proprio      (8,) float32                       [0]: share of the horizon that has passed; the rest zero
    instruction  (256,) uint8                       UTF-8, zero padded
    ===========  =================================  ========================================================

    ======  ===========  ===========================================================
    action  bins         meaning
    ======  ===========  ===========================================================
    0       0..255       below 128: left (task 0), else right (task 1)
    1       0..255       below 128: down (second half of the rows), else up
    2..6    0..255       without effect
    ======  ===========  ===========================================================

    With ``chunk_size`` c an action has c such commands, executed in order until one reaches the goal or the horizon
    ends.

    Reward: 1.0 on reaching the goal (terminated), else 0.0; truncated after ``horizon`` commands.

    :param image_size: height and width of the image, pixels, at least 16
    :param horizon: commands per episode, at least 1
    :param chunk_size: commands per action, at least 1
    :param task_ids: tasks to sample from on reset; None: both
    :param n_init_states: rows in which the square can stand, at least 2
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own spelling

    def __init__(
        self,
        image_size: int = 64,
        horizon: int = 2,
        chunk_size: int = 1,
        task_ids: tuple[int, ...] | list[int] | None = None,
        n_init_states: int = 8,
    ) -> None:
        for name, value, least in (
            ("image_size", image_size, 16),
            ("horizon", horizon, 1),
            ("chunk_size", chunk_size, 1),
            ("n_init_states", n_init_states, 2),
        ):
            checked_int(name, value, least)
        self.image_size = image_size
        self.horizon = horizon
        self.chunk_size = chunk_size
        self.n_init_states = n_init_states
        self.starts = Starts(len(INSTRUCTIONS), n_init_states, task_ids)
        self.task_ids = self.starts.task_ids
        self.observation_space: spaces.Space[Any] = spaces.Dict(
            {
                AGENTVIEW: spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
                PROPRIO: spaces.Box(-np.inf, np.inf, (PROPRIO_DIM,), np.float32),
                INSTRUCTION: spaces.Box(0, 255, (INSTRUCTION_BYTES,), np.uint8),
            }
        )
        self.action_space = spaces.MultiDiscrete([N_BINS] * (COMMAND_DIM * chunk_size))
        self.task_id = self.task_ids[0]
        self.init_state_id = 0
        self._elapsed = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """
        Start an episode.

        :param seed: seed of ``np_random``; None keeps the generator
        :param options: ``task_id`` and ``init_state_id``; missing ones are sampled
        :return: observation and info
        :raises UnknownNameError: if a given number is not offered
        """
        super().reset(seed=seed)
        options = options or {}
        self.task_id, self.init_state_id = self.starts.draw(
            self.np_random, options.get("task_id"), options.get("init_state_id")
        )
        self._elapsed = 0
        return self._observation(), self._info(is_success=False, executed_steps=0)

    def set_start_weights(self, weights: Mapping[tuple[int, int], float] | None) -> None:
        """
        Set how often ``reset`` draws each start; see :meth:`vla_gym.envs.libero_env.LiberoEnv.set_start_weights`.

        :param weights: relative frequency by (task_id, init_state_id); None: uniform
        """
        self.starts.set_weights(weights)

    def snapshot(self) -> dict[str, Any]:
        """Take a snapshot of all that the rest of the episode and later draws depend on."""
        return {
            "horizon": self.horizon,
            "n_init_states": self.n_init_states,
            "task_id": self.task_id,
            "init_state_id": self.init_state_id,
            "elapsed": self._elapsed,
            "np_random": self.np_random.bit_generator.state,
            "starts": self.starts.snapshot(),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """
        Resume from a snapshot.

        :param snapshot: what :meth:`snapshot` returned
        :raises SnapshotError: if its environment has another ``horizon`` or ``n_init_states``
        """
        for name in ("horizon", "n_init_states"):
            if snapshot.get(name) != getattr(self, name):
                raise SnapshotError(
                    f"The snapshot has {name}={snapshot.get(name)!r}, this environment {getattr(self, name)!r}. "
                    "Make the environment with the keywords of the one that the snapshot comes from."
                )
        self.starts.restore(snapshot["starts"])
        self.np_random.bit_generator.state = snapshot["np_random"]
        self.task_id, self.init_state_id = int(snapshot["task_id"]), int(snapshot["init_state_id"])
        self._elapsed = int(snapshot["elapsed"])

    def step(self, action: Int64Array) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """
        Execute the commands of one action.

        :param action: bins, (7 * chunk_size,) integer, 0..255
        :return: observation, reward, terminated, truncated, info
        :raises InvalidActionError: if the shape or a bin is out of range
        """
        action = np.asarray(action)
        if not self.action_space.contains(action):
            raise InvalidActionError(
                f"Action of shape {action.shape} and type {action.dtype} is not in {self.action_space}."
            )
        success = False
        executed = 0
        for command in action.reshape(self.chunk_size, COMMAND_DIM):
            success = self.is_goal_command(command)
            executed += 1
            self._elapsed += 1
            if success or self._elapsed >= self.horizon:
                break
        truncated = not success and self._elapsed >= self.horizon
        return self._observation(), float(success), success, truncated, self._info(success, executed)

    def is_goal_command(self, command: Int64Array) -> bool:
        """
        Tell whether a command reaches the goal of the current episode.

        :param command: bins, (7,) integer
        :return: True if the first bin is on the instruction's side and the second in the square's half
        """
        is_right = bool(command[0] >= N_BINS // 2)
        is_up = bool(command[1] >= N_BINS // 2)
        return is_right == (self.task_id == 1) and is_up == (self.init_state_id < self.n_init_states / 2)

    def _image(self) -> UInt8Array:
        image = np.empty((self.image_size, self.image_size, 3), dtype=np.uint8)
        image[:] = _BACKGROUND
        half = self.image_size // 8
        row = half + round(self.init_state_id * (self.image_size - 2 * half) / (self.n_init_states - 1))
        image[row - half : row + half, self.image_size // 2 - half : self.image_size // 2 + half] = _SQUARE
        return image

    def _observation(self) -> Observation:
        proprio = np.zeros(PROPRIO_DIM, dtype=np.float32)
        proprio[0] = self._elapsed / self.horizon
        return {
            AGENTVIEW: self._image(),
            PROPRIO: proprio,
            INSTRUCTION: encode_instruction(INSTRUCTIONS[self.task_id]),
        }

    def _info(self, is_success: bool, executed_steps: int) -> dict[str, Any]:
        return {
            "is_success": is_success,
            "task_id": self.task_id,
            "init_state_id": self.init_state_id,
            "instruction": INSTRUCTIONS[self.task_id],
            "executed_steps": executed_steps,
            "assets": "toy",
        }
