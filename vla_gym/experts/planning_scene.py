"""``PlanningScene``: a copy of a simulation for inverse kinematics and collision checks."""

from __future__ import annotations

import mujoco
import numpy as np

from vla_gym.experts.hand import arm_jacobian, rotation_vector
from vla_gym.sim.core import SimCore
from vla_gym.type_aliases import Float64Array, Int64Array

FINGER_STROKE = 0.04
"""How far (m) each finger is from the middle when the gripper is open."""


class PlanningScene:
    """
    A copy of a simulation in which only poses are set.

    :param core: the simulation; its state is not touched
    :param model: its compiled scene, or a copy of that with other margins
    :param limit_margin: distance (rad) kept from the limits of the arm's joints
    """

    def __init__(self, core: SimCore, model: mujoco.MjModel, limit_margin: float) -> None:
        self._core, self._robot = core, core.robot
        self._model, self._data = model, mujoco.MjData(model)
        limits = model.jnt_range[model.actuator_trnid[core.robot.ctrl, 0]]
        self._low, self._high = limits[:, 0] + limit_margin, limits[:, 1] - limit_margin

    def reset(self, is_open: bool) -> None:
        """
        Copy all poses but the fingers' from the simulation.

        :param is_open: whether the fingers are open
        """
        self._data.qpos[:] = self._core.data.qpos
        self._data.qpos[self._robot.gripper_qpos] = np.array([1.0, -1.0]) * (FINGER_STROKE if is_open else 0.0)

    def reset_arm(self) -> None:
        """Copy the pose of the arm alone from the simulation."""
        self._data.qpos[self._robot.qpos] = self._core.data.qpos[self._robot.qpos]

    def _pose_error(self, pos: Float64Array, mat: Float64Array) -> Float64Array:
        """
        Compute the error from the hand's pose to another: offset (m) and rotation vector (rad), (6,).

        :param pos: position (m), (3,)
        :param mat: orientation, (3, 3)
        """
        mujoco.mj_kinematics(self._model, self._data)
        site = self._robot.eef_site
        turn = rotation_vector(mat @ self._data.site_xmat[site].reshape(3, 3).T)
        return np.concatenate([pos - self._data.site_xpos[site], turn])

    def _jacobian(self) -> Float64Array:
        """The arm's Jacobian (m, rad) in the pose of the last ``_pose_error``, (6, n_joints)."""
        mujoco.mj_comPos(self._model, self._data)
        return arm_jacobian(self._model, self._data, self._robot)

    def _ik_step(self, error: Float64Array, damping: float, max_change: float) -> Float64Array:
        """
        Do one step of inverse kinematics by damped least squares.

        :param error: from ``_pose_error``, (6,)
        :param damping: the larger, the smaller the steps near singular poses
        :param max_change: largest change of a joint (rad)
        :return: change of the arm's joints (rad), (n_joints,)
        """
        jacobian = self._jacobian()
        change = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping**2 * np.eye(6), error)
        return change * min(1.0, max_change / float(np.abs(change).max()))

    def _contacts(self) -> tuple[Int64Array, Float64Array]:
        """Pairs of geoms in contact, (n, 2), and their distances (m), negative where they overlap, (n,)."""
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
        n = self._data.ncon
        return self._data.contact.geom[:n], self._data.contact.dist[:n]
