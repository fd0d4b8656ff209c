"""
The fused control step: controller, gripper and 25 sub-steps of MuJoCo in one compiled call without the interpreter.

The tests compare it with its slow, readable twin ``reference.ReferenceStepper``. There are two sequences of calls:

- ``exact`` is upstream's: ``mj_forward``, controller with pseudo-inverses, ``mj_step``.
- ``fast``: ``mj_step1``, controller with Cholesky factors, ``mj_step2``. The forward pass has no effect on the
  state, so the trajectory is the same up to rounding in the controller, at half the cost.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numba import njit

from vla_gym.scenes.bundle import RobotIds
from vla_gym.sim.controller import (
    GRIPPER_SPEED,
    KD,
    KP,
    MAX_ROTATION,
    MAX_TRANSLATION,
    NULLSPACE_KD,
    NULLSPACE_KP,
    osc_torques,
)
from vla_gym.sim.mujoco_calls import MujocoCalls, call_jac_site, call_model_data
from vla_gym.sim.plain_torques import plain_osc_torques
from vla_gym.tasks.registry import OBSERVED_SUBSTEP, SUBSTEPS
from vla_gym.type_aliases import Float64Array, Int64Array

MIN_PIVOT_RATIO = 1e-10
"""Smallest ratio of Cholesky pivots; below it the arm counts as singular, and upstream's pseudo-inverse is used."""


# numba compiles np.linalg only if SciPy is installed
_exact_torques: Any = plain_osc_torques if importlib.util.find_spec("scipy") is None else osc_torques


class SimArrays(NamedTuple):
    """
    Arrays of a running simulation, which MuJoCo writes to, and the robot's place in them, for compiled code.

    :param model: address of the ``mjModel``
    :param data: address of its ``mjData``
    :param qpos: joint positions (m, rad), (nq,)
    :param qvel: joint velocities (m/s, rad/s), (nv,)
    :param ctrl: inputs of the actuators (N m, m), (nu,)
    :param bias: gravity, Coriolis and centrifugal forces (N, N m), (nv,)
    :param inertia: joint-space inertia in MuJoCo's sparse layout, (nM,)
    :param site_pos: positions of all sites (m), (nsite, 3)
    :param site_mat: their orientations, row by row, (nsite, 9)
    :param body_quat: orientations of all bodies (wxyz), (nbody, 4)
    :param dof_parent: parent of each degree of freedom, -1 for none, (nv,)
    :param dof_inertia_address: where each degree of freedom's entries begin in ``inertia``, (nv,)
    :param arm_of_dof: number of the arm joint of each degree of freedom, -1 for others, (nv,)
    :param arm_qpos: addresses of the arm joints in ``qpos``, (7,)
    :param arm_qvel: addresses of the arm joints in ``qvel``, (7,)
    :param arm_ctrl: arm actuators, (7,)
    :param arm_ctrl_range: their lowest and highest torque (N m), (7, 2)
    :param finger_ctrl: finger actuators, (2,)
    :param finger_range: their lowest and highest position (m), (2, 2)
    :param eef_site: site that is controlled
    :param eef_body: body whose orientation is observed
    """

    model: int
    data: int
    qpos: Float64Array
    qvel: Float64Array
    ctrl: Float64Array
    bias: Float64Array
    inertia: Float64Array
    site_pos: Float64Array
    site_mat: Float64Array
    body_quat: Float64Array
    dof_parent: Int64Array
    dof_inertia_address: Int64Array
    arm_of_dof: Int64Array
    arm_qpos: Int64Array
    arm_qvel: Int64Array
    arm_ctrl: Int64Array
    arm_ctrl_range: Float64Array
    finger_ctrl: Int64Array
    finger_range: Float64Array
    eef_site: int
    eef_body: int


class ControllerState(NamedTuple):
    """
    State of controller and gripper between sub-steps, and the arm as it was last read.

    :param goal_pos: goal of the end effector (m), (3,)
    :param goal_mat: its orientation there, (3, 3)
    :param rest: joint positions that null-space torques pull to (rad), (7,)
    :param fingers: normalised finger targets in [-1, 1], (2,)
    :param is_stale: 1 if the next sub-step works with the arm as it was read before, else 0, (1,)
    :param eef_pos: position of the end effector (m), (3,)
    :param eef_mat: its orientation, (3, 3)
    :param joint_pos: arm joints (rad), (7,)
    :param joint_vel: their velocities (rad/s), (7,)
    :param eef_vel: linear (m/s) and angular (rad/s) velocity of the end effector, (6,)
    :param jacobian: of the end effector with respect to the arm joints, translation above rotation, (6, 7)
    :param mass: joint-space inertia of the arm (kg m^2), (7, 7)
    :param full_jacobian: scratch space for the Jacobian with respect to all degrees of freedom, (6, nv)
    """

    goal_pos: Float64Array
    goal_mat: Float64Array
    rest: Float64Array
    fingers: Float64Array
    is_stale: Int64Array
    eef_pos: Float64Array
    eef_mat: Float64Array
    joint_pos: Float64Array
    joint_vel: Float64Array
    eef_vel: Float64Array
    jacobian: Float64Array
    mass: Float64Array
    full_jacobian: Float64Array


class ObservedState(NamedTuple):
    """
    What the observation shows; it is older than the simulation's state.

    ``derived_qpos`` and ``derived_qvel`` are the joint state before the last integration, to which MuJoCo's derived
    quantities (poses, contacts) belong. With them a simulation can be restored to the bit.

    :param qpos: joint positions as rendered (m, rad), (nq,)
    :param sensed_qpos: joint positions as sensed, one integration later, (nq,)
    :param eef_pos: position of the end effector (m), (3,)
    :param eef_quat: its orientation (wxyz), (4,)
    :param derived_qpos: joint positions of the derived quantities, (nq,)
    :param derived_qvel: joint velocities of the derived quantities, (nv,)
    """

    qpos: Float64Array
    sensed_qpos: Float64Array
    eef_pos: Float64Array
    eef_quat: Float64Array
    derived_qpos: Float64Array
    derived_qvel: Float64Array


def make_sim_arrays(model: mujoco.MjModel, data: mujoco.MjData, ids: RobotIds) -> SimArrays:
    """
    Collect the arrays of a simulation; they are valid as long as it exists.

    :param model: compiled scene
    :param data: its state
    :param ids: where the robot is
    """
    arm_of_dof = np.full(model.nv, -1, dtype=np.int64)
    arm_of_dof[ids.qvel] = np.arange(len(ids.qvel))
    return SimArrays(
        model=model._address,
        data=data._address,
        qpos=data.qpos,
        qvel=data.qvel,
        ctrl=data.ctrl,
        bias=data.qfrc_bias,
        inertia=data.qM,
        site_pos=data.site_xpos,
        site_mat=data.site_xmat,
        body_quat=data.xquat,
        dof_parent=model.dof_parentid.astype(np.int64),
        dof_inertia_address=model.dof_Madr.astype(np.int64),
        arm_of_dof=arm_of_dof,
        arm_qpos=np.asarray(ids.qpos, dtype=np.int64),
        arm_qvel=np.asarray(ids.qvel, dtype=np.int64),
        arm_ctrl=np.asarray(ids.ctrl, dtype=np.int64),
        arm_ctrl_range=model.actuator_ctrlrange[ids.ctrl].copy(),
        finger_ctrl=np.asarray(ids.gripper_ctrl, dtype=np.int64),
        finger_range=model.actuator_ctrlrange[ids.gripper_ctrl].copy(),
        eef_site=ids.eef_site,
        eef_body=ids.eef_body,
    )


def make_controller_state(rest_joint_pos: Float64Array, nv: int) -> ControllerState:
    """
    Make the controller's state for a new simulation.

    :param rest_joint_pos: joint positions the null-space torques pull to (rad), (7,)
    :param nv: degrees of freedom of the scene
    """
    return ControllerState(
        goal_pos=np.zeros(3),
        goal_mat=np.eye(3),
        rest=np.array(rest_joint_pos, dtype=np.float64),
        fingers=np.zeros(2),
        is_stale=np.zeros(1, dtype=np.int64),
        eef_pos=np.zeros(3),
        eef_mat=np.eye(3),
        joint_pos=np.zeros(7),
        joint_vel=np.zeros(7),
        eef_vel=np.zeros(6),
        jacobian=np.zeros((6, 7)),
        mass=np.eye(7),
        full_jacobian=np.zeros((6, nv)),
    )


@njit(cache=True, nogil=True)
def read_arm(calls: MujocoCalls, arrays: SimArrays, arm: ControllerState) -> None:
    """
    Read the arm from a simulation whose derived quantities are up to date.

    :param calls: MuJoCo's functions
    :param arrays: the simulation
    :param arm: written to
    """
    rows = arm.full_jacobian
    start = rows.ctypes.data
    half = 3 * rows.shape[1] * 8
    call_jac_site(calls.jac_site, arrays.model, arrays.data, start, start + half, arrays.eef_site)
    arm.eef_pos[:] = arrays.site_pos[arrays.eef_site]
    arm.eef_mat[:] = arrays.site_mat[arrays.eef_site].reshape(3, 3)
    for i in range(7):
        dof = arrays.arm_qvel[i]
        arm.joint_pos[i] = arrays.qpos[arrays.arm_qpos[i]]
        arm.joint_vel[i] = arrays.qvel[dof]
        arm.jacobian[:, i] = rows[:, dof]
        # each row of the sparse inertia matrix lists a degree of freedom, then its parents up to the root
        address = arrays.dof_inertia_address[dof]
        other = dof
        while other >= 0:
            j = arrays.arm_of_dof[other]
            if j >= 0:
                arm.mass[i, j] = arm.mass[j, i] = arrays.inertia[address]
            address += 1
            other = arrays.dof_parent[other]
    for k in range(6):
        # no other joint moves the end effector
        total = 0.0
        for i in range(7):
            total += arm.jacobian[k, i] * arm.joint_vel[i]
        arm.eef_vel[k] = total


@njit(cache=True, nogil=True)
def control_step(
    calls: MujocoCalls,
    arrays: SimArrays,
    arm: ControllerState,
    observed: ObservedState,
    command: Float64Array,
    exact: bool,
) -> None:
    """
    Execute one command for 1/20 s.

    :param calls: MuJoCo's functions
    :param arrays: the simulation
    :param arm: state of controller and gripper, updated
    :param observed: written at the sub-step at which upstream samples its observations
    :param command: in [-1, 1], (7,)
    :param exact: upstream's sequence of calls instead of the fast one
    """
    torques = np.empty(7)
    bias = np.empty(7)
    for substep in range(SUBSTEPS):
        call_model_data(calls.forward if exact else calls.step1, arrays.model, arrays.data)
        if arm.is_stale[0]:
            arm.is_stale[0] = 0
        else:
            read_arm(calls, arrays, arm)
        if substep == 0:
            set_goal(arm, command)
        for i in range(7):
            bias[i] = arrays.bias[arrays.arm_qvel[i]]
        if exact or not _fast_torques(arm, bias, torques):
            torques[:] = _exact_torques(
                arm.goal_pos,
                arm.goal_mat,
                arm.eef_pos,
                arm.eef_mat,
                arm.eef_vel,
                arm.jacobian,
                arm.mass,
                arm.rest - arm.joint_pos,
                arm.joint_vel,
                bias,
            )
        for i in range(7):
            low, high = arrays.arm_ctrl_range[i, 0], arrays.arm_ctrl_range[i, 1]
            arrays.ctrl[arrays.arm_ctrl[i]] = min(max(torques[i], low), high)
        _move_fingers(arrays, arm, command[6])
        if substep == OBSERVED_SUBSTEP:
            observed.qpos[:] = arrays.qpos
        if substep == SUBSTEPS - 1:
            observed.derived_qpos[:] = arrays.qpos
            observed.derived_qvel[:] = arrays.qvel
        call_model_data(calls.step if exact else calls.step2, arrays.model, arrays.data)
        if substep == OBSERVED_SUBSTEP:
            read_sensors(arrays, observed)


@njit(cache=True, nogil=True)
def read_sensors(arrays: SimArrays, observed: ObservedState) -> None:
    """
    Read the sensors as they are now.

    :param arrays: the simulation
    :param observed: written to
    """
    observed.sensed_qpos[:] = arrays.qpos
    observed.eef_pos[:] = arrays.site_pos[arrays.eef_site]
    observed.eef_quat[:] = arrays.body_quat[arrays.eef_body]


@njit(cache=True, nogil=True)
def set_goal(arm: ControllerState, command: Float64Array) -> None:
    """
    Set the goal relative to the pose as last read.

    :param arm: state of the controller, updated
    :param command: in [-1, 1] (clipped), (7,)
    """
    rotation = np.empty(3)
    for k in range(3):
        arm.goal_pos[k] = arm.eef_pos[k] + min(max(command[k], -1.0), 1.0) * MAX_TRANSLATION
        rotation[k] = min(max(command[3 + k], -1.0), 1.0) * MAX_ROTATION
    if rotation[0] != 0.0 or rotation[1] != 0.0 or rotation[2] != 0.0:
        turn = _rotation_matrix(rotation)
        for i in range(3):
            for j in range(3):
                arm.goal_mat[i, j] = (
                    turn[i, 0] * arm.eef_mat[0, j] + turn[i, 1] * arm.eef_mat[1, j] + turn[i, 2] * arm.eef_mat[2, j]
                )


@njit(cache=True, nogil=True)
def _rotation_matrix(axis_angle: Float64Array) -> Float64Array:
    """Same as ``controller.rotation_matrix``, including its rounding to single precision."""
    angle = math.sqrt(axis_angle[0] ** 2 + axis_angle[1] ** 2 + axis_angle[2] ** 2)
    q = np.empty(4, dtype=np.float32)
    q[0] = np.float32(math.cos(angle / 2.0))
    for k in range(3):
        q[1 + k] = np.float32(axis_angle[k] / angle * math.sin(angle / 2.0))
    # single-precision products summed in double precision, as BLAS does in the original
    norm = 0.0
    for k in range(4):
        norm += float(q[k] * q[k])
    scale = math.sqrt(2.0 / float(np.float32(norm)))
    for k in range(4):
        q[k] = np.float32(float(q[k]) * scale)
    w, x, y, z = q[0], q[1], q[2], q[3]
    turn = np.empty((3, 3))
    turn[0, 0] = 1.0 - float(y * y) - float(z * z)
    turn[1, 1] = 1.0 - float(x * x) - float(z * z)
    turn[2, 2] = 1.0 - float(x * x) - float(y * y)
    turn[0, 1] = np.float32(x * y - z * w)
    turn[0, 2] = np.float32(x * z + y * w)
    turn[1, 0] = np.float32(x * y + z * w)
    turn[1, 2] = np.float32(y * z - x * w)
    turn[2, 0] = np.float32(x * z - y * w)
    turn[2, 1] = np.float32(y * z + x * w)
    return turn


@njit(cache=True, nogil=True)
def _move_fingers(arrays: SimArrays, arm: ControllerState, command: float) -> None:
    direction = np.sign(command) * GRIPPER_SPEED
    for i in range(2):
        moved = arm.fingers[i] - direction if i == 0 else arm.fingers[i] + direction
        arm.fingers[i] = min(max(moved, -1.0), 1.0)
        low, high = arrays.finger_range[i, 0], arrays.finger_range[i, 1]
        arrays.ctrl[arrays.finger_ctrl[i]] = 0.5 * (low + high) + 0.5 * (high - low) * arm.fingers[i]


@njit(cache=True, nogil=True)
def _fast_torques(arm: ControllerState, bias: Float64Array, torques: Float64Array) -> bool:
    """
    Compute the torques of ``controller.osc_torques`` with Cholesky factors; ``False`` near a singularity.

    With inertia M, Jacobian J, A = J M^-1 J' and posture acceleration u, they are
    J' [A_pos^-1 f; A_ori^-1 t] - J' A^-1 J u + M u + bias.
    """
    a = np.empty((6, 6))
    if not _inverse_task_inertia(arm, a):
        return False
    a_pos, a_ori = a[:3, :3].copy(), a[3:, 3:].copy()
    if not (_cholesky(a) and _cholesky(a_pos) and _cholesky(a_ori)):
        return False
    force, torque = np.empty(3), np.empty(3)
    _pose_errors(arm, force, torque)
    posture = NULLSPACE_KP * (arm.rest - arm.joint_pos) - NULLSPACE_KD * arm.joint_vel
    wrench = np.zeros(6)
    for k in range(6):
        for i in range(7):
            wrench[k] -= arm.jacobian[k, i] * posture[i]
    _solve(a, wrench)
    _solve(a_pos, force)
    _solve(a_ori, torque)
    wrench[:3] += force
    wrench[3:] += torque
    for i in range(7):
        total = bias[i]
        for k in range(6):
            total += arm.jacobian[k, i] * wrench[k]
        for j in range(7):
            total += arm.mass[i, j] * posture[j]
        torques[i] = total
    return True


@njit(cache=True, nogil=True)
def _inverse_task_inertia(arm: ControllerState, a: Float64Array) -> bool:
    """Write J M^-1 J' to ``a``, (6, 6); ``False`` if M is near singular."""
    factor = arm.mass.copy()
    if not _cholesky(factor):
        return False
    # Y = L^-1 J', where M = L L': A = Y' Y
    y = np.empty((7, 6))
    for k in range(6):
        for i in range(7):
            total = arm.jacobian[k, i]
            for j in range(i):
                total -= factor[i, j] * y[j, k]
            y[i, k] = total / factor[i, i]
    for i in range(6):
        for j in range(i + 1):
            total = 0.0
            for k in range(7):
                total += y[k, i] * y[k, j]
            a[i, j] = a[j, i] = total
    return True


@njit(cache=True, nogil=True)
def _pose_errors(arm: ControllerState, force: Float64Array, torque: Float64Array) -> None:
    """Write the accelerations (m/s^2, rad/s^2) that pull the end effector to its goal."""
    for i in range(3):
        force[i] = KP * (arm.goal_pos[i] - arm.eef_pos[i]) - KD * arm.eef_vel[i]
        p, q = (i + 1) % 3, (i + 2) % 3
        error = 0.0
        for k in range(3):
            error += 0.5 * (arm.eef_mat[p, k] * arm.goal_mat[q, k] - arm.eef_mat[q, k] * arm.goal_mat[p, k])
        torque[i] = KP * error - KD * arm.eef_vel[3 + i]


@njit(cache=True, nogil=True)
def _cholesky(a: Float64Array) -> bool:
    """Overwrite the lower triangle of a symmetric matrix with its Cholesky factor; ``False`` if it is near singular."""
    largest = 0.0
    for i in range(a.shape[0]):
        for j in range(i + 1):
            total = a[i, j]
            for k in range(j):
                total -= a[i, k] * a[j, k]
            if i == j:
                largest = max(largest, total)
                # written so that NaN fails too
                if not total > MIN_PIVOT_RATIO * largest:
                    return False
                a[i, i] = math.sqrt(total)
            else:
                a[i, j] = total / a[j, j]
    return True


@njit(cache=True, nogil=True)
def _solve(factor: Float64Array, b: Float64Array) -> None:
    """Overwrite ``b`` with the solution of ``factor factor' x = b``."""
    n = b.shape[0]
    for i in range(n):
        for j in range(i):
            b[i] -= factor[i, j] * b[j]
        b[i] /= factor[i, i]
    for i in range(n - 1, -1, -1):
        for j in range(i + 1, n):
            b[i] -= factor[j, i] * b[j]
        b[i] /= factor[i, i]
