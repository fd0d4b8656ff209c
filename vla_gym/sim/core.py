"""
``SimCore``: one MuJoCo simulation of one scene, stepped command by command as LIBERO steps it.

Upstream calls ``mj_forward``, the controller and ``mj_step`` in each of the 25 sub-steps. ``mj_step1``, controller,
``mj_step2`` give the same bits at half the cost, because the forward pass leaves no trace in the state. Positions in
``data`` lag the joint state by one sub-step after a control step; goals are evaluated in that state, as upstream does.

Upstream samples observations after the 24th sub-step (its timer counts the two forced samples at reset); whoever wants
them hands ``step`` a function that is called at that moment.
"""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np

from vla_gym.sim.bundle import SceneBundle
from vla_gym.sim.controller import ArmState, GripperIntegrator, OSCPoseController, RobotIds, read_arm_state
from vla_gym.tasks.goals import JOINT_RULES, Goal
from vla_gym.tasks.registry import COMMAND_DIM, OBSERVED_SUBSTEP, SUBSTEPS
from vla_gym.type_aliases import Float32Array, Float64Array

_DIVERGENCE = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
_HIDDEN_ALPHA, _SHOWN_ALPHA = -1.0, 2.0  # the two values between which LIBERO toggles a burner's site


class SimCore:
    """
    The simulation of one scene; the task on it can be changed without reloading the model.

    :param bundle: the first task
    """

    def __init__(self, bundle: SceneBundle) -> None:
        self.model = bundle.load_model()
        self.data = mujoco.MjData(self.model)
        self.robot = RobotIds.from_names(self.model, bundle.robot)
        self.controller = OSCPoseController(np.array(bundle.robot["init_qpos"]))
        self.gripper = GripperIntegrator()
        self._torque_range = self.model.actuator_ctrlrange[self.robot.ctrl].T.copy()
        finger_range = self.model.actuator_ctrlrange[self.robot.gripper_ctrl]
        self._finger_mid, self._finger_half = finger_range.mean(axis=1), 0.5 * (finger_range[:, 1] - finger_range[:, 0])
        self._stale_arm: ArmState | None = None
        self.bundle = bundle
        self.set_task(bundle)

    def set_task(self, bundle: SceneBundle) -> None:
        """
        Switch to another task on the same scene.

        :param bundle: its bundle
        :raises ValueError: if the task has another scene
        """
        if bundle.scene != self.bundle.scene:
            raise ValueError(f"{bundle.task.name} has scene {bundle.scene}, this simulation is of {self.bundle.scene}.")
        self.bundle = bundle
        self.goal = Goal(bundle.goal, self.model)
        self._fixtures = [self.model.body(name).id for name in bundle.fixture_bodies]
        self._heat = [
            (
                self.model.site(entry["site"]).id,
                [int(self.model.joint(name).qposadr[0]) for name in entry["joints"]],
                JOINT_RULES[entry["category"]]["turnon"],
            )
            for entry in bundle.heat_sites
        ]

    @property
    def state_size(self) -> int:
        """1 + nq + nv."""
        return int(1 + self.model.nq + self.model.nv)

    def reset(self, state: Float64Array, fixture_pos: Float64Array, fixture_quat: Float64Array) -> None:
        """
        Start an episode as upstream's ``reset`` followed by ``set_init_state`` does.

        Upstream's controller does not notice the new state until its second sub-step: the first one still works with
        the arm in its rest pose. That shifts the first commands by some 0.004 rad, and is reproduced here.

        :param state: initial state, (1 + nq + nv,)
        :param fixture_pos: positions of the fixtures (m), (F, 3)
        :param fixture_quat: their orientations (wxyz), (F, 4)
        """
        mujoco.mj_resetData(self.model, self.data)
        self.model.body_pos[self._fixtures] = fixture_pos
        self.model.body_quat[self._fixtures] = fixture_quat
        self.data.qpos[self.robot.qpos] = self.controller.rest_joint_pos
        mujoco.mj_forward(self.model, self.data)
        self._stale_arm = read_arm_state(self.model, self.data, self.robot)
        self.controller.reset(self._stale_arm)
        self.gripper.reset()
        mujoco.mj_resetData(self.model, self.data)
        self._write_state(state)

    def get_state(self) -> Float64Array:
        """Time (s), qpos, qvel, (1 + nq + nv,) float64."""
        return np.concatenate(([self.data.time], self.data.qpos, self.data.qvel))

    def set_state(self, state: Float64Array) -> None:
        """
        Go to a state within an episode; the controller's goal becomes the pose there, the gripper's target is kept.

        :param state: as returned by ``get_state``
        """
        self._write_state(state)
        self._stale_arm = None
        self.controller.reset(read_arm_state(self.model, self.data, self.robot))

    def _write_state(self, state: Float64Array) -> None:
        nq = self.model.nq
        self.data.time = state[0]
        self.data.qpos[:] = state[1 : 1 + nq]
        self.data.qvel[:] = state[1 + nq :]
        mujoco.mj_forward(self.model, self.data)
        self._update_heat_sites()

    def step(self, command: Float64Array, observe: Callable[[], None] | None = None) -> None:
        """
        Execute one command for 1/20 s.

        :param command: in [-1, 1]: translation (3), axis-angle rotation (3), gripper (-1 open, +1 close), (7,)
        :param observe: called when upstream samples its observations; must not change the simulation
        """
        model, data, ids = self.model, self.data, self.robot
        for substep in range(SUBSTEPS):
            mujoco.mj_step1(model, data)
            arm = self._stale_arm or read_arm_state(model, data, ids)
            self._stale_arm = None
            if substep == 0:
                self.controller.set_goal(command[: COMMAND_DIM - 1], arm)
            torques = self.controller.torques(arm, data.qfrc_bias[ids.qvel])
            data.ctrl[ids.ctrl] = np.clip(torques, self._torque_range[0], self._torque_range[1])
            fingers = self.gripper.substep(float(command[COMMAND_DIM - 1]))
            data.ctrl[ids.gripper_ctrl] = self._finger_mid + self._finger_half * fingers
            mujoco.mj_step2(model, data)
            if observe is not None and substep == OBSERVED_SUBSTEP:
                observe()
        self._update_heat_sites()

    def is_success(self) -> bool:
        """Whether the goal holds in the current state."""
        return self.goal.is_satisfied(self.data)

    def is_stable(self) -> bool:
        """Whether the state is finite and MuJoCo has not warned of divergence since the last reset."""
        warned = any(self.data.warning[int(kind)].number for kind in _DIVERGENCE)
        return not warned and bool(np.isfinite(self.data.qpos).all() and np.isfinite(self.data.qvel).all())

    def proprio(self) -> Float32Array:
        """End-effector position (m), axis-angle orientation (rad), two finger positions (m), (8,) float32."""
        position = self.data.site_xpos[self.robot.eef_site]
        rotation = axis_angle(self.data.xquat[self.robot.eef_body])
        fingers = self.data.qpos[self.robot.gripper_qpos]
        return np.concatenate((position, rotation, fingers)).astype(np.float32)

    def _update_heat_sites(self) -> None:
        for site, addresses, rule in self._heat:
            is_on = any(rule(float(self.data.qpos[address])) for address in addresses)
            self.model.site_rgba[site, 3] = _SHOWN_ALPHA if is_on else _HIDDEN_ALPHA


def axis_angle(quat: Float64Array) -> Float64Array:
    """
    Rotation vector of a quaternion, with robosuite's convention (angle in [0, 2 pi], no sign flip).

    :param quat: (w, x, y, z), (4,)
    :return: (3,) rad
    """
    w = float(np.clip(quat[0], -1.0, 1.0))
    sine = float(np.sqrt(1.0 - w * w))
    if np.isclose(sine, 0.0, rtol=0.0, atol=1e-12):
        return np.zeros(3)
    return np.asarray(quat[1:]) * 2.0 * np.arccos(w) / sine
