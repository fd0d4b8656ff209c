"""
Test oracles: slow, readable twins of the controller, the gripper and the control step, in plain NumPy.

Nothing in the library calls them. The tests compare the compiled code of ``control_step`` with them, and them with
robosuite.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from vla_gym.scenes.bundle import RobotIds
from vla_gym.sim.controller import GRIPPER_SPEED, MAX_ROTATION, MAX_TRANSLATION, osc_torques, rotation_matrix
from vla_gym.sim.core import SimCore
from vla_gym.spec import COMMAND_DIM
from vla_gym.tasks.registry import SUBSTEPS
from vla_gym.type_aliases import Float64Array


@dataclass
class ArmState:
    """
    State of the arm as the controller reads it.

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
    Read the arm from a simulation whose derived quantities are up to date (after ``mj_forward``).

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
    Turn pose commands into joint torques.

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
        Compute joint torques towards the goal.

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


class GripperIntegrator:
    """Integrate the Panda gripper's binary command at a fixed speed; a full swing takes eight control steps."""

    def __init__(self) -> None:
        self.position = np.zeros(2)

    def reset(self) -> None:
        """Return to the middle, where every episode starts."""
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


class ReferenceStepper:
    """
    Step a simulation with the NumPy controller, making upstream's calls in upstream's order.

    :param core: a simulation that has just been reset; its own controller is not used
    """

    def __init__(self, core: SimCore) -> None:
        self._model, self._data, self._ids = core.model, core.data, core.robot
        self.controller = OSCPoseController(core.arm.rest)
        self.controller.goal_pos, self.controller.goal_mat = core.arm.goal_pos.copy(), core.arm.goal_mat.copy()
        self.gripper = GripperIntegrator()
        self.gripper.position = core.arm.fingers.copy()
        self._stale_arm: ArmState | None = None
        if core.arm.is_stale[0]:
            arm = core.arm
            self._stale_arm = ArmState(
                *(a.copy() for a in (arm.eef_pos, arm.eef_mat, arm.joint_pos, arm.joint_vel)),
                *(a.copy() for a in (arm.eef_vel, arm.jacobian, arm.mass)),
            )

    def step(self, command: Float64Array) -> None:
        """
        Execute one command for 1/20 s.

        :param command: in [-1, 1], (7,)
        """
        model, data, ids = self._model, self._data, self._ids
        torque_range = model.actuator_ctrlrange[ids.ctrl]
        finger_range = model.actuator_ctrlrange[ids.gripper_ctrl]
        for substep in range(SUBSTEPS):
            mujoco.mj_forward(model, data)
            arm = self._stale_arm or read_arm_state(model, data, ids)
            self._stale_arm = None
            if substep == 0:
                self.controller.set_goal(command[: COMMAND_DIM - 1], arm)
            torques = self.controller.torques(arm, data.qfrc_bias[ids.qvel])
            data.ctrl[ids.ctrl] = np.clip(torques, torque_range[:, 0], torque_range[:, 1])
            fingers = self.gripper.substep(float(command[COMMAND_DIM - 1]))
            middle, half = finger_range.mean(axis=1), 0.5 * (finger_range[:, 1] - finger_range[:, 0])
            data.ctrl[ids.gripper_ctrl] = middle + half * fingers
            mujoco.mj_step(model, data)
