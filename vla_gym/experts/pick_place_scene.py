"""``PickPlaceScene``: tells whether the arm can grasp an object, or put it down, without collision."""

from __future__ import annotations

import copy

import mujoco
import numpy as np

from vla_gym.experts.geometry import SceneObject, has_body_prefix, is_robot_geom
from vla_gym.experts.planning_scene import PlanningScene
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
"""Least singular value of the Jacobian (m, rad); below it the arm is nearly stretched and hardly moves."""
N_ITERATIONS = 20
DAMPING = 0.01
MAX_CHANGE = 0.5
"""Largest change of a joint (rad) in one iteration."""
POS_TOLERANCE, ANGLE_TOLERANCE = 0.003, 0.03


class PickPlaceScene(PlanningScene):
    """
    Pose the arm and an object as a plan requires, in a copy of the scene.

    :param core: the simulation; its state is not touched
    :param obj: the object that is handled
    """

    def __init__(self, core: SimCore, obj: SceneObject) -> None:
        model = copy.copy(core.model)
        model.geom_margin[has_body_prefix(model, "gripper0_")] = NEAR
        super().__init__(core, model, LIMIT_MARGIN)
        self.dexterity = 0.0
        self._is_robot = is_robot_geom(model)
        self._is_object = np.isin(np.arange(model.ngeom), obj.geoms)
        self._joint = int(model.jnt_qposadr[model.body_jntadr[obj.body]])
        self.reset(is_open=True)

    def can_reach(self, pos: Float64Array, mat: Float64Array, min_dexterity: float = MIN_DEXTERITY) -> bool:
        """
        Move the arm so that the hand takes a pose, starting from the arm's last pose.

        :param pos: of the end effector (m), (3,)
        :param mat: its orientation, (3, 3)
        :param min_dexterity: smallest accepted singular value of the Jacobian
        :return: whether the joints allow it, and let the hand move from there in every direction
        """
        qpos, arm = self._data.qpos, self._robot.qpos
        for _ in range(N_ITERATIONS):
            error = self._pose_error(pos, mat)
            if np.linalg.norm(error[:3]) < POS_TOLERANCE and np.linalg.norm(error[3:]) < ANGLE_TOLERANCE:
                is_within = np.all(qpos[arm] > self._low) and np.all(qpos[arm] < self._high)
                self.dexterity = float(np.linalg.svd(self._jacobian(), compute_uv=False)[-1])
                return bool(is_within and self.dexterity > min_dexterity)
            qpos[arm] += self._ik_step(error, DAMPING, MAX_CHANGE)
        return False

    def put_object(self, pos: Float64Array, mat: Float64Array) -> None:
        """
        Move the object.

        :param pos: of its origin (m), (3,)
        :param mat: its orientation, (3, 3)
        """
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, np.ascontiguousarray(mat).ravel())
        self._data.qpos[self._joint : self._joint + 3] = pos
        self._data.qpos[self._joint + 3 : self._joint + 7] = quat

    def crowding(self, holds_object: bool, leniency: float = 0.0) -> float | None:
        """
        Measure how close the gripper is to other objects beside it.

        :param holds_object: whether the object moves with the hand; then the two may touch, and it has to be free too
        :param leniency: depth (m) to which the robot may penetrate other objects
        :return: from 0 (nothing within ``NEAR``) to 1; None if something is hit
        """
        geoms, dist = self._contacts()
        robot, obj = self._is_robot[geoms], self._is_object[geoms]
        is_of_robot = robot.any(axis=1) & ~robot.all(axis=1)
        is_with_object = is_of_robot & obj.any(axis=1)
        is_with_others = is_of_robot & ~is_with_object
        is_beside = is_with_others & (np.abs(self._data.contact.frame[: len(dist), 2]) < UPRIGHT)
        least = np.where(is_beside, MARGIN, -MAX_DIP) - leniency
        if (dist < least)[is_with_others].any():
            return None
        if holds_object:
            if (dist[obj.any(axis=1) & ~obj.all(axis=1) & ~is_of_robot] < -MAX_OVERLAP).any():
                return None
        elif (dist[is_with_object] < -leniency).any():
            return None
        return float(1.0 - dist[is_beside].min(initial=NEAR) / NEAR)
