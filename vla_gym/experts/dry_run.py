"""What would happen if the hand took a pose: inverse kinematics and collisions on a copy of the simulation."""

from __future__ import annotations

import mujoco
import numpy as np

from vla_gym.experts.hand import rotation_vector
from vla_gym.sim.core import SimCore
from vla_gym.type_aliases import BoolArray, Float64Array

N_ITERATIONS = 30
DAMPING = 0.03
MAX_CHANGE = 0.3
"""Largest change of a joint (rad) in one iteration."""
LIMIT_MARGIN = 0.25
"""Distance (rad) that is kept from the joints' limits."""
METRES_PER_RADIAN = 0.1
"""What an error of orientation counts against one of position."""
FINGER_STROKE = 0.04
MIN_OVERLAP = 0.002
"""Contacts less deep (m) than this do not count."""
MAX_TOUCH = 0.008
"""Depth (m) up to which the fingers may overlap with what they are to touch."""
_ARM_PREFIXES = ("robot0_", "gripper0_")


class DryRun:
    """
    Follows the hand from pose to pose, as the arm would.

    :param core: the simulation; its state is not touched
    """

    def __init__(self, core: SimCore) -> None:
        model, self._robot = core.model, core.robot
        self._model, self._data = model, mujoco.MjData(model)
        self._start: Float64Array = core.data.qpos.copy()
        joints = [int(np.flatnonzero(model.jnt_qposadr == address)[0]) for address in core.robot.qpos]
        limits = model.jnt_range[joints]
        self._low, self._high = limits[:, 0] + LIMIT_MARGIN, limits[:, 1] - LIMIT_MARGIN
        names = [model.body(int(body)).name for body in model.geom_bodyid]
        self._is_arm = np.array([name.startswith(_ARM_PREFIXES) for name in names])
        self._is_finger = np.array(["finger" in name for name in names]) & self._is_arm

    def restart(self, is_open: bool) -> None:
        """
        Go back to the state of the simulation.

        :param is_open: whether the fingers are open in what follows
        """
        self._data.qpos[:] = self._start
        self._data.qpos[self._robot.gripper_qpos] = np.array([1.0, -1.0]) * (FINGER_STROKE if is_open else 0.0)

    def set_joint(self, qpos: int, value: float) -> None:
        """
        Move a joint of the scene.

        :param qpos: its address
        :param value: m or rad
        """
        self._data.qpos[qpos] = value

    def take(self, pos: Float64Array, mat: Float64Array) -> float:
        """
        Let the arm take a pose, as far as it can.

        :param pos: position of the hand (m), (3,)
        :param mat: its orientation, (3, 3)
        :return: how far it stays from it (m), where a radian counts as ``METRES_PER_RADIAN``
        """
        model, data, arm, site = self._model, self._data, self._robot.qpos, self._robot.eef_site
        jacobian = np.empty((6, model.nv))
        for _ in range(N_ITERATIONS):
            error = self._offset(pos, mat)
            if np.linalg.norm(error) < 1e-3:
                break
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], site)
            j = jacobian[:, self._robot.qvel]
            change = j.T @ np.linalg.solve(j @ j.T + DAMPING**2 * np.eye(6), error)
            change *= min(1.0, MAX_CHANGE / float(np.abs(change).max()))
            data.qpos[arm] = np.clip(data.qpos[arm] + change, self._low, self._high)
        error = self._offset(pos, mat)
        return float(np.linalg.norm(error[:3]) + METRES_PER_RADIAN * np.linalg.norm(error[3:]))

    def overlap(self, touchable: BoolArray) -> float:
        """
        How deep the arm is in the scene, in the pose it has taken.

        :param touchable: geoms that the fingers may touch, (ngeom,) bool
        :return: sum over the contacts (m)
        """
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
        first, second = self._data.contact.geom[: self._data.ncon].T
        depth = -self._data.contact.dist[: self._data.ncon]
        is_touch = (self._is_finger[first] & touchable[second]) | (self._is_finger[second] & touchable[first])
        limit = np.where(is_touch, MAX_TOUCH, MIN_OVERLAP)
        counts = (self._is_arm[first] != self._is_arm[second]) & (depth > limit)
        return float(depth[counts].sum())

    def _offset(self, pos: Float64Array, mat: Float64Array) -> Float64Array:
        mujoco.mj_kinematics(self._model, self._data)
        site = self._robot.eef_site
        turn = rotation_vector(mat @ self._data.site_xmat[site].reshape(3, 3).T)
        return np.concatenate([pos - self._data.site_xpos[site], turn])
