"""``Part``: the moving part of a fixture (drawer, door or knob): its pose, its motion and its handle."""

from __future__ import annotations

import mujoco
import numpy as np

from vla_gym.experts.geometry import Boxes, SceneObject
from vla_gym.sim.controller import rotation_matrix
from vla_gym.sim.core import SimCore
from vla_gym.type_aliases import Float64Array

KNOB_RADIUS = 0.04
"""A part whose middle is closer (m) than this to its axis is a knob."""


class Part:
    """
    The moving part of a fixture.

    :param core: the simulation
    :param joint: name of the joint that it moves on
    """

    def __init__(self, core: SimCore, joint: str) -> None:
        self._core, self._data = core, core.data
        self._joint = core.model.joint(joint).id
        self.address = int(core.model.jnt_qposadr[self._joint])
        self.range: Float64Array = core.model.jnt_range[self._joint]
        self.is_slide = int(core.model.jnt_type[self._joint]) == int(mujoco.mjtJoint.mjJNT_SLIDE)
        self.obj = SceneObject(core, core.model.body(int(core.model.jnt_bodyid[self._joint])).name)

    @property
    def qpos(self) -> float:
        """Position of the joint (m or rad)."""
        return float(self._data.qpos[self.address])

    @property
    def axis(self) -> Float64Array:
        """Direction of the joint, (3,)."""
        return self._data.xaxis[self._joint].copy()

    def jacobian(self, point: Float64Array) -> Float64Array:
        """
        Compute the motion of a point per unit of the joint (m or m/rad), (3,).

        :param point: fixed to the part (m), (3,)
        """
        return self.axis if self.is_slide else np.cross(self.axis, point - self._data.xanchor[self._joint])

    def moved(self, point: Float64Array, mat: Float64Array, change: float) -> tuple[Float64Array, Float64Array]:
        """
        Move a pose that is fixed to the part with the joint.

        :param point: position now (m), (3,)
        :param mat: orientation now, (3, 3)
        :param change: of the joint (m or rad)
        """
        if self.is_slide:
            return point + change * self.axis, mat
        turn, anchor = rotation_matrix(change * self.axis), self._data.xanchor[self._joint]
        return anchor + turn @ (point - anchor), turn @ mat

    def outwards(self) -> Float64Array:
        """Compute the direction in which the handle sticks out: that of opening, or a knob's axis, (3,)."""
        points = self.obj.boxes().corners()
        middle = 0.5 * (points.max(axis=0) + points.min(axis=0))
        motion = self.jacobian(middle)
        if not self.is_slide and np.linalg.norm(motion) < KNOB_RADIUS:
            return np.asarray(self.axis * np.sign(self.axis[2]))
        # parts open towards the far end of their range
        opening = motion / np.linalg.norm(motion) * np.sign(self.range[int(np.argmax(np.abs(self.range)))])
        if self.is_slide:
            return np.asarray(opening)
        # a door: the normal of its panel
        panel = self.panel()
        normal = self.frame(panel)[:, int(np.argmin(self._core.model.geom_aabb[panel, 3:]))]
        return np.asarray(normal * np.sign(normal @ opening))

    def panel(self) -> int:
        """Find the largest of its collision geoms."""
        return int(self.obj.geoms[np.argmax(self._core.model.geom_aabb[self.obj.geoms, 3:].prod(axis=1))])

    def handle(self, outwards: Float64Array) -> int:
        """
        Find the collision geom that sticks out furthest.

        :param outwards: direction, (3,)
        """
        extents = [(self.corners(geom) @ outwards).max() for geom in self.obj.geoms]
        return int(self.obj.geoms[int(np.argmax(extents))])

    def corners(self, geom: int) -> Float64Array:
        """
        Return the corners of a geom's bounding box (m), (8, 3).

        :param geom: its number
        """
        return Boxes(self._core, np.array([geom])).corners()

    def frame(self, geom: int) -> Float64Array:
        """
        Return the orientation of a geom, (3, 3).

        :param geom: its number
        """
        return np.asarray(self._data.geom_xmat[geom].reshape(3, 3))
