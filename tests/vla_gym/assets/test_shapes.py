"""Shape vocabulary of the primitive pack, against MuJoCo's own geometry."""

import itertools
import math

import mujoco
import numpy as np
import pytest

from vla_gym.assets.shapes import (
    Geom,
    bars,
    box,
    cylinder,
    ellipsoid,
    move,
    multiply,
    paint,
    prism,
    ring,
    rotation,
    weigh,
)


def covers(geoms: list[Geom], points: np.ndarray) -> np.ndarray:
    inside = np.zeros(len(points), dtype=bool)
    for geom in geoms:
        matrix = np.zeros(9)
        mujoco.mju_quat2Mat(matrix, np.array(geom.quat))
        local = (points - np.array(geom.pos)) @ matrix.reshape(3, 3)
        inside |= (np.abs(local) <= np.array(geom.size) + 1e-9).all(axis=1)
    return inside


def test_rotations_multiply_as_in_mujoco():
    a, b = rotation("x", 40), multiply(rotation("z", -70), rotation("y", 25))
    expected = np.zeros(4)
    mujoco.mju_mulQuat(expected, np.array(a), np.array(b))
    np.testing.assert_allclose(multiply(a, b), expected)
    turned = np.zeros(3)
    mujoco.mju_rotVecQuat(turned, np.array([1.0, 0, 0]), np.array(rotation("z", 90)))
    np.testing.assert_allclose(turned, [0, 1, 0], atol=1e-12)


@pytest.mark.parametrize(
    "geom", [*box((0.1, 0.2, 0.3)), *cylinder(0.1, -0.2, 0.4), *ellipsoid((0.1, 0.2, 0.3)), Geom("capsule", (0.1, 0.2))]
)
def test_volume_is_what_mujoco_weighs(geom):
    spec = mujoco.MjSpec()
    kind = getattr(mujoco.mjtGeom, f"mjGEOM_{geom.kind.upper()}")
    size = [*geom.size, 0.0, 0.0][:3]
    spec.worldbody.add_body(name="body").add_geom(type=kind, size=size, density=1)
    assert geom.volume == pytest.approx(spec.compile().body("body").mass[0])


@pytest.mark.parametrize("sides", [6, 8, 12])
def test_prism_fills_the_regular_polygon(sides):
    geoms = prism(0.1, 0, 0.2, sides)
    assert len(geoms) == sides // 2
    points = np.random.default_rng(0).uniform((-0.12, -0.12, 0), (0.12, 0.12, 0.2), (4000, 3))
    normals = [(math.cos(a), math.sin(a)) for a in 2 * math.pi * np.arange(sides) / sides]
    inside = np.max(points[:, :2] @ np.array(normals).T, axis=1) <= 0.1
    np.testing.assert_array_equal(covers(geoms, points), inside)


@pytest.mark.parametrize("segments", [8, 12])
def test_ring_is_a_closed_wall_along_its_profile(segments):
    geoms = ring((0.04, 0.01), (0.06, 0.05), 0.004, segments)
    assert len(geoms) == segments
    parts = np.linspace(0.02, 0.98, 20)
    middles = 2 * math.pi * np.arange(segments) / segments
    for angle in np.linspace(0, 2 * math.pi, 97):
        # the wall is a polygon: its distance from the axis grows towards the corners
        stretch = 1 / np.max(np.cos(angle - middles))
        radius = (0.04 + 0.02 * parts) * stretch
        height = 0.01 + 0.04 * parts
        points = np.stack([radius * math.cos(angle), radius * math.sin(angle), height], axis=1)
        assert covers(geoms, points).all()
    assert not covers(geoms, np.array([[0, 0, 0.03], [0.02, 0, 0.03], [0.09, 0, 0.03]])).any()


def test_bars_run_along_their_points():
    points = np.array([(0.04, 0.09), (0.07, 0.08), (0.07, 0.02), (0.03, 0.03)])
    geoms = bars([tuple(point) for point in points], 0.006, 0.02)
    assert len(geoms) == 3
    parts = np.linspace(0, 1, 20)[:, None]
    middle = np.concatenate([a + parts * (b - a) for a, b in itertools.pairwise(points)])
    line = np.insert(middle, 1, 0, axis=1)
    for offset, inside in ((0, True), (0.0099, True), (0.0101, False)):
        assert (covers(geoms, line + np.array([0, offset, 0])) == inside).all()
    across = np.array([(0.0699 + 0.003, 0, 0.05), (0.0701 + 0.003, 0, 0.05), (0.05, 0, 0.055)])
    np.testing.assert_array_equal(covers(geoms, across), [True, False, False])


def test_move_turns_about_the_origin_then_shifts():
    (geom,) = move(box((0.1, 0.2, 0.3), (1, 0, 0), name="part"), (0, 0, 5), rotation("z", 90))
    np.testing.assert_allclose(geom.pos, (0, 1, 5), atol=1e-12)
    np.testing.assert_allclose(geom.quat, rotation("z", 90))
    assert (geom.size, geom.name) == ((0.1, 0.2, 0.3), "part")


def test_weigh_shares_by_volume_and_paint_colours_copies():
    geoms = box((0.1, 0.1, 0.1)) + box((0.1, 0.1, 0.3))
    assert [geom.mass for geom in weigh(geoms, 2.0)] == pytest.approx([0.5, 1.5])
    assert {geom.rgba for geom in paint(geoms, (1, 0, 0, 1))} == {(1, 0, 0, 1)}
    assert {(geom.mass, geom.rgba) for geom in geoms} == {(0.0, None)}
