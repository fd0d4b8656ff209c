"""
Motion primitives: generators that yield one command per control step, computed from the live simulator state.

- Commands are proportional to the remaining offset and capped in norm: an expert that saturates would teach a policy to
  overshoot.
- If the orientation is right, the rotation command is exactly zero, which keeps the controller's goal orientation; any
  other value re-anchors it.
- A primitive ends when it is done, when its stop condition holds, or after ``max_steps``; then the plan continues.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import mujoco
import numpy as np

from vla_gym.scenes.bundle import RobotIds
from vla_gym.sim.controller import MAX_ROTATION, MAX_TRANSLATION
from vla_gym.sim.core import SimCore
from vla_gym.spec import COMMAND_DIM, GRIPPER_CLOSE, GRIPPER_OPEN
from vla_gym.type_aliases import Float64Array

Motion = Generator[Float64Array, None, None]
"""Yields commands, (7,) float64."""
Trial = Generator[Float64Array, None, bool]
"""A motion that returns whether it succeeded."""
Live = Callable[[], Float64Array]
"""A vector that is read again in every control step."""

GAIN = 1.6
"""Commanded offset per remaining offset; the arm covers about a quarter of a commanded offset in one control step."""
ROTATION_GAIN = 1.2
MAX_TURN = 0.35
"""Cap on the norm of a rotation command."""
STRETCHED = (0.06, 0.11)
"""Dexterities between which the hand is slowed down: a stretched arm overshoots."""
MIN_SPEED_SHARE = 0.6
ANGLE_TOLERANCE = 0.06
"""Angle (rad) below which an orientation counts as right."""
MAX_STEPS = 80
STALL_STEPS = 4
STALL_DISTANCE = 0.0015
"""A motion is blocked when it covers less than this (m) in ``STALL_STEPS`` control steps."""
DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""The hand pointing down, its x axis, along which the fingers close, along the world's y; columns are its axes."""


class Hand:
    """
    The gripper of a running simulation and its motion primitives.

    :param core: the simulation
    :param speed: cap on the norm of a translation command, in (0, 1]
    """

    def __init__(self, core: SimCore, speed: float) -> None:
        self.core = core
        self.speed = speed
        self.gripper = GRIPPER_OPEN
        self._home = self.pos

    @property
    def pos(self) -> Float64Array:
        """Position of the end effector (m), (3,)."""
        return np.array(self.core.data.site_xpos[self.core.robot.eef_site])

    @property
    def mat(self) -> Float64Array:
        """Orientation of the end effector, (3, 3)."""
        return np.array(self.core.data.site_xmat[self.core.robot.eef_site].reshape(3, 3))

    def dexterity(self) -> float:
        """Compute the smallest singular value of the arm's Jacobian (m, rad): small if the arm is nearly stretched."""
        jacobian = arm_jacobian(self.core.model, self.core.data, self.core.robot)
        return float(np.linalg.svd(jacobian, compute_uv=False)[-1])

    def angle_to(self, mat: Float64Array) -> float:
        """
        Compute the angle (rad) between the hand's orientation and another.

        :param mat: (3, 3)
        """
        return float(np.linalg.norm(rotation_vector(mat @ self.mat.T)))

    def reach(
        self,
        target: Live,
        mat: Float64Array | None = None,
        tolerance: float = 0.01,
        stop: Callable[[], bool] = lambda: False,
        max_steps: int = MAX_STEPS,
    ) -> Motion:
        """
        Move the hand to a point without moving the fingers.

        :param target: the point (m), (3,)
        :param mat: orientation to take, (3, 3); None: as it is
        :param tolerance: distance (m) that counts as there
        :param stop: ends the motion early
        :param max_steps: ends it at the latest
        """
        return self.steer(lambda: target() - self.pos, mat, tolerance, stop, max_steps)

    def steer(
        self,
        remaining: Live,
        mat: Float64Array | None = None,
        tolerance: float = 0.01,
        stop: Callable[[], bool] = lambda: False,
        max_steps: int = MAX_STEPS,
    ) -> Motion:
        """
        Move until an offset vanishes, for example that of a held object from its target.

        :param remaining: the offset (m), (3,)
        :param mat: orientation of the hand to take, (3, 3); None: as it is
        :param tolerance: length of the offset (m) that counts as none
        :param stop: ends the motion early
        :param max_steps: ends it at the latest
        """
        for _ in range(max_steps):
            offset = remaining()
            turn = np.zeros(3) if mat is None else rotation_vector(mat @ self.mat.T)
            is_turned = float(np.linalg.norm(turn)) < ANGLE_TOLERANCE
            if stop() or (is_turned and np.linalg.norm(offset) < tolerance):
                return
            yield self.command(offset, np.zeros(3) if is_turned else turn)

    def lower(
        self,
        remaining: Live,
        tolerance: float = 0.004,
        stop: Callable[[], bool] = lambda: False,
        max_steps: int = 40,
    ) -> Motion:
        """
        Same as ``steer``, but also end when the motion is blocked.

        :param remaining: the offset (m), (3,)
        :param tolerance: length of the offset (m) that counts as none
        :param stop: ends the motion early
        :param max_steps: ends it at the latest
        """
        lengths: list[float] = []

        def is_stalled() -> bool:
            lengths.append(float(np.linalg.norm(remaining())))
            return len(lengths) > 2 * STALL_STEPS and lengths[-1 - STALL_STEPS] - lengths[-1] < STALL_DISTANCE

        return self.steer(remaining, None, tolerance, lambda: stop() or is_stalled(), max_steps)

    def close(self, n_steps: int) -> Motion:
        """
        Stand still and close the gripper.

        :param n_steps: how long; a full swing takes eight control steps, a firm grasp nine or more
        """
        self.gripper = GRIPPER_CLOSE
        return self._dwell(n_steps)

    def open(self, n_steps: int = 6) -> Motion:
        """
        Stand still and open the gripper.

        :param n_steps: how long
        """
        self.gripper = GRIPPER_OPEN
        return self._dwell(n_steps)

    def rise(self, height: float) -> Motion:
        """
        Raise the hand.

        :param height: distance (m)
        """
        target = self.pos + np.array([0.0, 0.0, height])
        return self.reach(lambda: target, tolerance=0.015, max_steps=25)

    def go_home(self) -> Motion:
        """Return to the hand's initial position, pointing down."""
        return self.reach(lambda: self._home, DOWN, tolerance=0.03, max_steps=40)

    def command(self, offset: Float64Array, turn: Float64Array) -> Float64Array:
        """
        Compute the command towards an offset and a turn, without moving the fingers.

        :param offset: translation left to do (m), (3,)
        :param turn: rotation left to do, axis-angle (rad), (3,)
        """
        command = np.zeros(COMMAND_DIM)
        share = float(np.interp(self.dexterity(), STRETCHED, (MIN_SPEED_SHARE, 1.0)))
        command[:3] = capped(GAIN * offset / MAX_TRANSLATION, share * self.speed)
        command[3:6] = capped(ROTATION_GAIN * turn / MAX_ROTATION, MAX_TURN)
        command[6] = self.gripper
        return command

    def _dwell(self, n_steps: int) -> Motion:
        gripper = self.gripper
        for _ in range(n_steps):
            self.gripper = gripper
            yield self.command(np.zeros(3), np.zeros(3))


def arm_jacobian(model: mujoco.MjModel, data: mujoco.MjData, robot: RobotIds) -> Float64Array:
    """
    Compute the end effector's Jacobian with respect to the arm's joints.

    :param model: compiled scene
    :param data: its state, kinematics and centres of mass up to date
    :param robot: where the arm is in it
    :return: translation (m/rad) and rotation, (6, n_joints)
    """
    jacobian = np.empty((6, model.nv))
    mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], robot.eef_site)
    return jacobian[:, robot.qvel]


def capped(vector: Float64Array, norm: float) -> Float64Array:
    """
    Shorten a vector to a norm if it is longer.

    :param vector: any vector
    :param norm: greatest norm
    :return: same shape
    """
    return vector * min(1.0, norm / max(float(np.linalg.norm(vector)), 1e-12))


def rotation_vector(mat: Float64Array) -> Float64Array:
    """
    Convert a rotation matrix to a rotation vector.

    :param mat: rotation matrix, (3, 3)
    :return: (3,) rad, of length at most pi
    """
    axis = np.array([mat[2, 1] - mat[1, 2], mat[0, 2] - mat[2, 0], mat[1, 0] - mat[0, 1]])
    sine, cosine = 0.5 * float(np.linalg.norm(axis)), 0.5 * (float(np.trace(mat)) - 1.0)
    if sine < 1e-9:
        if cosine > 0.0:
            return np.zeros(3)
        # half a turn: the axis is the eigenvector of eigenvalue 1
        column = int(np.argmax(np.diag(mat)))
        half = mat[:, column] + np.eye(3)[column]
        return np.asarray(np.pi * half / np.linalg.norm(half))
    return axis / (2.0 * sine) * float(np.arctan2(sine, cosine))


def about_vertical(angle: float) -> Float64Array:
    """
    Make the matrix of a rotation about the vertical.

    :param angle: rad
    :return: (3, 3)
    """
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def turned(yaw: float) -> Float64Array:
    """
    Make the orientation of a hand that points down, turned about the vertical.

    :param yaw: angle (rad) from ``DOWN``
    :return: (3, 3)
    """
    return np.asarray(about_vertical(yaw) @ DOWN)
