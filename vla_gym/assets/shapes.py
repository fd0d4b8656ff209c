"""
Shapes of the primitive pack: functions that return lists of MuJoCo's primitive geoms.

- Lengths are metres, sizes are half sizes as in MJCF, angles are degrees, quaternions are (w, x, y, z).
- Round things that collide are made of boxes, because MuJoCo solves contacts between boxes fastest and most stably.
- A list of geoms has no colour and no mass until ``paint`` or ``weigh`` gives it one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Vector3 = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
Rgba = tuple[float, float, float, float]
IDENTITY: Quaternion = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Geom:
    """
    One primitive.

    :param kind: MuJoCo's geom type
    :param size: half sizes in MuJoCo's order, (1-3,), m
    :param pos: centre in the body frame, m
    :param quat: rotation in the body frame
    :param name: name, where LIBERO's file has one
    :param mass: kg; zero until weighed
    :param rgba: colour; none until painted
    """

    kind: Literal["box", "cylinder", "capsule", "ellipsoid"]
    size: tuple[float, ...]
    pos: Vector3 = (0.0, 0.0, 0.0)
    quat: Quaternion = IDENTITY
    name: str = ""
    mass: float = 0.0
    rgba: Rgba | None = None

    @property
    def volume(self) -> float:
        """Volume, m^3."""
        if self.kind == "box":
            return 8 * math.prod(self.size)
        if self.kind == "ellipsoid":
            return 4 / 3 * math.pi * math.prod(self.size)
        radius, half = self.size
        caps = 4 / 3 * math.pi * radius**3 if self.kind == "capsule" else 0.0
        return 2 * math.pi * radius**2 * half + caps


@dataclass(frozen=True)
class Site:
    """
    One site: LIBERO's goal predicates and placement samplers read them.

    :param name: name
    :param pos: centre in the body frame, m
    :param size: half sizes, m
    :param quat: rotation in the body frame
    :param kind: MuJoCo's site type
    :param rgba: colour; transparent unless it is meant to be seen
    """

    name: str
    pos: Vector3
    size: tuple[float, ...]
    quat: Quaternion = IDENTITY
    kind: Literal["box", "cylinder", "sphere"] = "box"
    rgba: Rgba = (0.8, 0.8, 0.8, 0.0)


@dataclass(frozen=True)
class Joint:
    """
    One slide or hinge joint at the body's origin.

    :param name: name
    :param kind: MuJoCo's joint type
    :param axis: axis in the body frame
    :param limits: lower and upper limit, m or rad
    :param damping: N s/m or N m s/rad
    """

    name: str
    kind: Literal["slide", "hinge"]
    axis: Vector3
    limits: tuple[float, float]
    damping: float


@dataclass(frozen=True)
class Body:
    """
    One body with its collision geoms, visual geoms and children.

    :param name: name; the root of an object is called ``object``
    :param pos: origin in the parent's frame, m
    :param quat: rotation in the parent's frame
    :param collision: geoms that touch and weigh (group 0)
    :param visual: geoms that are seen (group 1)
    :param sites: sites
    :param joint: joint to the parent
    :param inertia: mass, kg, and all three moments of inertia, kg m^2, in place of the weight of the geoms
    :param contact: ``stiff`` for LIBERO's contact parameters of objects, ``soft`` for those of its microwave, whose
        parts do not touch each other, ``plain`` for MuJoCo's own
    :param children: bodies that hang on this one
    """

    name: str
    pos: Vector3 = (0.0, 0.0, 0.0)
    quat: Quaternion = IDENTITY
    collision: list[Geom] = field(default_factory=list)
    visual: list[Geom] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    joint: Joint | None = None
    inertia: tuple[float, float] | None = None
    contact: Literal["stiff", "soft", "plain"] = "stiff"
    children: list[Body] = field(default_factory=list)


@dataclass(frozen=True)
class Asset:
    """
    One object or fixture.

    :param body: the tree of bodies
    :param bottom: height at which LIBERO's samplers assume its underside, m
    :param top: height at which they assume its top, m
    :param radius: both coordinates of the corner that gives its horizontal radius, m
    :param marker_size: size of the three sites that hold these figures, m
    """

    body: Body
    bottom: float
    top: float
    radius: float
    marker_size: float = 0.005


def rotation(axis: Literal["x", "y", "z"], degrees: float) -> Quaternion:
    """
    Make the quaternion of a rotation about a coordinate axis.

    :param axis: name of the axis
    :param degrees: angle
    :return: quaternion
    """
    half = math.radians(degrees) / 2
    w, s = math.cos(half), math.sin(half)
    return (w, s * (axis == "x"), s * (axis == "y"), s * (axis == "z"))


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """
    Multiply two rotations.

    :param a: the rotation applied last
    :param b: the rotation applied first
    :return: quaternion
    """
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


def box(size: Vector3, pos: Vector3 = (0, 0, 0), quat: Quaternion = IDENTITY, name: str = "") -> list[Geom]:
    """
    Make one box.

    :param size: half sizes, m
    :param pos: centre, m
    :param quat: rotation
    :param name: name
    :return: one geom
    """
    return [Geom("box", size, pos, quat, name)]


def cylinder(radius: float, low: float, high: float, pos: Vector3 = (0, 0, 0), name: str = "") -> list[Geom]:
    """
    Make one upright cylinder.

    :param radius: m
    :param low: height of the underside above ``pos``, m
    :param high: height of the top above ``pos``, m
    :param pos: point on the axis, m
    :param name: name
    :return: one geom
    """
    return [Geom("cylinder", (radius, (high - low) / 2), (pos[0], pos[1], pos[2] + (low + high) / 2), IDENTITY, name)]


def capsule(radius: float, half: float, pos: Vector3 = (0, 0, 0), quat: Quaternion = IDENTITY) -> list[Geom]:
    """
    Make one capsule, upright unless turned.

    :param radius: m
    :param half: half length without the caps, m
    :param pos: centre, m
    :param quat: rotation
    :return: one geom
    """
    return [Geom("capsule", (radius, half), pos, quat)]


def ellipsoid(size: Vector3, pos: Vector3 = (0, 0, 0)) -> list[Geom]:
    """
    Make one ellipsoid.

    :param size: half axes, m
    :param pos: centre, m
    :return: one geom
    """
    return [Geom("ellipsoid", size, pos)]


def prism(radius: float, low: float, high: float, sides: int, pos: Vector3 = (0, 0, 0)) -> list[Geom]:
    """
    Make an upright regular prism from boxes that each span two opposite sides.

    :param radius: distance of a side from the axis, m
    :param low: height of the underside above ``pos``, m
    :param high: height of the top above ``pos``, m
    :param sides: number of sides, even
    :param pos: point on the axis, m
    :return: sides / 2 geoms
    """
    size = (radius, radius * math.tan(math.pi / sides), (high - low) / 2)
    centre = (pos[0], pos[1], pos[2] + (low + high) / 2)
    return [Geom("box", size, centre, rotation("z", 360 * i / sides)) for i in range(sides // 2)]


def bars(points: Sequence[tuple[float, float]], thickness: float, width: float) -> list[Geom]:
    """
    Make a bent bar in the x-z plane.

    :param points: x and z of its ends and bends, m
    :param thickness: across the bar within the plane, m
    :param width: along y, m
    :return: one geom between each two points
    """
    geoms = []
    for (x0, z0), (x1, z1) in itertools.pairwise(points):
        size = (thickness / 2, width / 2, math.hypot(x1 - x0, z1 - z0) / 2)
        tilt = rotation("y", math.degrees(math.atan2(x1 - x0, z1 - z0)))
        geoms.append(Geom("box", size, ((x0 + x1) / 2, 0, (z0 + z1) / 2), tilt))
    return geoms


def ring(inner: tuple[float, float], outer: tuple[float, float], thickness: float, segments: int) -> list[Geom]:
    """
    Make the wall of a solid of revolution between two points of its profile: a ring of tilted boxes.

    :param inner: one end of the profile line: distance from the axis and height, m
    :param outer: other end, at least as high
    :param thickness: of the wall, m
    :param segments: number of boxes
    :return: one geom per segment
    """
    # wide enough for the wider end, so that neighbours overlap and nothing slips through
    width = 2 * max(inner[0], outer[0]) * math.tan(math.pi / segments)
    segment = bars((inner, outer), thickness, width)
    return [geom for i in range(segments) for geom in move(segment, quat=rotation("z", 360 * i / segments))]


def move(geoms: list[Geom], pos: Vector3 = (0, 0, 0), quat: Quaternion = IDENTITY) -> list[Geom]:
    """
    Rotate geoms about the origin, then shift them.

    :param geoms: geoms
    :param pos: shift, m
    :param quat: rotation
    :return: moved copies
    """
    w, x, y, z = quat
    moved = []
    for geom in geoms:
        _, *turned = multiply(multiply(quat, (0.0, *geom.pos)), (w, -x, -y, -z))
        place = (turned[0] + pos[0], turned[1] + pos[1], turned[2] + pos[2])
        moved.append(replace(geom, pos=place, quat=multiply(quat, geom.quat)))
    return moved


def paint(geoms: list[Geom], rgba: Rgba) -> list[Geom]:
    """
    Colour geoms.

    :param geoms: geoms
    :param rgba: colour
    :return: coloured copies
    """
    return [replace(geom, rgba=rgba) for geom in geoms]


def weigh(geoms: list[Geom], mass: float) -> list[Geom]:
    """
    Distribute a mass among geoms in proportion to their volumes.

    :param geoms: geoms
    :param mass: total, kg
    :return: copies with masses
    """
    total = sum(geom.volume for geom in geoms)
    return [replace(geom, mass=mass * geom.volume / total) for geom in geoms]
