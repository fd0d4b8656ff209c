"""What an expert knows of shapes: where an object is, how large, and what stands in the way."""

from __future__ import annotations

from functools import cached_property

import mujoco
import numpy as np

from vla_gym.sim.core import SimCore
from vla_gym.type_aliases import BoolArray, Float64Array, Int64Array

POINTS_PER_EDGE = 5
_GRID = np.stack(np.meshgrid(*[np.linspace(-1.0, 1.0, POINTS_PER_EDGE)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
_ROBOT_PREFIXES = ("robot0_", "gripper0_", "mount0_")


class Thing:
    """
    An object or fixture of a running simulation.

    :param core: the simulation
    :param body: its root body
    """

    def __init__(self, core: SimCore, body: str) -> None:
        self.core = core
        self.body = core.model.body(body).id
        self.geoms = _solid_geoms(core.model, core.model.body_rootid == core.model.body_rootid[self.body])
        if core.model.body_rootid[self.body] != self.body:  # a part of a fixture
            self.geoms = _solid_geoms(core.model, _is_below(core.model, self.body))

    @property
    def pos(self) -> Float64Array:
        """Origin (m), (3,)."""
        return self.core.data.xpos[self.body].copy()

    @property
    def mat(self) -> Float64Array:
        """Orientation, (3, 3)."""
        return self.core.data.xmat[self.body].reshape(3, 3).copy()

    def points(self) -> Float64Array:
        """Points spread over the bounding boxes of its collision geoms (m), (n, 3)."""
        return geom_points(self.core, self.geoms)

    def bottom(self) -> float:
        """Height of its lowest point (m)."""
        return float(self.points()[:, 2].min())

    def top(self) -> float:
        """Height of its highest point (m)."""
        return float(self.points()[:, 2].max())


class Obstacles:
    """
    Everything solid but the robot and one object, as oriented boxes at the moment of making.

    :param core: the simulation
    :param but: what does not count
    """

    def __init__(self, core: SimCore, but: Thing) -> None:
        self._core = core
        names = [core.model.body(int(body)).name for body in core.model.geom_bodyid]
        is_robot = np.array([name.startswith(_ROBOT_PREFIXES) for name in names])
        solid = _solid_geoms(core.model, np.ones(core.model.nbody, dtype=bool))
        self.geoms = np.array(
            [g for g in solid if not is_robot[g] and g not in set(but.geoms.tolist())], dtype=np.int64
        )
        data, model = core.data, core.model
        self.rotations: Float64Array = data.geom_xmat[self.geoms].reshape(-1, 3, 3)
        centre, self.half = model.geom_aabb[self.geoms, :3], model.geom_aabb[self.geoms, 3:].copy()
        self.centres: Float64Array = data.geom_xpos[self.geoms] + np.einsum("gij,gj->gi", self.rotations, centre)
        is_plane = model.geom_type[self.geoms] == mujoco.mjtGeom.mjGEOM_PLANE
        self.half[is_plane] = (10.0, 10.0, 1.0)
        self.centres[is_plane, 2] = data.geom_xpos[self.geoms[is_plane], 2] - 1.0

    def hit(self, points: Float64Array, margin: float = 0.0) -> BoolArray:
        """
        Which points lie inside something.

        :param points: (n, 3) m
        :param margin: how much larger everything is taken (m)
        :return: (n,) bool
        """
        offset = points[:, None, :] - self.centres[None]
        local = np.einsum("gji,ngj->ngi", self.rotations, offset)
        return np.asarray((np.abs(local) <= self.half + margin).all(axis=-1).any(axis=-1))

    @cached_property
    def tops(self) -> Float64Array:
        """Height of each obstacle's highest corner (m), (g,)."""
        return np.asarray(self.centres[:, 2] + (np.abs(self.rotations[:, 2, :]) * self.half).sum(axis=1))

    def highest_along(self, start: Float64Array, end: Float64Array, radius: float) -> float:
        """
        Height of what stands on the way from one point to another.

        :param start: (2,) or (3,) m
        :param end: the same
        :param radius: half width of the way (m)
        :return: the highest top (m), or minus infinity
        """
        steps = np.linspace(0.0, 1.0, 12)[:, None]
        path = start[:2] + steps * (end[:2] - start[:2])
        reach = np.linalg.norm(self.half[:, :2], axis=1)
        distance = np.linalg.norm(path[:, None] - self.centres[None, :, :2], axis=-1).min(axis=0)
        is_small = self.half[:, :2].max(axis=1) < 0.3  # tables and floors are not on the way
        near = is_small & (distance < reach + radius)
        return float(self.tops[near].max()) if near.any() else -np.inf


def geom_points(core: SimCore, geoms: Int64Array) -> Float64Array:
    """
    Points spread over the bounding boxes of geoms.

    :param core: the simulation
    :param geoms: their numbers, (g,)
    :return: (125 g, 3) m
    """
    boxes = core.model.geom_aabb[geoms]
    local = boxes[:, None, :3] + _GRID[None] * boxes[:, None, 3:]
    rotations = core.data.geom_xmat[geoms].reshape(-1, 3, 3)
    world = core.data.geom_xpos[geoms][:, None] + np.einsum("gij,gnj->gni", rotations, local)
    return np.asarray(world.reshape(-1, 3))


def _solid_geoms(model: mujoco.MjModel, bodies: BoolArray) -> Int64Array:
    is_solid = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    return np.flatnonzero(is_solid & bodies[model.geom_bodyid]).astype(np.int64)


def _is_below(model: mujoco.MjModel, root: int) -> BoolArray:
    below = np.zeros(model.nbody, dtype=bool)
    below[root] = True
    for body in range(root + 1, model.nbody):  # parents come before their children
        below[body] |= below[model.body_parentid[body]]
    return below
