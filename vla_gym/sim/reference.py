"""The control step in plain NumPy: the slow twin of ``control_step``, to read and to compare with."""

from __future__ import annotations

import mujoco
import numpy as np

from vla_gym.sim.controller import ArmState, GripperIntegrator, OSCPoseController, read_arm_state
from vla_gym.sim.core import SimCore
from vla_gym.tasks.registry import COMMAND_DIM, SUBSTEPS
from vla_gym.type_aliases import Float64Array


class ReferenceStepper:
    """
    Steps a simulation with the NumPy controller, making upstream's calls in upstream's order.

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
