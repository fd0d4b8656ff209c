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
WHITE_CABINET = "articulated_objects/white_cabinet.xml"
MICROWAVE = "articulated_objects/microwave.xml"
BASKET = scanned("basket")
CADDY = turbosquid("desk_caddy")
TRAY = turbosquid("wooden_tray")
SHELF = turbosquid("wooden_two_layer_shelf")
CHEESE = hope("cream_cheese")
BOWL = scanned("akita_black_bowl")
PLATE = scanned("plate")
BOTTLE = turbosquid("wine_bottle")
RACK = turbosquid("wine_rack")
TABLETOP = "scenes/libero_tabletop_base_style.xml"
FLOOR = "scenes/libero_floor_base_style.xml"
KITCHEN = "scenes/libero_kitchen_tabletop_base_style.xml"
LIVING_ROOM = "scenes/libero_living_room_tabletop_base_style.xml"
STUDY = "scenes/libero_study_base_style.xml"

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
    (WHITE_CABINET, "base"): (0.17624, (1.5741e-3, 2.2120e-3, 2.4554e-3)),
    (WHITE_CABINET, "cabinet_top"): (3, (1, 1, 1)),
    (WHITE_CABINET, "cabinet_middle"): (3, (1, 1, 1)),
    (WHITE_CABINET, "cabinet_bottom"): (3, (1, 1, 1)),
    (MICROWAVE, "object"): (3, (2.5070e-2, 5.1699e-2, 5.2060e-2)),
    (MICROWAVE, "microdoorroot"): (0.26, (8.2255e-4, 1.7195e-3, 2.4464e-3)),
    (BASKET, "object"): (0.13611, (6.3890e-4, 6.8429e-4, 8.1685e-4)),
    (CADDY, "object"): (0.27796, (1.3807e-3, 5.4610e-3, 5.7314e-3)),
    (TRAY, "object"): (0.057154, (2.3191e-4, 6.0738e-4, 7.9038e-4)),
    (SHELF, "object"): (0.20633, (1.6987e-3, 4.4386e-3, 4.6005e-3)),
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
    (WHITE_CABINET, "base"): ((-0.1234, -0.0792, 0.0046), (0.1312, 0.1117, 0.2230)),
    (WHITE_CABINET, "cabinet_bottom"): ((-0.1060, -0.1093, 0.0105), (0.1127, 0.0943, 0.0790)),
    (MICROWAVE, "object"): ((-0.1725, -0.1105, 0), (0.1725, 0.1110, 0.1870)),
    (MICROWAVE, "microdoorroot"): ((0, -0.064, -0.0925), (0.259, -0.001, 0.0925)),
    (BASKET, "object"): ((-0.0841, -0.0785, 0.0042), (0.0854, 0.0788, 0.1457)),
    (CADDY, "object"): ((-0.0755, -0.2169, 0.0014), (0.0755, 0.2169, 0.1683)),
    (TRAY, "object"): ((-0.1416, -0.0876, -0.0010), (0.1556, 0.0789, 0.0809)),
    (SHELF, "object"): ((-0.1708, -0.0792, 0.0002), (0.1807, 0.1117, 0.2106)),
}
# body, type, axis, range, damping
DRAWERS = {
    f"{level}_level": (f"cabinet_{level}", mujoco.mjtJoint.mjJNT_SLIDE, (0, 1, 0), (-0.16, 0.01), 50)
    for level in ("top", "middle", "bottom")
}
JOINTS = {
    CABINET: DRAWERS,
    WHITE_CABINET: DRAWERS,
    STOVE: {"button": ("button", mujoco.mjtJoint.mjJNT_HINGE, (0, 0, 1), (-0.005, 2.1), 1)},
    MICROWAVE: {"microjoint": ("microdoorroot", mujoco.mjtJoint.mjJNT_HINGE, (0, 0, 1), (-2.094, 0), 0.5)},
}
FLAT, UPRIGHT, TURNED = (1, 0, 0, 0), (0.70711, 0, 0.70711, 0), (0, 0, 1, 0)
# body, position, size, rotation
DRAWER_REGIONS = {
    "top_side": ("base", (0.00354, 0.01567, 0.22152), (0.12534, 0.09438, 0.00147), FLAT),
    "top_region": ("cabinet_top", (0.00328, 0.01128, 0.18563), (0.02993, 0.07561, 0.10224), UPRIGHT),
    "middle_region": ("cabinet_middle", (0.00328, 0.01128, 0.1169), (0.02993, 0.07561, 0.10224), UPRIGHT),
    "bottom_region": ("cabinet_bottom", (0.00328, 0.01128, 0.04701), (0.02993, 0.07561, 0.10224), UPRIGHT),
}
SITES = {
    CABINET: DRAWER_REGIONS,
    WHITE_CABINET: DRAWER_REGIONS,
    STOVE: {
        "cook_region": ("burner", (0, 0, 0), (0.075, 0.075, 0.0025), FLAT),
        "burner": ("burner", (0, 0, 0.022), (0.0625, 0.0005), FLAT),
    },
    MICROWAVE: {
        "top_side": ("object", (0, 0.01, 0.2), (0.12, 0.0835, 0.005), FLAT),
        "heating_region": ("object", (0, 0.01, 0.096), (0.12, 0.0835, 0.08), FLAT),
    },
    BASKET: {"contain_region": ("object", (0, 0, 0.07185), (0.06108, 0.06108, 0.06949), (0, 0, 0, 1))},
    TRAY: {"contain_region": ("object", (0.00863, -0.00471, 0.04255), (0.04038, 0.07839, 0.13549), UPRIGHT)},
    CADDY: {
        "right_contain_region": ("object", (0.00631, -0.14339, 0.06558), (0.06196, 0.06216, 0.06046), TURNED),
        "left_contain_region": ("object", (0.00631, 0.14551, 0.06558), (0.06196, 0.06216, 0.06046), TURNED),
        "back_contain_region": ("object", (0.03364, -0.00064, 0.08558), (0.02775, 0.06216, 0.06046), TURNED),
        "front_contain_region": (
            "object",
            (-0.03102, -0.00064, 0.04054),
            (0.02775, 0.03595, 0.06216),
            (0, 0, 0.70711, -0.70711),
        ),
    },
    SHELF: {
        "top_side": ("object", (0.00496, 0.01567, 0.20688), (0.17557, 0.09438, 0.00147), FLAT),
        "top_region": ("object", (0.00538, 0.01687, 0.13672), (0.06739, 0.08564, 0.15093), (0.70711, 0, -0.70711, 0)),
        "bottom_region": ("object", (0.00555, 0.01687, 0.01407), (0.03528, 0.08564, 0.1558), UPRIGHT),
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
    WHITE_CABINET: (-0.045, 0.045, 0.045),
    MICROWAVE: (-0.06, 0.06, 0.015),
    BASKET: (-0.06, 0.04, 0.025),
    CADDY: (-0.06, 0.04, 0.025),
    TRAY: (-0.06, 0.04, 0.025),
    SHELF: (-0.06, 0.04, 0.025),
}
# regions that something can be put into
HOLLOWS = [
    *((name, f"{level}_region") for name in (CABINET, WHITE_CABINET) for level in ("top", "middle", "bottom")),
    (MICROWAVE, "heating_region"),
    (BASKET, "contain_region"),
    (TRAY, "contain_region"),
    *((CADDY, f"{side}_contain_region") for side in ("left", "right", "front", "back")),
    (SHELF, "top_region"),
]
# floor and wall that LIBERO puts into the scenes of the five suites
STYLES = (
    "light-gray-floor-tile.png",
    "light-gray-plaster.png",
    "gray_ceramic_tile.png",
    "yellow_linen_wall_texture.png",
    "seamless_wood_planks_floor.png",
)


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
        reach = np.abs(matrix.reshape(3, 3)) @ model.geom_aabb[geom, 3:]
        corners += [model.geom_pos[geom] - reach, model.geom_pos[geom] + reach]
    return np.min(corners, axis=0), np.max(corners, axis=0)


def settled(things: tuple[tuple[str, tuple[float, float, float]], ...]) -> mujoco.MjData:
    """Two seconds after the things were let go at these places above a table at height 0."""
    world = mujoco.MjSpec()
    world.compiler.inertiagrouprange = [0, 0]
    world.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    # a box, as LIBERO's table: box against box is what the shapes are made for
    world.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.5, 0.5, 0.1], pos=[0, 0, -0.1])
    for name, pos in things:
        part = load(name)
        part.body("object").add_freejoint()
        world.worldbody.add_frame(pos=pos).attach_body(part.body("object"), f"{name}/", "")
    model = world.compile()
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, 1000)
    assert not any(warning.number for warning in data.warning)
    return data


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
    collides = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    assert (model.geom_group == 1).any() and ((model.geom_group == 0).any() or name == FLOOR)
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


@pytest.mark.parametrize("name", sorted(ARENAS))
def test_arena_has_what_libero_edits(name):
    model = compiled(name)
    assert model.geom("floor").id >= 0
    assert [model.cam(c).name for c in range(model.ncam)] == ["frontview", "birdview", "agentview", "sideview"]
    spec = load(name)
    for texture in ("texplane", "tex-wall"):
        # LIBERO swaps the last part of this path for the style's file
        assert spec.texture(texture).file.rpartition("/")[0].endswith("../textures")
    if name in (TABLETOP, KITCHEN):
        for geom in ("table_collision", "table_visual", *(f"table_leg{i}_visual" for i in (1, 2, 3, 4))):
            assert model.geom(geom).bodyid[0] == model.body("table").id
        assert model.site("table_top").bodyid[0] == model.body("table").id


@pytest.mark.parametrize(
    ("name", "body", "height", "low", "high"),
    [
        (LIVING_ROOM, "living_room_table", 0.43676, (-0.825, -0.822), (0.339, 0.901)),
        (STUDY, "study_table", 0.88513, (-0.690, -1.393), (0.690, 1.393)),
    ],
)
def test_fixed_tables_have_the_size_of_liberos(name, body, height, low, high):
    model = compiled(name)
    found_low, found_high = collision_extent(model, model.body(body).id)
    np.testing.assert_allclose(found_high[2], height, atol=1e-4)
    np.testing.assert_allclose([found_low[:2], found_high[:2]], [low, high], atol=0.002)
    ground = model.body("floor").id if name == LIVING_ROOM else 0
    assert model.geom("floor").bodyid[0] == ground


def test_floor_of_the_bare_room_is_a_body():
    model = compiled(FLOOR)
    assert model.geom("floor").bodyid[0] == model.body("floor").id


@pytest.mark.parametrize("file", STYLES)
def test_every_style_in_use_has_its_texture(file):
    assert file in TEXTURES


def test_drawers_slide_and_door_and_knob_turn_without_touching_anything():
    for name in JOINTS:
        model = compiled(name)
        data = mujoco.MjData(model)
        for part in np.linspace(0, 1, 9):
            data.qpos[:] = model.jnt_range[:, 0] + part * np.ptp(model.jnt_range, axis=1)
            mujoco.mj_forward(model, data)
            assert data.ncon == 0, (name, part, data.contact.geom[: data.ncon].tolist())


@pytest.mark.parametrize(("name", "region"), HOLLOWS)
def test_regions_are_hollow_and_walled(name, region):
    spec = load(name)
    ball = spec.worldbody.add_body(name="ball")
    ball.add_freejoint(name="ball")
    ball.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.02, 0, 0], mass=0.01)
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    centre = data.site(region).xpos.copy()

    def touches(offset):
        data.joint("ball").qpos[:3] = centre + np.array([offset, 0, 0])
        mujoco.mj_forward(model, data)
        return data.ncon > 0

    assert not touches(0)
    for sign in (-1, 1):
        assert any(touches(sign * distance) for distance in np.arange(0, 0.18, 0.005)), sign


@pytest.mark.parametrize(
    ("name", "reach"), [(CABINET, (-0.003, -0.087, 0.184)), (WHITE_CABINET, (-0.003, -0.087, 0.184))]
)
def test_a_finger_fits_behind_the_handle_and_pulls_the_drawer_open(name, reach):
    spec = load(name)
    finger = spec.worldbody.add_body(name="finger", mocap=True)
    finger.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.01, 0.004, 0.01])
    model = spec.compile()
    data = mujoco.MjData(model)
    data.mocap_pos[0] = reach
    mujoco.mj_forward(model, data)
    assert data.ncon == 0
    for y in np.linspace(reach[1], reach[1] - 0.14, 500):
        data.mocap_pos[0, 1] = y
        mujoco.mj_step(model, data)
    assert data.joint("top_level").qpos[0] < -0.1
    assert abs(data.joint("middle_level").qpos[0]) < 0.01


def test_a_finger_opens_the_microwave():
    spec = load(MICROWAVE)
    finger = spec.worldbody.add_body(name="finger", mocap=True)
    finger.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.006, 0.006, 0.01])
    model = spec.compile()
    data = mujoco.MjData(model)
    hinge, radius = np.array([-0.1725, -0.088]), np.array([0.2375, -0.0345])
    for angle in np.linspace(0, -1.4, 1500):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        data.mocap_pos[0] = (*(hinge + turn @ radius), 0.096)
        data.mocap_quat[0] = (np.cos(angle / 2), 0, 0, np.sin(angle / 2))
        mujoco.mj_step(model, data)
    assert data.joint("microjoint").qpos[0] < -1.3


def test_bowl_holds_cream_cheese_and_bottle_stands():
    data = settled(((BOWL, (0, 0.1, 0.01)), (CHEESE, (0, 0, 0.1)), (BOTTLE, (0.3, 0, 0.01))))
    bowl, cheese, bottle = (data.body(f"{name}/object") for name in (BOWL, CHEESE, BOTTLE))
    np.testing.assert_allclose(bowl.xpos, (0, 0, -0.0016), atol=0.001)
    assert np.linalg.norm(cheese.xpos[:2]) < 0.02 and 0.02 < cheese.xpos[2] < 0.06
    np.testing.assert_allclose(bottle.xpos, (0.3, 0, -0.0011), atol=0.001)
    assert bottle.xmat[8] > 0.999
    assert np.abs(data.qvel).max() < 0.01


@pytest.mark.parametrize(("container", "floor"), [(BASKET, 0.0218 - 0.0042), (TRAY, 0.008)])
def test_containers_stand_and_hold_cream_cheese(container, floor):
    data = settled(((container, (0, 0, 0.02)), (CHEESE, (0, 0, 0.12))))
    holder, cheese = data.body(f"{container}/object"), data.body(f"{CHEESE}/object")
    np.testing.assert_allclose(holder.xpos[:2], 0, atol=0.002)
    assert holder.xmat[8] > 0.9999
    assert np.linalg.norm(cheese.xpos[:2]) < 0.05
    assert cheese.xpos[2] == pytest.approx(floor + 0.0089, abs=0.002)
    assert np.abs(data.qvel).max() < 0.01
