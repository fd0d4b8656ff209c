"""Geometry for experts: position and size of objects, and obstacles."""

from __future__ import annotations

import mujoco
import numpy as np

from vla_gym.sim.core import SimCore
from vla_gym.type_aliases import BoolArray, Float64Array, Int64Array

_CORNERS = np.stack(np.meshgrid(*[np.array([-1.0, 1.0])] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
MAX_OBSTACLE_HALF_WIDTH = 0.3
"""Half width (m) beyond which geoms are tables and floors, not obstacles."""


class Boxes:
    """
    Bounding boxes of collision geoms at the time of construction; nearly all of LIBERO's are boxes.

    :param core: the simulation
    :param geoms: their numbers, (g,)
    """

    def __init__(self, core: SimCore, geoms: Int64Array) -> None:
        model, data = core.model, core.data
        self.rotations: Float64Array = data.geom_xmat[geoms].reshape(-1, 3, 3)
        self.half: Float64Array = model.geom_aabb[geoms, 3:].copy()
        self.centres: Float64Array = data.geom_xpos[geoms] + np.einsum(
            "gij,gj->gi", self.rotations, model.geom_aabb[geoms, :3]
        )

    def corners(self) -> Float64Array:
        """Return their corners (m), (8 g, 3)."""
        local = _CORNERS[None] * self.half[:, None]
        return np.asarray((self.centres[:, None] + np.einsum("gij,gnj->gni", self.rotations, local)).reshape(-1, 3))

    def tops(self) -> Float64Array:
        """Return the height of each one's highest corner (m), (g,)."""
        return np.asarray(self.centres[:, 2] + (np.abs(self.rotations[:, 2, :]) * self.half).sum(axis=1))

    def cuts(self, origins: Float64Array, direction: Float64Array) -> Float64Array:
        """
        Intersect parallel lines with the boxes.

        :param origins: a point of each line (m), (n, 3)
        :param direction: unit vector, (3,)
        :return: entry and exit as distances from the origin (m), entry beyond exit where a box is missed, (n, g, 2)
        """
        start = np.einsum("gji,ngj->ngi", self.rotations, origins[:, None] - self.centres[None])
        slope = np.einsum("gji,j->gi", self.rotations, direction)
        slope = np.where(np.abs(slope) < 1e-9, 1e-9, slope)
        one, other = (-self.half - start) / slope, (self.half - start) / slope
        return np.stack([np.minimum(one, other).max(axis=-1), np.maximum(one, other).min(axis=-1)], axis=-1)

    def distances(self, points: Float64Array) -> Float64Array:
        """
        Compute horizontal distances of points from the boxes.

        :param points: (n, 2) m
        :return: (n, g) m
        """
        offset = np.zeros((len(points), len(self.half), 3))
        offset[..., :2] = points[:, None] - self.centres[None, :, :2]
        beyond = np.abs(np.einsum("gji,ngj->ngi", self.rotations, offset)) - self.half
        return np.asarray(np.linalg.norm(np.maximum(beyond, 0.0), axis=-1))


class SceneObject:
    """
    An object or fixture of a running simulation.

    :param core: the simulation
    :param body: its root body
    """

    def __init__(self, core: SimCore, body: str) -> None:
        self.core = core
        self.body = core.model.body(body).id
        self.geoms = _solid_geoms(core.model, _is_below(core.model, self.body))

    @property
    def pos(self) -> Float64Array:
        """Origin (m), (3,)."""
        return np.array(self.core.data.xpos[self.body])

    @property
    def mat(self) -> Float64Array:
        """Orientation, (3, 3)."""
        return np.array(self.core.data.xmat[self.body].reshape(3, 3))

    def boxes(self) -> Boxes:
        """Return the bounding boxes of its collision geoms."""
        return Boxes(self.core, self.geoms)

    def bottom(self) -> float:
        """Return the height of its lowest point (m)."""
        return float(self.boxes().corners()[:, 2].min())

    def top(self) -> float:
        """Return the height of its highest point (m)."""
        return float(self.boxes().corners()[:, 2].max())

    def radius(self) -> float:
        """Return the largest horizontal distance (m) of its parts from its origin."""
        return float(np.linalg.norm(self.boxes().corners()[:, :2] - self.pos[:2], axis=1).max())

    def height_at(self, point: Float64Array, radius: float) -> float | None:
        """
        Return the height of its surface around a point.

        :param point: (2,) m
        :param radius: how far around (m)
        :return: m; None where it has no part
        """
        boxes = self.boxes()
        near = boxes.distances(point[None])[0] < radius
        return float(boxes.tops()[near].max()) if near.any() else None


class Obstacles:
    """
    All solid geoms except the robot's and one object's, at the time of construction.

    :param core: the simulation
    :param but: the object to leave out
    """

    def __init__(self, core: SimCore, but: SceneObject) -> None:
        solid = _solid_geoms(core.model, np.ones(core.model.nbody, dtype=bool))
        is_other = ~is_robot_geom(core.model)[solid] & ~np.isin(solid, but.geoms)
        is_other &= core.model.geom_type[solid] != mujoco.mjtGeom.mjGEOM_PLANE
        boxes = Boxes(core, solid[is_other])
        is_small = boxes.half[:, :2].max(axis=1) < MAX_OBSTACLE_HALF_WIDTH
        self._boxes = Boxes(core, solid[is_other][is_small])
        self._tops = self._boxes.tops()

    def highest_along(self, start: Float64Array, end: Float64Array, radius: float) -> float:
        """
        Return the height of the highest obstacle between two points.

        :param start: (2,) or (3,) m
        :param end: the same
        :param radius: half width of the path (m)
        :return: the highest top (m), or minus infinity
        """
        path = start[:2] + np.linspace(0.0, 1.0, 12)[:, None] * (end[:2] - start[:2])
        near = self._boxes.distances(path).min(axis=0, initial=np.inf) < radius
        return float(self._tops[near].max()) if near.any() else -np.inf


def is_robot_geom(model: mujoco.MjModel) -> BoolArray:
    """
    Mark the geoms of the robot, (ngeom,) bool.

    :param model: compiled scene
    """
    return has_body_prefix(model, "robot0_", "gripper0_", "mount0_")


def has_body_prefix(model: mujoco.MjModel, *prefixes: str) -> BoolArray:
    """
    Mark the geoms of bodies whose names begin with one of some prefixes, (ngeom,) bool.

    :param model: compiled scene
    :param prefixes: the prefixes
    """
    has_prefix = np.array([model.body(body).name.startswith(prefixes) for body in range(model.nbody)])
    return np.asarray(has_prefix[model.geom_bodyid])


def _solid_geoms(model: mujoco.MjModel, bodies: BoolArray) -> Int64Array:
    is_solid = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    return np.flatnonzero(is_solid & bodies[model.geom_bodyid]).astype(np.int64)


def _is_below(model: mujoco.MjModel, root: int) -> BoolArray:
    below = np.zeros(model.nbody, dtype=bool)
    below[root] = True
    for body in range(root + 1, model.nbody):  # parents come before their children
        below[body] |= below[model.body_parentid[body]]
    return below
