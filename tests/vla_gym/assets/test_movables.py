"""Things a robot moves: they settle, hold what is put in them and leave room to be gripped where LIBERO's do."""

from pathlib import Path

import mujoco
import numpy as np
import pytest

from vla_gym.assets.resolve import PRIMITIVE_PACK

# the axis that points up in LIBERO's initial states, and the height, m, at which LIBERO's own object comes to rest
RESTING = {
    "stable_hope_objects/alphabet_soup": ("y", 0.0384),
    "stable_hope_objects/bbq_sauce": ("z", 0.0546),
    "stable_hope_objects/butter": ("z", 0.0087),
    "stable_hope_objects/chocolate_pudding": ("z", 0.0131),
    "stable_hope_objects/cookies": ("z", 0.0094),
    "stable_hope_objects/cream_cheese": ("z", 0.0089),
    "stable_hope_objects/ketchup": ("y", 0.0724),
    "stable_hope_objects/milk": ("y", 0.0697),
    "stable_hope_objects/new_salad_dressing": ("y", 0.0227),
    "stable_hope_objects/orange_juice": ("y", 0.0697),
    "stable_hope_objects/salad_dressing": ("y", 0.0727),
    "stable_hope_objects/tomato_sauce": ("y", 0.0384),
    "stable_scanned_objects/chefmate_8_frypan": ("z", -0.0008),
    "stable_scanned_objects/glazed_rim_porcelain_ramekin": ("z", -0.0007),
    "stable_scanned_objects/white_bowl": ("z", -0.0006),
    "turbosquid_objects/black_book": ("z", -0.0022),
    "turbosquid_objects/moka_pot": ("z", 0.0661),
    "turbosquid_objects/porcelain_mug": ("z", -0.0024),
    "turbosquid_objects/red_coffee_mug": ("z", 0.0018),
    "turbosquid_objects/white_yellow_mug": ("z", 0.0001),
    "turbosquid_objects/yellow_book": ("z", -0.002),
}
# middle of the cavity and height of its floor, m
CAVITIES = {
    "stable_scanned_objects/chefmate_8_frypan": (0.0074, 0, 0.0126),
    "stable_scanned_objects/glazed_rim_porcelain_ramekin": (0, 0, 0.0073),
    "stable_scanned_objects/white_bowl": (0, 0, 0.0042),
    "turbosquid_objects/porcelain_mug": (0.015, -0.0015, 0.0128),
    "turbosquid_objects/red_coffee_mug": (-0.0155, -0.0025, 0.0078),
    "turbosquid_objects/white_yellow_mug": (-0.0182, 0, 0.0052),
}
# a point inside the handle, one in the gap behind it, m
HANDLES = {
    "stable_scanned_objects/chefmate_8_frypan": ((0.2, 0, 0.045), (0.2, 0, 0.02)),
    "turbosquid_objects/moka_pot": ((0, 0.073, 0.028), (0, 0.053, 0.032)),
    "turbosquid_objects/porcelain_mug": ((-0.0595, 0, 0.056), (-0.043, 0, 0.062)),
    "turbosquid_objects/red_coffee_mug": ((0.0557, 0, 0.09), (0.038, 0, 0.085)),
    "turbosquid_objects/white_yellow_mug": ((0.0641, 0, 0.056), (0.045, 0, 0.056)),
}
# half size of the cube that is put into cavities, handles and the gaps behind them, m
PROBE = 0.006


@pytest.fixture(params=["primitive", pytest.param("libero", marks=pytest.mark.assets)])
def pack(request: pytest.FixtureRequest) -> Path:
    """Root of an asset pack; LIBERO's own proves that the figures above are LIBERO's."""
    return PRIMITIVE_PACK if request.param == "primitive" else request.getfixturevalue("libero_assets")


def load(pack: Path, folder: str) -> mujoco.MjSpec:
    return mujoco.MjSpec.from_file(str(pack / folder / f"{Path(folder).name}.xml"))


def on_table(thing: mujoco.MjSpec, quat: list[float]) -> mujoco.MjSpec:
    world = mujoco.MjSpec()
    # as robosuite and LIBERO set up their scenes
    world.compiler.inertiagrouprange = [0, 0]
    world.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    world.option.impratio = 20
    table = {"type": mujoco.mjtGeom.mjGEOM_BOX, "size": [0.4, 0.4, 0.4], "pos": [0, 0, -0.4]}
    world.worldbody.add_geom(**table, friction=[1, 0.005, 0.0001])
    thing.body("object").add_freejoint()
    world.worldbody.add_frame(quat=quat).attach_body(thing.body("object"), "", "")
    return world


@pytest.mark.parametrize("folder", sorted(RESTING))
def test_settles_as_liberos_object_does(pack, folder):
    axis, height = RESTING[folder]
    upright = {"y": [np.sqrt(0.5), np.sqrt(0.5), 0, 0], "z": [1, 0, 0, 0]}[axis]
    thing = load(pack, folder)
    # LIBERO's samplers put the lower marker 1 cm above the support
    drop = 0.01 - thing.site("bottom_site").pos[2]
    model = on_table(thing, upright).compile()
    model.dof_damping[:] = 0.0005
    data = mujoco.MjData(model)
    turn = np.zeros(4)
    mujoco.mju_mulQuat(turn, np.array([np.cos(0.15), 0, 0, np.sin(0.15)]), data.qpos[3:7])
    data.qpos[2], data.qpos[3:7] = drop, turn
    mujoco.mj_step(model, data, 500)
    settled = data.qpos.copy()
    mujoco.mj_step(model, data, 500)
    np.testing.assert_allclose(data.qpos[:3], (0, 0, height), atol=0.001)
    up = data.body("object").xmat.reshape(3, 3)[2, "xyz".index(axis)]
    assert up > np.cos(np.radians(0.5))
    np.testing.assert_allclose(data.qpos, settled, atol=1e-4)
    assert np.abs(data.qvel).max() < 0.01
    assert not any(warning.number for warning in data.warning)


@pytest.mark.parametrize("folder", sorted(CAVITIES))
def test_cavity_holds_what_is_put_in(pack, folder):
    x, y, floor = CAVITIES[folder]
    world = on_table(load(pack, folder), [1, 0, 0, 0])
    cube = world.worldbody.add_body(name="cube", pos=[x, y, 0.15])
    cube.add_freejoint()
    cube.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[PROBE] * 3, mass=0.001)
    model = world.compile()
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, 1500)
    thing = data.body("object")
    inside = thing.xmat.reshape(3, 3).T @ (data.body("cube").xpos - thing.xpos)
    np.testing.assert_allclose(inside[:2], (x, y), atol=0.01)
    assert inside[2] == pytest.approx(floor + PROBE, abs=0.001)


@pytest.mark.parametrize("folder", sorted(HANDLES))
def test_handle_can_be_gripped(pack, folder):
    handle, gap = HANDLES[folder]
    for place, touches in ((handle, True), (gap, False)):
        thing = load(pack, folder)
        probe = thing.worldbody.add_body(pos=place)
        probe.add_freejoint()
        probe.add_geom(name="probe", type=mujoco.mjtGeom.mjGEOM_BOX, size=[PROBE] * 3)
        model = thing.compile()
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        assert (data.ncon > 0) == touches, place
