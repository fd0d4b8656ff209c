"""
Motion primitives: generators that yield one command per control step, computed from the live simulator state.

- Commands are proportional to what is left to do and capped in norm: an expert that saturates teaches a policy tokens
  that overshoot.
- Rotation is commanded as exactly zero, which keeps the controller's goal orientation; anything else re-anchors it.
- A primitive ends when it is done, when its stop condition holds, or after ``max_steps``; the plan goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np

from vla_gym.sim.controller import MAX_TRANSLATION
from vla_gym.sim.core import SimCore
from vla_gym.tasks.registry import COMMAND_DIM, GRIPPER_CLOSE, GRIPPER_OPEN
from vla_gym.type_aliases import Float64Array

Motion = Generator[Float64Array, None, None]
"""Yields commands, (7,) float64."""

GAIN = 1.6
"""Commanded offset per remaining offset; the arm covers about a quarter of a commanded offset in one control step."""

MAX_HOLD_DISTANCE = 0.085
"""Distance (m) between the end effector and the origin of an object beyond which the object is not in the gripper."""


class Hand:
    """
    The gripper of a running simulation, and the primitives it can carry out.

    :param core: the simulation
    :param speed: cap on the norm of a translation command, in (0, 1]
    """

    def __init__(self, core: SimCore, speed: float) -> None:
        self.core = core
        self.speed = speed

    @property
    def pos(self) -> Float64Array:
        """Position of the end effector (m), (3,)."""
        return self.core.data.site_xpos[self.core.robot.eef_site].copy()

    def has_lost(self, held: Float64Array) -> bool:
        """
        Whether an object that was grasped no longer is in the gripper.

        :param held: its position (m), (3,)
        """
        return bool(np.linalg.norm(held - self.pos) > MAX_HOLD_DISTANCE)

    def reach(self, target: Float64Array, tolerance: float) -> Motion:
        """
        Move the open hand to a point.

        :param target: the point (m), (3,)
        :param tolerance: distance (m) that counts as there
        """
        return self._servo(lambda: target - self.pos, GRIPPER_OPEN, tolerance)

    def close(self, n_steps: int) -> Motion:
        """
        Stand still and close the gripper.

        :param n_steps: how long; a full swing takes eight control steps, a firm grasp nine or more
        """
        return self._dwell(GRIPPER_CLOSE, n_steps)

    def open(self, n_steps: int) -> Motion:
        """
        Stand still and open the gripper.

        :param n_steps: how long
        """
        return self._dwell(GRIPPER_OPEN, n_steps)

    def rise(self, height: float) -> Motion:
        """
        Raise the open hand.

        :param height: by how much (m)
        """
        return self.reach(self.pos + np.array([0.0, 0.0, height]), tolerance=0.015)

    def carry(
        self, held: Float64Array, target: Float64Array, tolerance: float, stop: Callable[[], bool], max_steps: int = 80
    ) -> Motion:
        """
        Bring the held object to a point, steering by the object rather than by the hand.

        :param held: live position of the object (m), (3,)
        :param target: the point (m), (3,)
        :param tolerance: distance (m) that counts as there
        :param stop: ends the motion early
        :param max_steps: ends it at the latest
        """
        return self._servo(lambda: target - held, GRIPPER_CLOSE, tolerance, stop, max_steps)

    def _servo(
        self,
        remaining: Callable[[], Float64Array],
        gripper: float,
        tolerance: float,
        stop: Callable[[], bool] = lambda: False,
        max_steps: int = 80,
    ) -> Motion:
        for _ in range(max_steps):
            offset = remaining()
            if stop() or np.linalg.norm(offset) < tolerance:
                return
            yield self._command(offset, gripper)

    def _dwell(self, gripper: float, n_steps: int) -> Motion:
        for _ in range(n_steps):
            yield self._command(np.zeros(3), gripper)

    def _command(self, offset: Float64Array, gripper: float) -> Float64Array:
        command = np.zeros(COMMAND_DIM)
        command[:3] = capped(GAIN * offset / MAX_TRANSLATION, self.speed)
        command[6] = gripper
        return command


def capped(vector: Float64Array, norm: float) -> Float64Array:
    """
    The vector, shortened to a norm where it is longer.

    :param vector: any vector
    :param norm: greatest norm
    :return: same shape
    """
    return vector * min(1.0, norm / max(float(np.linalg.norm(vector)), 1e-12))
