"""
robosuite's OSC_POSE controller and Panda gripper, readable and without robosuite.

Operational-space control after Khatib (1987), as configured by LIBERO: position and orientation decoupled, gains
kp = 150 at critical damping, commands of at most 5 cm and 0.5 rad relative to the current pose, null-space torques that
pull the arm to its initial joint positions. Reference: robosuite 1.4.0, ``controllers/osc.py``.

Two habits of the original are kept because trajectories depend on them:

- A rotation command of exactly zero keeps the old goal orientation; any other re-anchors it to the current one.
- The rotation matrix of a command is computed in single precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numba import njit

from vla_gym.type_aliases import Float64Array

MAX_TRANSLATION = 0.05
"""Translation (m) of a command of 1."""
MAX_ROTATION = 0.5
"""Rotation (rad) of a command of 1."""
KP = 150.0
KD = 2.0 * math.sqrt(KP)
NULLSPACE_KP = 10.0
NULLSPACE_KD = 2.0 * math.sqrt(NULLSPACE_KP)
GRIPPER_SPEED = 0.01
"""Change of the normalised finger position per simulation step."""


@dataclass(frozen=True)
class RobotIds:
    """
    Where the robot is in a compiled model.

    :param qpos: addresses of the arm joints in qpos, (7,)
    :param qvel: addresses of the arm joints in qvel, (7,)
    :param ctrl: arm actuators, (7,)
    :param gripper_qpos: addresses of the finger joints in qpos, (2,)
    :param gripper_ctrl: finger actuators, (2,)
    :param eef_site: site that is controlled
    :param eef_body: body whose orientation is observed
    """

    qpos: Any
    qvel: Any
    ctrl: Any
    gripper_qpos: Any
    gripper_ctrl: Any
    eef_site: int
    eef_body: int

    @classmethod
    def from_names(cls, model: mujoco.MjModel, robot: Mapping[str, Any]) -> RobotIds:
        """
        Look the names up.

        :param model: compiled scene
        :param robot: names, as stored in a scene bundle
        """

        def joints(names: list[str], addresses: Any) -> Any:
            return np.array([addresses[model.joint(name).id] for name in names])

        return cls(
            qpos=joints(robot["joints"], model.jnt_qposadr),
            qvel=joints(robot["joints"], model.jnt_dofadr),
            ctrl=np.array([model.actuator(name).id for name in robot["actuators"]]),
            gripper_qpos=joints(robot["gripper_joints"], model.jnt_qposadr),
            gripper_ctrl=np.array([model.actuator(name).id for name in robot["gripper_actuators"]]),
            eef_site=model.site(robot["eef_site"]).id,
            eef_body=model.body(robot["eef_body"]).id,
        )


@dataclass
class ArmState:
    """
    What the controller knows of the arm.

    :param eef_pos: position of the end effector (m), (3,)
    :param eef_mat: its orientation, (3, 3)
    :param joint_pos: joint positions (rad), (7,)
    :param joint_vel: joint velocities (rad/s), (7,)
    :param eef_vel: linear (m/s) and angular (rad/s) velocity, (6,)
    :param jacobian: of the end effector, translation above rotation, (6, 7)
    :param mass: joint-space inertia, (7, 7)
    """

    eef_pos: Float64Array
    eef_mat: Float64Array
    joint_pos: Float64Array
    joint_vel: Float64Array
    eef_vel: Float64Array
    jacobian: Float64Array
    mass: Float64Array


def read_arm_state(model: mujoco.MjModel, data: mujoco.MjData, ids: RobotIds) -> ArmState:
    """
    Arm state from a simulation whose derived quantities are up to date (after ``mj_forward``).

    :param model: compiled scene
    :param data: simulation state
    :param ids: where the robot is
    """
    jacobian = np.empty((6, model.nv))
    mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], ids.eef_site)
    mass = np.empty((model.nv, model.nv))
    mujoco.mj_fullM(model, mass, data.qM)
    return ArmState(
        eef_pos=data.site_xpos[ids.eef_site].copy(),
        eef_mat=data.site_xmat[ids.eef_site].reshape(3, 3).copy(),
        joint_pos=data.qpos[ids.qpos],
        joint_vel=data.qvel[ids.qvel],
        eef_vel=jacobian @ data.qvel,
        jacobian=np.ascontiguousarray(jacobian[:, ids.qvel]),
        mass=np.ascontiguousarray(mass[np.ix_(ids.qvel, ids.qvel)]),
    )


class OSCPoseController:
    """
    Turns pose commands into joint torques.

    :param rest_joint_pos: joint positions the null-space torques pull to (rad), (7,)
    """

    def __init__(self, rest_joint_pos: Float64Array) -> None:
        self.rest_joint_pos = np.array(rest_joint_pos, dtype=np.float64)
        self.goal_pos = np.zeros(3)
        self.goal_mat = np.eye(3)

    def reset(self, arm: ArmState) -> None:
        """Make the current pose the goal."""
        self.goal_pos = arm.eef_pos.copy()
        self.goal_mat = arm.eef_mat.copy()

    def set_goal(self, command: Float64Array, arm: ArmState) -> None:
        """
        Set the goal relative to the current pose.

        :param command: translation and axis-angle rotation in [-1, 1] (clipped), (6,)
        :param arm: current arm state
        """
        command = np.clip(command, -1.0, 1.0)
        self.goal_pos = arm.eef_pos + command[:3] * MAX_TRANSLATION
        rotation = command[3:] * MAX_ROTATION
        if np.any(rotation != 0.0):
            self.goal_mat = rotation_matrix(rotation) @ arm.eef_mat

    def torques(self, arm: ArmState, bias: Float64Array) -> Float64Array:
        """
        Joint torques towards the goal.

        :param arm: current arm state
        :param bias: gravity and Coriolis torques at the arm joints (N m), (7,)
        :return: torques (N m), (7,), not clipped
        """
        return osc_torques(
            self.goal_pos,
            self.goal_mat,
            arm.eef_pos,
            arm.eef_mat,
            arm.eef_vel,
            arm.jacobian,
            arm.mass,
            self.rest_joint_pos - arm.joint_pos,
            arm.joint_vel,
            bias,
        )


def rotation_matrix(axis_angle: Float64Array) -> Float64Array:
    """
    Rotation matrix of an axis-angle vector, rounded to single precision as the original does.

    :param axis_angle: rotation vector (rad), (3,)
    :return: (3, 3) float64 holding float32 values
    """
    angle = float(np.linalg.norm(axis_angle))
    if math.isclose(angle, 0.0):
        return np.eye(3)
    x, y, z = np.asarray(axis_angle) / angle * math.sin(angle / 2.0)
    q = np.array([math.cos(angle / 2.0), x, y, z]).astype(np.float32)
    q = (q.astype(np.float64) * math.sqrt(2.0 / float(np.dot(q, q)))).astype(np.float32)
    q2 = np.outer(q, q)
    diagonal = 1.0 - (q2[[2, 1, 1], [2, 1, 1]].astype(np.float64)) - q2[[3, 3, 2], [3, 3, 2]]
    return np.array(
        [
            [diagonal[0], q2[1, 2] - q2[3, 0], q2[1, 3] + q2[2, 0]],
            [q2[1, 2] + q2[3, 0], diagonal[1], q2[2, 3] - q2[1, 0]],
            [q2[1, 3] - q2[2, 0], q2[2, 3] + q2[1, 0], diagonal[2]],
        ],
        dtype=np.float64,
    )


@njit(cache=True)
def osc_torques(
    goal_pos: Float64Array,
    goal_mat: Float64Array,
    eef_pos: Float64Array,
    eef_mat: Float64Array,
    eef_vel: Float64Array,
    jacobian: Float64Array,
    mass: Float64Array,
    joint_error: Float64Array,
    joint_vel: Float64Array,
    bias: Float64Array,
) -> Float64Array:
    """
    Torques of decoupled operational-space control; plain NumPy, which numba compiles (``.py_func`` is the original).

    :param goal_pos: goal position (m), (3,)
    :param goal_mat: goal orientation, (3, 3)
    :param eef_pos: position (m), (3,)
    :param eef_mat: orientation, (3, 3)
    :param eef_vel: linear (m/s) and angular (rad/s) velocity, (6,)
    :param jacobian: (6, 7)
    :param mass: joint-space inertia, (7, 7)
    :param joint_error: rest minus current joint positions (rad), (7,)
    :param joint_vel: joint velocities (rad/s), (7,)
    :param bias: gravity and Coriolis torques (N m), (7,)
    :return: torques (N m), (7,)
    """
    rotation_error = np.zeros(3)
    for k in range(3):
        rotation_error += 0.5 * np.cross(eef_mat[:, k], goal_mat[:, k])
    force = KP * (goal_pos - eef_pos) - KD * eef_vel[:3]
    torque = KP * rotation_error - KD * eef_vel[3:]

    mass_inv = np.linalg.inv(mass)
    j_pos, j_ori = jacobian[:3], jacobian[3:]
    # task-space inertias; the pseudo-inverse drops directions the arm cannot move in
    lambda_full = np.linalg.pinv(jacobian @ mass_inv @ jacobian.T)
    lambda_pos = np.linalg.pinv(j_pos @ mass_inv @ j_pos.T)
    lambda_ori = np.linalg.pinv(j_ori @ mass_inv @ j_ori.T)
    wrench = np.concatenate((lambda_pos @ force, lambda_ori @ torque))

    j_bar = mass_inv @ jacobian.T @ lambda_full
    nullspace = np.eye(7) - j_bar @ jacobian
    posture = mass @ (NULLSPACE_KP * joint_error - NULLSPACE_KD * joint_vel)
    return jacobian.T @ wrench + bias + nullspace.T @ posture


class GripperIntegrator:
    """The Panda gripper's binary command, moved at a fixed speed; a full swing takes eight control steps."""

    def __init__(self) -> None:
        self.position = np.zeros(2)

    def reset(self) -> None:
        """Back to the middle, where every episode starts."""
        self.position = np.zeros(2)

    def substep(self, command: float) -> Float64Array:
        """
        Advance by one simulation step.

        :param command: -1 opens, +1 closes, 0 holds (only the sign counts)
        :return: normalised finger targets in [-1, 1], (2,)
        """
        step = np.array([-1.0, 1.0]) * GRIPPER_SPEED * np.sign(command)
        self.position = np.clip(self.position + step, -1.0, 1.0)
        return self.position
