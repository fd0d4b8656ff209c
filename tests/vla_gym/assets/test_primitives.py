"""The built-in pack: same bytes as its tables, same names and figures as LIBERO's assets, and it behaves."""

import io

import mujoco
import numpy as np
import pytest
from PIL import Image

from vla_gym.assets.arenas import ARENAS, TEXTURES
from vla_gym.assets.generate_primitives import png_bytes, write_pack
from vla_gym.assets.objects import OBJECTS
from vla_gym.assets.resolve import PRIMITIVE_PACK


def hope(name: str) -> str:
    return f"stable_hope_objects/{name}/{name}.xml"


def scanned(name: str) -> str:
    return f"stable_scanned_objects/{name}/{name}.xml"


def turbosquid(name: str) -> str:
    return f"turbosquid_objects/{name}/{name}.xml"


STOVE = "articulated_objects/flat_stove.xml"
CABINET = "articulated_objects/wooden_cabinet.xml"
CHEESE = hope("cream_cheese")
BOWL = scanned("akita_black_bowl")
PLATE = scanned("plate")
BOTTLE = turbosquid("wine_bottle")
RACK = turbosquid("wine_rack")
ARENA = "scenes/libero_tabletop_base_style.xml"

# figures of LIBERO's own assets, compiled with mujoco 3.3.7: mass, kg, and sorted moments of inertia, kg m^2
WEIGHTS = {
    (hope("alphabet_soup"), "object"): (0.02585, (1.336e-5, 1.820e-5, 1.868e-5)),
    (hope("bbq_sauce"), "object"): (0.01218, (2.603e-6, 1.116e-5, 1.211e-5)),
    (hope("butter"), "object"): (0.00525, (8.163e-7, 2.670e-6, 3.221e-6)),
    (hope("chocolate_pudding"), "object"): (0.01019, (2.459e-6, 6.098e-6, 7.281e-6)),
    (hope("cookies"), "object"): (0.00964, (3.381e-6, 5.769e-6, 8.582e-6)),
    (hope("ketchup"), "object"): (0.02322, (6.991e-6, 3.793e-5, 4.033e-5)),
    (hope("milk"), "object"): (0.03167, (1.449e-5, 4.329e-5, 4.336e-5)),
    (hope("new_salad_dressing"), "sald_dressing_body"): (0.02178, (5.188e-6, 3.397e-5, 3.519e-5)),
    (hope("orange_juice"), "object"): (0.03167, (1.449e-5, 4.329e-5, 4.336e-5)),
    (hope("salad_dressing"), "object"): (0.02178, (5.188e-6, 3.397e-5, 3.519e-5)),
    (hope("tomato_sauce"), "object"): (0.02663, (1.392e-5, 1.879e-5, 1.939e-5)),
    (scanned("chefmate_8_frypan"), "object"): (0.05025, (1.206e-4, 2.911e-4, 3.982e-4)),
    (scanned("glazed_rim_porcelain_ramekin"), "object"): (0.00966, (7.369e-6, 7.995e-6, 1.218e-5)),
    (scanned("white_bowl"), "object"): (0.00209, (1.169e-6, 1.258e-6, 1.966e-6)),
    (turbosquid("black_book"), "object"): (0.04255, (4.611e-5, 6.696e-5, 1.072e-4)),
    (turbosquid("moka_pot"), "object"): (0.06824, (6.219e-5, 1.281e-4, 1.426e-4)),
    (turbosquid("porcelain_mug"), "object"): (0.01646, (2.781e-5, 2.826e-5, 3.415e-5)),
    (turbosquid("red_coffee_mug"), "object"): (0.02935, (3.440e-5, 6.024e-5, 6.317e-5)),
    (turbosquid("white_yellow_mug"), "object"): (0.03091, (5.081e-5, 5.871e-5, 6.108e-5)),
    (turbosquid("yellow_book"), "object"): (0.02812, (2.369e-5, 3.632e-5, 5.741e-5)),
    (BOWL, "object"): (0.0055913, (5.716e-6, 6.105e-6, 9.082e-6)),
    (CHEESE, "object"): (0.0061938, (1.105e-6, 3.569e-6, 4.344e-6)),
    (BOTTLE, "object"): (0.015394, (2.539e-6, 2.285e-5, 2.292e-5)),
    (PLATE, "object"): (0.011522, (1.292e-5, 1.507e-5, 2.763e-5)),
    (RACK, "object"): (0.15275, (1.0918e-3, 2.0554e-3, 2.2055e-3)),
    (CABINET, "base"): (0.17624, (1.5741e-3, 2.2120e-3, 2.4554e-3)),
    (CABINET, "cabinet_top"): (3, (1, 1, 1)),
    (CABINET, "cabinet_middle"): (3, (1, 1, 1)),
    (CABINET, "cabinet_bottom"): (3, (1, 1, 1)),
    (STOVE, "burner"): (1.4801, (4.667e-3, 4.667e-3, 8.905e-3)),
    (STOVE, "button"): (3, (1, 1, 1)),
}
# lowest and highest corner of the collision geoms in the body's frame, m
EXTENTS = {
    (hope("alphabet_soup"), "object"): ((-0.0313, -0.0386, -0.0349), (0.0311, 0.0376, 0.0275)),
    (hope("bbq_sauce"), "object"): ((-0.0235, -0.0146, -0.0546), (0.0235, 0.0146, 0.0525)),
    (hope("butter"), "object"): ((-0.0381, -0.0198, -0.0087), (0.0381, 0.0198, 0.0087)),
    (hope("chocolate_pudding"), "object"): ((-0.0406, -0.0232, -0.0131), (0.0396, 0.0232, 0.0143)),
    (hope("cookies"), "object"): ((-0.0310, -0.0413, -0.0094), (0.0310, 0.0413, 0.0094)),
    (hope("ketchup"), "object"): ((-0.0277, -0.0724, -0.0176), (0.0286, 0.0732, 0.0191)),
    (hope("milk"), "object"): ((-0.0264, -0.0698, -0.0263), (0.0266, 0.0614, 0.0263)),
    (hope("new_salad_dressing"), "sald_dressing_body"): ((-0.0273, -0.0727, -0.0180), (0.0254, 0.0728, 0.0176)),
    (hope("orange_juice"), "object"): ((-0.0266, -0.0698, -0.0263), (0.0264, 0.0614, 0.0263)),
    (hope("salad_dressing"), "object"): ((-0.0273, -0.0727, -0.0180), (0.0254, 0.0728, 0.0176)),
    (hope("tomato_sauce"), "object"): ((-0.0312, -0.0386, -0.0341), (0.0310, 0.0376, 0.0275)),
    (scanned("chefmate_8_frypan"), "object"): ((-0.0968, -0.1032, 0.0008), (0.2593, 0.1011, 0.0587)),
    (scanned("glazed_rim_porcelain_ramekin"), "object"): ((-0.0447, -0.0444, 0.0007), (0.0447, 0.0447, 0.0427)),
    (scanned("white_bowl"), "object"): ((-0.0408, -0.0409, 0.0006), (0.0405, 0.0403, 0.0351)),
    (turbosquid("black_book"), "object"): ((-0.0148, -0.0673, 0.0022), (0.0139, 0.0430, 0.1366)),
    (turbosquid("moka_pot"), "object"): ((-0.0406, -0.0563, -0.0661), (0.0408, 0.0912, 0.0857)),
    (turbosquid("porcelain_mug"), "object"): ((-0.0647, -0.0494, 0.0024), (0.0600, 0.0469, 0.1085)),
    (turbosquid("red_coffee_mug"), "object"): ((-0.0607, -0.0472, -0.0018), (0.0622, 0.0460, 0.1308)),
    (turbosquid("white_yellow_mug"), "object"): ((-0.0713, -0.0530, -0.0001), (0.0684, 0.0531, 0.1031)),
    (turbosquid("yellow_book"), "object"): ((-0.0101, -0.0488, 0.0020), (0.0134, 0.0489, 0.1242)),
    (BOWL, "object"): ((-0.0538, -0.0539, 0.0016), (0.0534, 0.0531, 0.0521)),
    (CHEESE, "object"): ((-0.0406, -0.0213, -0.0089), (0.0406, 0.0213, 0.0089)),
    (BOTTLE, "object"): ((-0.0207, -0.0220, 0.0011), (0.0219, 0.0222, 0.1580)),
    (PLATE, "object"): ((-0.0680, -0.0684, -0.0025), (0.0696, 0.0691, 0.0164)),
    (RACK, "object"): ((-0.1344, -0.1244, -0.0022), (0.1344, 0.1295, 0.3282)),
    (CABINET, "base"): ((-0.1234, -0.0792, 0.0046), (0.1312, 0.1117, 0.2230)),
    (CABINET, "cabinet_top"): ((-0.1060, -0.1093, 0.1488), (0.1127, 0.0943, 0.2174)),
    (STOVE, "burner"): ((-0.095, -0.095, -0.02), (0.095, 0.095, 0.0255)),
    (STOVE, "button"): ((-0.0463, -0.0433, 0.0004), (0.0489, 0.0520, 0.0500)),
}
# body, type, axis, range, damping
JOINTS = {
    CABINET: {
        f"{level}_level": (f"cabinet_{level}", mujoco.mjtJoint.mjJNT_SLIDE, (0, 1, 0), (-0.16, 0.01), 50)
        for level in ("top", "middle", "bottom")
    },
    STOVE: {"button": ("button", mujoco.mjtJoint.mjJNT_HINGE, (0, 0, 1), (-0.005, 2.1), 1)},
}
UPRIGHT = (0.70711, 0, 0.70711, 0)
# body, position, size, rotation
SITES = {
    CABINET: {
        "top_side": ("base", (0.00354, 0.01567, 0.22152), (0.12534, 0.09438, 0.00147), (1, 0, 0, 0)),
        "top_region": ("cabinet_top", (0.00328, 0.01128, 0.18563), (0.02993, 0.07561, 0.10224), UPRIGHT),
        "middle_region": ("cabinet_middle", (0.00328, 0.01128, 0.1169), (0.02993, 0.07561, 0.10224), UPRIGHT),
        "bottom_region": ("cabinet_bottom", (0.00328, 0.01128, 0.04701), (0.02993, 0.07561, 0.10224), UPRIGHT),
    },
    STOVE: {
        "cook_region": ("burner", (0, 0, 0), (0.075, 0.075, 0.0025), (1, 0, 0, 0)),
        "burner": ("burner", (0, 0, 0.022), (0.0625, 0.0005), (1, 0, 0, 0)),
    },
    RACK: {"top_region": ("object", (0, -0.08003, 0.21745), (0.10087, 0.022, 0.00251), (0.85491, -0.51877, 0, 0))},
}
# underside, top and horizontal radius that LIBERO's placement samplers read
MARKERS = {
    hope("alphabet_soup"): (-0.04, 0.04, 0.025),
    hope("bbq_sauce"): (-0.06, 0.06, 0.015),
    hope("butter"): (-0.02, 0.02, 0.02),
    hope("chocolate_pudding"): (-0.06, 0.04, 0.025),
    hope("cookies"): (-0.06, 0.04, 0.025),
    hope("ketchup"): (-0.06, 0.04, 0.025),
    hope("milk"): (-0.06, 0.04, 0.03),
    hope("new_salad_dressing"): (-0.06, 0.04, 0.025),
    hope("orange_juice"): (-0.06, 0.04, 0.025),
    hope("salad_dressing"): (-0.06, 0.04, 0.025),
    hope("tomato_sauce"): (-0.06, 0.04, 0.025),
    scanned("chefmate_8_frypan"): (-0.06, 0.04, 0.025),
    scanned("glazed_rim_porcelain_ramekin"): (-0.06, 0.04, 0.025),
    scanned("white_bowl"): (-0.06, 0.04, 0.025),
    turbosquid("black_book"): (-0.06, 0.04, 0.025),
    turbosquid("moka_pot"): (-0.06, 0.04, 0.025),
    turbosquid("porcelain_mug"): (-0.06, 0.04, 0.025),
    turbosquid("red_coffee_mug"): (-0.06, 0.04, 0.025),
    turbosquid("white_yellow_mug"): (-0.06, 0.04, 0.025),
    turbosquid("yellow_book"): (-0.06, 0.04, 0.025),
    BOWL: (-0.06, 0.04, 0.025),
    PLATE: (-0.06, 0.04, 0.025),
    BOTTLE: (-0.06, 0.04, 0.025),
    RACK: (-0.06, 0.04, 0.025),
    CHEESE: (-0.025, 0.025, 0.03),
    CABINET: (-0.045, 0.045, 0.045),
    STOVE: (-0.045, 0.045, 0.045),
}


def load(name: str) -> mujoco.MjSpec:
    spec = mujoco.MjSpec.from_file(str(PRIMITIVE_PACK / name))
    # robosuite's base file: only collision geoms weigh
    spec.compiler.inertiagrouprange = [0, 0]
    return spec


def compiled(name: str) -> mujoco.MjModel:
    return load(name).compile()


def collision_extent(model: mujoco.MjModel, body: int) -> tuple[np.ndarray, np.ndarray]:
    corners = []
    for geom in np.flatnonzero((model.geom_bodyid == body) & (model.geom_group == 0)):
        matrix = np.zeros(9)
        mujoco.mju_quat2Mat(matrix, model.geom_quat[geom])
        reach = np.abs(matrix.reshape(3, 3)) @ model.geom_size[geom]
        corners += [model.geom_pos[geom] - reach, model.geom_pos[geom] + reach]
    return np.min(corners, axis=0), np.max(corners, axis=0)


def test_files_are_what_the_generator_writes(tmp_path):
    write_pack(tmp_path)
    made = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    kept = {p.relative_to(PRIMITIVE_PACK): p.read_bytes() for p in PRIMITIVE_PACK.rglob("*") if p.is_file()}
    assert sorted(made) == sorted(kept)
    stale = [str(name) for name in made if made[name] != kept[name]]
    assert not stale, "run python -m vla_gym.assets.generate_primitives"


@pytest.mark.parametrize("name", sorted(TEXTURES))
def test_textures_decode_to_what_was_drawn(name):
    picture = TEXTURES[name]()
    np.testing.assert_array_equal(np.asarray(Image.open(PRIMITIVE_PACK / "textures" / name)), picture)


def test_png_of_more_than_one_block():
    picture = np.random.default_rng(0).integers(0, 256, (200, 150, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(picture)))), picture)


@pytest.mark.parametrize("name", sorted([*OBJECTS, *ARENAS]))
def test_every_file_compiles_and_keeps_to_the_groups(name):
    model = compiled(name)
    collides = (model.geom_contype != 0) & (model.geom_conaffinity != 0)
    assert (model.geom_group == 0).any() and (model.geom_group == 1).any()
    seen_and_solid = [model.geom(g).name for g in np.flatnonzero(collides & (model.geom_group == 1))]
    assert seen_and_solid == (["floor"] if name in ARENAS else [])
    assert collides[model.geom_group == 0].all()


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_every_object_has_its_body_and_markers(name):
    model = compiled(name)
    # robosuite takes the first child of the outer body for the object itself
    assert model.body("object").parentid[0] == 1
    bottom, top, radius = MARKERS[name]
    for marker, pos in (
        ("bottom_site", (0, 0, bottom)),
        ("top_site", (0, 0, top)),
        ("horizontal_radius_site", (radius, radius, 0)),
    ):
        site = model.site(marker)
        assert site.bodyid[0] == 1
        np.testing.assert_allclose(site.pos, pos)


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_joints_are_those_of_libero(name):
    model = compiled(name)
    expected = JOINTS.get(name, {})
    assert [model.joint(j).name for j in range(model.njnt)] == list(expected)
    for joint_name, (body, kind, axis, limits, damping) in expected.items():
        joint = model.joint(joint_name)
        assert model.body(joint.bodyid[0]).name == body
        assert joint.type[0] == kind and joint.limited[0]
        np.testing.assert_allclose(joint.axis, axis)
        np.testing.assert_allclose(joint.range, limits)
        assert joint.damping[0] == damping


@pytest.mark.parametrize(("name", "site_name"), [(name, site) for name in SITES for site in SITES[name]])
def test_sites_are_those_of_libero(name, site_name):
    model = compiled(name)
    body, pos, size, quat = SITES[name][site_name]
    site = model.site(site_name)
    assert model.body(site.bodyid[0]).name == body
    np.testing.assert_allclose(site.pos, pos)
    np.testing.assert_allclose(site.size[: len(size)], size)
    np.testing.assert_allclose(site.quat, quat, atol=1e-5)


@pytest.mark.parametrize(("name", "body"), sorted(WEIGHTS))
def test_weights_are_near_those_of_libero(name, body):
    mass, inertia = WEIGHTS[name, body]
    found = compiled(name).body(body)
    assert found.mass[0] == pytest.approx(mass, rel=0.05)
    np.testing.assert_allclose(np.sort(found.inertia), inertia, rtol=0.2)


@pytest.mark.parametrize(("name", "body"), sorted(EXTENTS))
def test_dimensions_are_near_those_of_libero(name, body):
    model = compiled(name)
    low, high = collision_extent(model, model.body(body).id)
    expected_low, expected_high = np.array(EXTENTS[name, body])
    np.testing.assert_allclose(high - low, expected_high - expected_low, rtol=0.2)
    np.testing.assert_allclose([low, high], [expected_low, expected_high], atol=0.004)


def test_arena_has_what_libero_edits():
    model = compiled(ARENA)
    for name in ("floor", "table_collision", "table_visual", *(f"table_leg{i}_visual" for i in (1, 2, 3, 4))):
        assert model.geom(name).id >= 0
    assert model.site("table_top").id >= 0
    assert [model.cam(c).name for c in range(model.ncam)] == ["frontview", "birdview", "agentview", "sideview"]
    spec = load(ARENA)
    for texture in ("texplane", "tex-wall"):
        # LIBERO swaps the last part of this path for the style's file
        assert spec.texture(texture).file.rpartition("/")[0].endswith("../textures")


def test_drawers_slide_and_knob_turns_without_touching_anything():
    for name in JOINTS:
        model = compiled(name)
        data = mujoco.MjData(model)
        for part in np.linspace(0, 1, 9):
            data.qpos[:] = model.jnt_range[:, 0] + part * np.ptp(model.jnt_range, axis=1)
            mujoco.mj_forward(model, data)
            assert data.ncon == 0, (name, part, data.contact.geom[: data.ncon].tolist())


def test_bowl_holds_cream_cheese_and_bottle_stands():
    world = mujoco.MjSpec()
    world.compiler.inertiagrouprange = [0, 0]
    world.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    # a box, as LIBERO's table: box against box is what the shapes are made for
    world.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.5, 0.5, 0.1], pos=[0, 0, -0.1])
    for name, pos in ((BOWL, (0, 0.1, 0.01)), (CHEESE, (0, 0, 0.1)), (BOTTLE, (0.3, 0, 0.01))):
        part = load(name)
        part.body("object").add_freejoint()
        world.worldbody.add_frame(pos=pos).attach_body(part.body("object"), f"{name}/", "")
    model = world.compile()
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, 1000)
    bowl, cheese, bottle = (data.body(f"{name}/object") for name in (BOWL, CHEESE, BOTTLE))
    np.testing.assert_allclose(bowl.xpos, (0, 0, -0.0016), atol=0.001)
    assert np.linalg.norm(cheese.xpos[:2]) < 0.02 and 0.02 < cheese.xpos[2] < 0.06
    np.testing.assert_allclose(bottle.xpos, (0.3, 0, -0.0011), atol=0.001)
    assert bottle.xmat[8] > 0.999
    assert np.abs(data.qvel).max() < 0.01
    assert not any(warning.number for warning in data.warning)
