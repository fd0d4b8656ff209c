"""``ArticulationScene``: cost of moving a fixture's part through a pose of the hand."""

from __future__ import annotations

import numpy as np

from vla_gym.experts.geometry import has_body_prefix
from vla_gym.experts.planning_scene import PlanningScene
from vla_gym.sim.core import SimCore
from vla_gym.type_aliases import BoolArray, Float64Array

N_ITERATIONS = 30
DAMPING = 0.03
MAX_CHANGE = 0.3
"""Largest change of a joint (rad) in one iteration."""
TOLERANCE = 1e-3
"""Norm of the pose's error (m, rad) that counts as zero."""
LIMIT_MARGIN = 0.25
"""Distance (rad) that is kept from the joints' limits."""
METRES_PER_RADIAN = 0.1
"""What an error of orientation counts against one of position."""
MIN_PENETRATION = 0.002
"""Contacts less deep (m) than this do not count."""
MAX_TOUCH = 0.008
"""Depth (m) up to which the fingers may be in what they are to touch."""


class ArticulationScene(PlanningScene):
    """
    Follow the hand from pose to pose as the arm would, and measure how far it falls short.

    :param core: the simulation; its state is not touched
    """

    def __init__(self, core: SimCore) -> None:
        super().__init__(core, core.model, LIMIT_MARGIN)
        names = [core.model.body(int(body)).name for body in core.model.geom_bodyid]
        self._is_arm = has_body_prefix(core.model, "robot0_", "gripper0_")
        self._is_finger = np.array(["finger" in name for name in names]) & self._is_arm

    def set_joint(self, qpos: int, value: float) -> None:
        """
        Move a joint of the scene.

        :param qpos: its address
        :param value: m or rad
        """
        self._data.qpos[qpos] = value

    def reach(self, pos: Float64Array, mat: Float64Array) -> float:
        """
        Move the arm to a pose, as far as possible.

        :param pos: position of the hand (m), (3,)
        :param mat: its orientation, (3, 3)
        :return: remaining distance (m), where a radian counts as ``METRES_PER_RADIAN``
        """
        qpos, arm = self._data.qpos, self._robot.qpos
        for _ in range(N_ITERATIONS):
            error = self._pose_error(pos, mat)
            if np.linalg.norm(error) < TOLERANCE:
                break
            qpos[arm] = np.clip(qpos[arm] + self._ik_step(error, DAMPING, MAX_CHANGE), self._low, self._high)
        error = self._pose_error(pos, mat)
        return float(np.linalg.norm(error[:3]) + METRES_PER_RADIAN * np.linalg.norm(error[3:]))

    def penetration(self, touchable: BoolArray) -> float:
        """
        Measure how deep the arm penetrates the scene in its current pose.

        :param touchable: geoms that the fingers may touch, (ngeom,) bool
        :return: sum over the contacts (m)
        """
        geoms, dist = self._contacts()
        (first, second), depth = geoms.T, -dist
        is_touch = (self._is_finger[first] & touchable[second]) | (self._is_finger[second] & touchable[first])
        limit = np.where(is_touch, MAX_TOUCH, MIN_PENETRATION)
        counts = (self._is_arm[first] != self._is_arm[second]) & (depth > limit)
        return float(depth[counts].sum())
