"""Every object and arena of the built-in pack, against the file of the same name in LIBERO's own assets."""

from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest

from vla_gym.assets.arenas import ARENAS
from vla_gym.assets.objects import OBJECTS
from vla_gym.assets.resolve import PRIMITIVE_PACK

pytestmark = pytest.mark.assets

CONTACT_FIELDS = ("solref", "solimp", "friction", "contype", "conaffinity", "condim", "margin")
JOINT_FIELDS = ("type", "axis", "pos", "range", "limited", "damping", "frictionloss", "armature", "stiffness")


def compiled(file: Path) -> mujoco.MjModel:
    root = ElementTree.parse(file).getroot()
    # LIBERO's stove names a texture twice; robosuite drops the second
    assets, seen = root.find("asset"), set()
    for asset in list(assets):
        key = asset.tag, asset.get("name")
        if key in seen:
            assets.remove(asset)
        seen.add(key)
    spec = mujoco.MjSpec.from_string(ElementTree.tostring(root, encoding="unicode"))
    spec.modelfiledir = str(file.parent)
    # robosuite's base file: only collision geoms weigh
    spec.compiler.inertiagrouprange = [0, 0]
    return spec.compile()


@pytest.fixture(params=sorted(OBJECTS))
def pair(request, libero_assets):
    return compiled(PRIMITIVE_PACK / request.param), compiled(libero_assets / request.param)


@pytest.fixture(params=sorted(ARENAS))
def rooms(request, libero_assets):
    return compiled(PRIMITIVE_PACK / request.param), compiled(libero_assets / request.param)


def names(model: mujoco.MjModel, kind: str) -> list[str]:
    count = {"body": model.nbody, "joint": model.njnt, "site": model.nsite, "geom": model.ngeom}[kind]
    found = (getattr(model, kind)(i).name for i in range(count))
    return sorted(name for name in found if name)


def solid(model: mujoco.MjModel, body: int) -> np.ndarray:
    return np.flatnonzero((model.geom_bodyid == body) & (model.geom_group == 0))


def boxes(model: mujoco.MjModel, geoms: np.ndarray) -> np.ndarray:
    """Lowest and highest corner of the box around each geom in the frame of its body, (n, 2, 3) m."""
    found = []
    for geom in geoms:
        matrix = np.zeros(9)
        mujoco.mju_quat2Mat(matrix, model.geom_quat[geom])
        turn = matrix.reshape(3, 3)
        centre = model.geom_pos[geom] + turn @ model.geom_aabb[geom, :3]
        reach = np.abs(turn) @ model.geom_aabb[geom, 3:]
        found.append((centre - reach, centre + reach))
    return np.array(found)


def test_bodies_weigh_and_measure_about_the_same(pair):
    ours, theirs = pair
    for name in names(theirs, "body"):
        body, reference = ours.body(name), theirs.body(name)
        assert ours.body(body.parentid[0]).name == theirs.body(reference.parentid[0]).name
        np.testing.assert_allclose(body.pos, reference.pos, atol=1e-6, err_msg=name)
        turned = abs(np.dot(body.quat, reference.quat))
        assert turned == pytest.approx(1, abs=1e-4), name
        if theirs.body_mass[reference.id]:
            assert body.mass[0] == pytest.approx(reference.mass[0], rel=0.2), name
        if not solid(theirs, reference.id).size:
            continue
        (low, high), (expected_low, expected_high) = (
            (found[:, 0].min(axis=0), found[:, 1].max(axis=0))
            for found in (boxes(ours, solid(ours, body.id)), boxes(theirs, solid(theirs, reference.id)))
        )
        np.testing.assert_allclose(high - low, expected_high - expected_low, rtol=0.2, err_msg=name)
        np.testing.assert_allclose([low, high], [expected_low, expected_high], atol=0.006, err_msg=name)


def test_joints_are_the_same(pair):
    ours, theirs = pair
    assert names(ours, "joint") == names(theirs, "joint")
    for name in names(theirs, "joint"):
        for field in JOINT_FIELDS:
            found, expected = getattr(ours.joint(name), field), getattr(theirs.joint(name), field)
            np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=f"{name} {field}")


def test_sites_are_the_same(pair):
    ours, theirs = pair
    assert names(ours, "site") == names(theirs, "site")
    for name in names(theirs, "site"):
        site, reference = ours.site(name), theirs.site(name)
        assert ours.body(site.bodyid[0]).name == theirs.body(reference.bodyid[0]).name
        assert site.type[0] == reference.type[0], name
        extent = {mujoco.mjtGeom.mjGEOM_SPHERE: 1, mujoco.mjtGeom.mjGEOM_CYLINDER: 2}.get(reference.type[0], 3)
        np.testing.assert_allclose(site.pos, reference.pos, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(site.size[:extent], reference.size[:extent], atol=1e-6, err_msg=name)
        assert abs(np.dot(site.quat, reference.quat)) == pytest.approx(1, abs=1e-4), name


def test_contacts_are_the_same(pair):
    ours, theirs = pair
    for name in names(theirs, "body"):
        for field in CONTACT_FIELDS:
            expected = np.unique(getattr(theirs, f"geom_{field}")[solid(theirs, theirs.body(name).id)], axis=0)
            found = np.unique(getattr(ours, f"geom_{field}")[solid(ours, ours.body(name).id)], axis=0)
            np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=f"{name} {field}")


def test_rooms_have_the_same_walls_floor_and_table(rooms):
    ours, theirs = rooms
    data = mujoco.MjData(theirs)
    mujoco.mj_forward(theirs, data)
    for name in (name for name in names(theirs, "geom") if name.startswith(("wall_", "table_")) or name == "floor"):
        if name == "wall_decoration":
            continue
        geom, reference = ours.geom(name), theirs.geom(name)
        assert ours.body(geom.bodyid[0]).name == theirs.body(reference.bodyid[0]).name
        found = boxes(ours, np.array([geom.id]))
        np.testing.assert_allclose(found, boxes(theirs, np.array([reference.id])), atol=0.001, err_msg=name)
        for field in ("contype", "conaffinity", "condim", "group", "friction"):
            np.testing.assert_allclose(getattr(geom, field), getattr(reference, field), err_msg=f"{name} {field}")


def test_rooms_have_the_same_solid_parts(rooms):
    parts = []
    for model in rooms:
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        corners = []
        for geom in np.flatnonzero(model.geom_contype != 0):
            turn = data.geom_xmat[geom].reshape(3, 3)
            reach = np.abs(turn) @ np.minimum(model.geom_aabb[geom, 3:], 10)
            corners.append((*(data.geom_xpos[geom] - reach), *(data.geom_xpos[geom] + reach)))
        parts.append(np.array(sorted(corners, key=lambda corner: np.round(corner, 1).tolist())))
    np.testing.assert_allclose(parts[0], parts[1], atol=0.005)


def test_rooms_have_the_same_lights_and_cameras(rooms):
    ours, theirs = rooms
    assert [ours.light(i).name for i in range(ours.nlight)] == [theirs.light(i).name for i in range(theirs.nlight)]
    for field in ("pos", "dir", "diffuse", "specular", "type", "castshadow"):
        np.testing.assert_allclose(getattr(ours, f"light_{field}"), getattr(theirs, f"light_{field}"), err_msg=field)
    assert [ours.camera(i).name for i in range(ours.ncam)] == [theirs.camera(i).name for i in range(theirs.ncam)]
    np.testing.assert_allclose(ours.cam_pos, theirs.cam_pos, atol=1e-4)
    np.testing.assert_allclose(ours.cam_quat, theirs.cam_quat, atol=1e-5)
    np.testing.assert_allclose(ours.cam_fovy, theirs.cam_fovy)
