"""What an appearance overrides looks like a scene that was compiled that way, and nothing of it stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from PIL import Image

from vla_gym import Appearance
from vla_gym.errors import InvalidArgumentError, UnknownNameError
from vla_gym.sim.core import SceneView
from vla_gym.sim.render import CameraRenderer

SCENE = """
<mujoco>
  <visual>
    <headlight ambient="{headlight}" diffuse=".2 .2 .2" active="{headlight_active}"/>
    <quality shadowsize="256"/>
  </visual>
  <asset>
    <texture name="floor" type="2d" file="{floor}.png"/>
    <texture name="cube" type="cube" file="{cube}.png"/>
    <texture type="skybox" builtin="gradient" rgb1="0 0 1" rgb2="1 1 1" width="8" height="8"/>
    <material name="floor" texture="floor" texrepeat="2 2"/>
    <material name="cube" texture="cube"/>
    <material name="red" rgba="{red}"/>
  </asset>
  <worldbody>
    <light name="lamp" pos="{lamp_pos}" dir="{lamp_dir}" diffuse="{lamp_diffuse}" ambient="{lamp_ambient}"
     specular="{lamp_specular}" active="{lamp_active}" castshadow="{lamp_castshadow}"/>
    <light pos="1 0 3" dir="0 0 -1" diffuse=".2 .2 .2"/>
    <camera name="agentview" pos="{pos}" quat="{quat}" fovy="{fovy}"/>
    <geom name="floor" type="plane" size="1 1 .1" material="floor" group="1"/>
    <geom name="block" type="box" size=".1 .1 .1" pos=".2 .1 .2" material="cube" group="1"/>
    <geom name="ball" type="sphere" size=".1" pos="-.2 .1 .2" material="red" group="1"/>
    <geom name="post" type="capsule" size=".05 .1" pos="0 -.2 .2" rgba="{post}" group="1"/>
    <geom name="hidden" type="box" size=".1 .1 .1" group="0"/>
  </worldbody>
</mujoco>
"""
VALUES = {
    **{"pos": "0 0 2", "quat": "1 0 0 0", "fovy": "45", "red": "1 0 0 1", "post": "0 1 0 1", "floor": "a", "cube": "b"},
    **{"lamp_pos": "0 1 3", "lamp_dir": "0 -.3 -1", "lamp_diffuse": ".6 .6 .6", "lamp_ambient": "0 0 0"},
    **{"lamp_specular": ".3 .3 .3", "lamp_active": "true", "lamp_castshadow": "true", "headlight": ".1 .1 .1"},
    **{"headlight_active": "1"},
}
rng = np.random.default_rng(0)
PICTURES = {
    name: rng.integers(0, 256, shape, dtype=np.uint8)
    for name, shape in {"a": (8, 12, 3), "b": (8, 8, 3), "c": (40, 30, 3), "d": (2, 2, 3), "e": (16, 16, 3)}.items()
}


def numbers(text: str) -> list[float]:
    return [float(x) for x in text.split()]


def lamp(**values: Any) -> dict[str, Any]:
    return {"lights": {"lamp": values}}


# what is compiled in place of VALUES, and the same as an appearance
CASES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "camera": (
        {"pos": "0.3 0.1 1.5", "quat": "0.98 0.1 0.1 0.05", "fovy": "60"},
        {"cameras": {"agentview": {"pos": [0.3, 0.1, 1.5], "quat": [0.98, 0.1, 0.1, 0.05], "fovy": 60}}},
    ),
    "light's place": (
        {"lamp_pos": "-1 0 2", "lamp_dir": ".4 0 -1"},
        lamp(pos=[-1, 0, 2], dir=[0.4, 0, -1]),
    ),
    "light's colours": (
        {"lamp_diffuse": ".9 .1 .1", "lamp_ambient": "0 .2 0", "lamp_specular": "0 0 1"},
        lamp(diffuse=[0.9, 0.1, 0.1], ambient=[0, 0.2, 0], specular=[0, 0, 1]),
    ),
    "no light": ({"lamp_active": "false"}, lamp(active=False)),
    "no shadow": ({"lamp_castshadow": "false"}, lamp(castshadow=False)),
    "headlight": ({"headlight": ".5 .1 .1"}, {"lights": {"headlight": {"ambient": [0.5, 0.1, 0.1]}}}),
    "no headlight": ({"headlight_active": "0"}, {"lights": {"headlight": {"active": False}}}),
    "geom": ({"post": "1 0 1 .5"}, {"geom_rgba": {"post": [1, 0, 1, 0.5]}}),
    "material": ({"red": "0 .5 1 1"}, {"material_rgba": {"red": [0, 0.5, 1, 1]}}),
    "larger texture": ({"floor": "c"}, {"textures": {"floor": PICTURES["c"]}}),
    "smaller texture": ({"floor": "d"}, {"textures": {"floor": PICTURES["d"]}}),
    "cube": ({"cube": "e"}, {"textures": {"cube": PICTURES["e"]}}),
    "cube by its faces": ({"cube": "e"}, {"textures": {"cube": np.tile(PICTURES["e"], (6, 1, 1))}}),
    "two textures": ({"floor": "e", "cube": "d"}, {"textures": {"floor": PICTURES["e"], "cube": PICTURES["d"]}}),
}


def compiled(folder: Path, **values: str) -> Path:
    for name, picture in PICTURES.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    source, file = folder / "scene.xml", folder / f"{len(list(folder.glob('*.mjb')))}.mjb"
    source.write_text(SCENE.format(**{**VALUES, **values}))
    mujoco.mj_saveModel(mujoco.MjModel.from_xml_path(str(source)), str(file), None)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def renderer(folder: Path) -> Iterator[CameraRenderer]:
    renderer = CameraRenderer(compiled(folder), 48, ["agentview"])
    yield renderer
    renderer.close()


@pytest.fixture(scope="module")
def plain(renderer: CameraRenderer) -> np.ndarray:
    return draw(renderer)


def draw(renderer: CameraRenderer, appearance: Any = None) -> np.ndarray:
    if appearance is not None:
        appearance = Appearance.from_dict(appearance)
    view = SceneView(np.zeros(0), np.zeros((1, 3)), np.eye(1, 4), np.zeros((0, 4)), appearance)
    return renderer.render("agentview", view)


@pytest.mark.parametrize("case", CASES)
def test_an_override_shows_what_the_compiled_scene_shows(
    case: str, folder: Path, renderer: CameraRenderer, plain: np.ndarray
) -> None:
    values, appearance = CASES[case]
    other = CameraRenderer(compiled(folder, **values), 48, ["agentview"])
    expected = draw(other)
    other.close()
    assert (expected != plain).any()
    np.testing.assert_array_equal(draw(renderer, appearance), expected)
    np.testing.assert_array_equal(draw(renderer), plain)


def test_one_appearance_leaves_nothing_to_the_next(renderer: CameraRenderer, plain: np.ndarray) -> None:
    alone = {}
    for case, (_, appearance) in CASES.items():
        alone[case] = draw(renderer, appearance)
        np.testing.assert_array_equal(draw(renderer, {}), plain)
    for case in [*CASES, *reversed(CASES)]:
        np.testing.assert_array_equal(draw(renderer, CASES[case][1]), alone[case], err_msg=case)
    np.testing.assert_array_equal(draw(renderer), plain)


def test_renderers_of_one_scene_show_different_appearances(
    folder: Path, renderer: CameraRenderer, plain: np.ndarray
) -> None:
    file = sorted(folder.glob("*.mjb"))[0]
    same_size, larger = CameraRenderer(file, 48, ["agentview"]), CameraRenderer(file, 64, ["agentview"])
    assert same_size._scene is renderer._scene and larger._scene.render_model is renderer._scene.render_model
    large = draw(larger)
    changed = {name: draw(renderer, CASES[name][1]) for name in ("camera", "cube", "no light", "two textures")}
    for name, expected in changed.items():
        assert (draw(larger, CASES[name][1]) != large).any()
        np.testing.assert_array_equal(draw(same_size, CASES[name][1]), expected)
        np.testing.assert_array_equal(draw(renderer), plain)
        np.testing.assert_array_equal(draw(larger), large)
    same_size.close()
    larger.close()


def test_the_scenes_own_appearance_changes_nothing(renderer: CameraRenderer, plain: np.ndarray) -> None:
    draw(renderer, CASES["two textures"][1])  # what is shown at the moment is not the scene's own
    own = renderer.scene_appearance()
    np.testing.assert_array_equal(draw(renderer, own.as_dict()), plain)
    assert own.cameras["agentview"].fovy == 45 and list(own.cameras) == ["agentview"]
    assert list(own.lights) == ["lamp", "headlight"] and own.lights["lamp"].castshadow is True
    assert list(own.geom_rgba) == ["floor", "block", "ball", "post"]
    assert own.material_rgba["red"].tolist() == [1, 0, 0, 1]
    np.testing.assert_array_equal(own.textures["floor"], PICTURES["a"])
    np.testing.assert_array_equal(own.textures["cube"], PICTURES["b"])


@pytest.mark.parametrize(
    ("appearance", "message"),
    [
        ({"cameras": {"wrist": {"fovy": 50}}}, "Unknown camera 'wrist'. Valid: agentview."),
        ({"lights": {"lmap": {}}}, r"Unknown light 'lmap'. Did you mean 'lamp'\? Valid: headlight, lamp."),
        (
            {"geom_rgba": {"flor": [1, 1, 1, 1]}},
            r"geom 'flor'. Did you mean 'floor'\? Valid: floor, block, ball, post.",
        ),
        ({"geom_rgba": {"hidden": [1, 1, 1, 1]}}, "Unknown geom 'hidden'"),
        ({"material_rgba": {"blue": [1, 1, 1, 1]}}, "Unknown material 'blue'. Valid: floor, cube, red."),
        ({"textures": {"": PICTURES["a"]}}, "Unknown texture ''. Valid: floor, cube."),
        ({"textures": {"red": PICTURES["a"]}}, "Unknown texture 'red'.* Material 'red' has no texture."),
    ],
)
def test_names_that_the_scene_lacks_are_refused(
    appearance: dict[str, Any], message: str, renderer: CameraRenderer, plain: np.ndarray
) -> None:
    for attempt in (
        lambda: draw(renderer, appearance),
        lambda: renderer.check_appearance(Appearance.from_dict(appearance)),
    ):
        with pytest.raises(UnknownNameError, match=message):
            attempt()
    np.testing.assert_array_equal(draw(renderer), plain)


def test_a_cube_refuses_pictures_that_are_not_square(renderer: CameraRenderer, plain: np.ndarray) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"textures\['cube'\] has shape \(40, 30, 3\); the texture is a cube"
    ):
        draw(renderer, {"textures": {"floor": PICTURES["d"], "cube": PICTURES["c"]}})
    np.testing.assert_array_equal(draw(renderer), plain)
