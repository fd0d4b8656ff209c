"""
Equations and constants of robosuite's OSC_POSE controller and Panda gripper, without robosuite.

Operational-space control after Khatib (1987), as configured by LIBERO: position and orientation decoupled, gains
kp = 150 at critical damping, commands of at most 5 cm and 0.5 rad relative to the current pose, null-space torques that
pull the arm to its initial joint positions. Reference: robosuite 1.4.0, ``controllers/osc.py``.

Two quirks of the original are kept because trajectories depend on them:

- A rotation command of exactly zero keeps the old goal orientation; any other re-anchors it to the current one.
- The rotation matrix of a command is computed in single precision.
"""

from __future__ import annotations

import math

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


def rotation_matrix(axis_angle: Float64Array) -> Float64Array:
    """
    Compute the rotation matrix of an axis-angle vector, rounded to single precision as in the original.

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
    Compute torques of decoupled operational-space control, in plain NumPy compiled by numba (original: ``.py_func``).

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
