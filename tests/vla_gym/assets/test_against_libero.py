"""The built-in pack, file by file, against LIBERO's own assets."""

from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest

from vla_gym.assets.objects import OBJECTS
from vla_gym.assets.resolve import PRIMITIVE_PACK

pytestmark = pytest.mark.assets


def compiled(file: Path) -> mujoco.MjModel:
    root = ElementTree.parse(file).getroot()
    # what is only seen is our own; besides, LIBERO's stove names a texture twice, which robosuite puts right
    for asset in root.findall("asset"):
        root.remove(asset)
    for parent in list(root.iter("body")):
        for geom in parent.findall("geom"):
            geom.attrib.pop("material", None)
            if geom.get("group") == "1":
                parent.remove(geom)
    spec = mujoco.MjSpec.from_string(ElementTree.tostring(root, encoding="unicode"))
    # robosuite's base file: only collision geoms weigh
    spec.compiler.inertiagrouprange = [0, 0]
    return spec.compile()


def tree(model: mujoco.MjModel) -> list[tuple[str, str]]:
    return [(model.body(b).name, model.body(model.body_parentid[b]).name) for b in range(model.nbody)]


def collision_geoms(model: mujoco.MjModel) -> np.ndarray:
    return np.flatnonzero((model.geom_group == 0) & (model.geom_contype != 0))


def extent(model: mujoco.MjModel) -> np.ndarray:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    corners = []
    for geom in collision_geoms(model):
        centre, half = model.geom_aabb[geom].reshape(2, 3)
        matrix = data.geom_xmat[geom].reshape(3, 3)
        middle, reach = data.geom_xpos[geom] + matrix @ centre, np.abs(matrix) @ half
        corners += [middle - reach, middle + reach]
    return np.ptp(corners, axis=0)


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_file_agrees_with_liberos(name, libero_assets):
    ours, theirs = compiled(PRIMITIVE_PACK / name), compiled(libero_assets / name)
    assert tree(ours) == tree(theirs)
    np.testing.assert_allclose(ours.body_pos, theirs.body_pos, atol=1e-5)
    np.testing.assert_allclose(ours.body_mass, theirs.body_mass, rtol=0.2)
    np.testing.assert_allclose(extent(ours), extent(theirs), rtol=0.2)
    assert [ours.joint(j).name for j in range(ours.njnt)] == [theirs.joint(j).name for j in range(theirs.njnt)]
    for field in ("friction", "solref", "solimp", "condim", "margin"):
        found, expected = (np.unique(getattr(m, f"geom_{field}")[collision_geoms(m)], axis=0) for m in (ours, theirs))
        np.testing.assert_array_equal(found, expected, err_msg=field)
    names = {theirs.site(s).name for s in range(theirs.nsite)}
    assert {ours.site(s).name for s in range(ours.nsite)} >= names
    for site in names:
        found, expected = ours.site(site), theirs.site(site)
        assert tree(ours)[found.bodyid[0]] == tree(theirs)[expected.bodyid[0]]
        assert found.type == expected.type
        np.testing.assert_allclose(found.pos, expected.pos, atol=1e-4)
        np.testing.assert_allclose(abs(found.quat @ expected.quat), 1, atol=1e-5)
        used = {mujoco.mjtGeom.mjGEOM_SPHERE: 1, mujoco.mjtGeom.mjGEOM_CYLINDER: 2}.get(expected.type[0], 3)
        np.testing.assert_allclose(found.size[:used], expected.size[:used], atol=1e-4)
