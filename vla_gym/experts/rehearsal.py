"""``Rehearsal``: puts the arm, and an object, where a plan wants them, and sees whether that is possible."""

from __future__ import annotations

import copy

import mujoco
import numpy as np

from vla_gym.experts.geometry import Thing, is_robot_geom
from vla_gym.experts.hand import rotation_vector
from vla_gym.sim.core import SimCore
from vla_gym.type_aliases import Float64Array

NEAR = 0.015
"""Distance (m) from which on something beside the hand counts as near."""
MARGIN = 0.003
"""Distance (m) that the robot keeps from what is beside it."""
MAX_DIP = 0.003
"""Depth (m) to which fingertips may be sent into a surface below them, which stops them."""
MAX_OVERLAP = 0.001
"""Depth (m) to which a placed object may reach into another: resting contact, and rounding."""
LIMIT_MARGIN = 0.05
"""Distance (rad) that the arm keeps from its joint limits."""
UPRIGHT = 0.7
"""Vertical part of a contact's normal from which on the contact is with something above or below."""
MIN_DEXTERITY = 0.085
"""Least singular value of the Jacobian (m, rad); below, the arm is nearly stretched and hardly moves."""
OPEN = 0.04
IK_STEPS = 20
IK_DAMPING = 1e-4
MAX_IK_STEP = 0.5
POS_TOLERANCE, ANGLE_TOLERANCE = 0.003, 0.03


class Rehearsal:
    """
    A copy of a simulation in which nothing moves by itself.

    :param core: the simulation
    :param thing: the object that is handled
    """

    def __init__(self, core: SimCore, thing: Thing) -> None:
        self._core, self._thing = core, thing
        self.dexterity = 0.0
        self._model = model = copy.copy(core.model)
        self._data = mujoco.MjData(model)
        self._is_robot = is_robot_geom(model)
        self._is_thing = np.isin(np.arange(model.ngeom), thing.geoms)
        self._is_gripper = np.array(
            [model.body(int(body)).name.startswith("gripper0_") for body in model.geom_bodyid], dtype=bool
        )
        model.geom_margin[self._is_gripper] = NEAR
        self._joint = int(model.jnt_qposadr[model.body_jntadr[thing.body]])
        arm = [model.actuator_trnid[actuator, 0] for actuator in core.robot.ctrl]
        self._range = model.jnt_range[arm] + np.array([LIMIT_MARGIN, -LIMIT_MARGIN])
        self._data.qpos[:] = core.data.qpos
        self._data.qpos[core.robot.gripper_qpos] = OPEN * np.sign(model.jnt_range[self._fingers()].sum(axis=1))

    def _fingers(self) -> list[int]:
        by_address = {int(address): joint for joint, address in enumerate(self._model.jnt_qposadr)}
        return [by_address[int(address)] for address in self._core.robot.gripper_qpos]

    def can_reach(self, pos: Float64Array, mat: Float64Array, min_dexterity: float = MIN_DEXTERITY) -> bool:
        """
        Put the arm where the hand is at a pose, starting from where the arm was put before.

        :param pos: of the end effector (m), (3,)
        :param mat: its orientation, (3, 3)
        :param min_dexterity: least singular value of the Jacobian that will do
        :return: whether its joints allow it, and let the hand move on from there in every direction
        """
        model, data, robot = self._model, self._data, self._core.robot
        jacobian = np.empty((6, model.nv))
        for _ in range(IK_STEPS):
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], robot.eef_site)
            j = jacobian[:, robot.qvel]
            offset = pos - data.site_xpos[robot.eef_site]
            turn = rotation_vector(mat @ data.site_xmat[robot.eef_site].reshape(3, 3).T)
            if np.linalg.norm(offset) < POS_TOLERANCE and np.linalg.norm(turn) < ANGLE_TOLERANCE:
                joints = data.qpos[robot.qpos]
                is_within = np.all(joints > self._range[:, 0]) and np.all(joints < self._range[:, 1])
                self.dexterity = float(np.linalg.svd(j, compute_uv=False)[-1])
                return bool(is_within and self.dexterity > min_dexterity)
            step = j.T @ np.linalg.solve(j @ j.T + IK_DAMPING * np.eye(6), np.concatenate((offset, turn)))
            data.qpos[robot.qpos] += step * min(1.0, MAX_IK_STEP / float(np.abs(step).max()))
        return False

    def put_arm_back(self) -> None:
        """Return the arm to where it is in the simulation."""
        self._data.qpos[self._core.robot.qpos] = self._core.data.qpos[self._core.robot.qpos]

    def put_thing(self, pos: Float64Array, mat: Float64Array) -> None:
        """
        Move the object.

        :param pos: of its origin (m), (3,)
        :param mat: its orientation, (3, 3)
        """
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, np.ascontiguousarray(mat).ravel())
        self._data.qpos[self._joint : self._joint + 3] = pos
        self._data.qpos[self._joint + 3 : self._joint + 7] = quat

    def crowding(self, holds_thing: bool, leniency: float = 0.0) -> float | None:
        """
        How close the gripper is to other things beside it.

        :param holds_thing: whether the object moves with the hand: the two may touch, and the object has to be free too
        :param leniency: depth (m) to which the robot may be in other things
        :return: from 0 (nothing within ``NEAR``) to 1; None if something is hit
        """
        data = self._data
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_collision(self._model, data)
        geoms, dist = data.contact.geom[: data.ncon], data.contact.dist[: data.ncon]
        robot, thing = self._is_robot[geoms], self._is_thing[geoms]
        is_of_robot = robot.any(axis=1) & ~robot.all(axis=1)
        is_with_thing = is_of_robot & thing.any(axis=1)
        is_with_others = is_of_robot & ~is_with_thing
        is_beside = is_with_others & (np.abs(data.contact.frame[: data.ncon, 2]) < UPRIGHT)
        least = np.where(is_beside, MARGIN, -MAX_DIP) - leniency
        if (dist < least)[is_with_others].any():
            return None
        if holds_thing:
            if (dist[thing.any(axis=1) & ~thing.all(axis=1) & ~is_of_robot] < -MAX_OVERLAP).any():
                return None
        elif (dist[is_with_thing] < -leniency).any():
            return None
        return float(1.0 - dist[is_beside].min(initial=NEAR) / NEAR)
