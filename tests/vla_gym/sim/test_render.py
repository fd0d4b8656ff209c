from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mujoco
import numpy as np
import pytest

from vla_gym.errors import RenderingError, UnknownNameError
from vla_gym.sim import render
from vla_gym.sim.core import View
from vla_gym.sim.render import CameraRenderer

SCENE = """
<mujoco>
  <worldbody>
    <light pos="0 0 3"/>
    <camera name="above" pos="0 0 1"/>
    <geom type="box" size="0.05 0.05 0.01" pos="0.2 0.2 0" rgba="1 0 0 1" group="1"/>
    <geom type="box" size="0.05 0.05 0.01" pos="-0.2 0.2 0" rgba="0 1 0 1" group="0"/>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    file = tmp_path / "scene.mjb"
    mujoco.mj_saveModel(mujoco.MjModel.from_xml_string(SCENE), str(file), None)
    return file


@pytest.fixture
def view() -> View:
    model = mujoco.MjModel.from_xml_string(SCENE)
    return View(np.zeros(model.nq), model.body_pos, model.body_quat, model.site_rgba)


@pytest.mark.parametrize("quality", ["full", "fast"])
def test_image_is_the_raw_one_turned_by_180_degrees_without_collision_geoms(
    quality: str, model_file: Path, view: View
) -> None:
    renderer = CameraRenderer(model_file, 64, ["above"], quality)
    image = renderer.render("above", view)
    renderer.close()
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    # the camera's +x is right and +y is up; turning the bottom-up OpenGL image by 180 degrees mirrors left and right
    red = np.argwhere((image[..., 0] > 60) & (image[..., 1] < 40))
    assert len(red) > 10
    assert (red < 32).all()
    assert not ((image[..., 1] > 60) & (image[..., 0] < 40)).any()


def test_images_larger_than_the_default_buffer(model_file: Path, view: View) -> None:
    renderer = CameraRenderer(model_file, 700, ["above"])
    assert renderer.render("above", view).shape == (700, 700, 3)
    renderer.close()


def test_a_closed_renderer_says_so(model_file: Path, view: View) -> None:
    renderer = CameraRenderer(model_file, 32, ["above"])
    assert renderer.device()
    renderer.close()
    renderer.close()
    with pytest.raises(RenderingError, match="closed"):
        renderer.render("above", view)
    with pytest.raises(RenderingError, match="closed"):
        renderer.device()


def test_unknown_quality(model_file: Path) -> None:
    with pytest.raises(UnknownNameError, match="full, fast"):
        CameraRenderer(model_file, 32, ["above"], "best")


def test_without_any_off_screen_library_the_debian_packages_are_named(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(render, "_pool", render._Pool())
    monkeypatch.setattr(render.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(RenderingError, match=r"libegl1 libgl1-mesa-dri.*libosmesa6"):
        CameraRenderer(model_file, 32, ["above"])


def test_renderers_of_one_scene_share_its_memory_and_do_not_mix_their_views(model_file: Path, view: View) -> None:
    first, second = (CameraRenderer(model_file, 32, ["above"]) for _ in range(2))
    assert first._scene is second._scene
    moved = View(view.qpos, view.body_pos + 0.1, view.body_quat, view.site_rgba)
    before = first.render("above", view)
    second.render("above", moved)
    np.testing.assert_array_equal(first.render("above", view), before)
    first.close()
    np.testing.assert_array_equal(second.render("above", view), before)
    second.close()


def test_threads_render_the_same_pixels(model_file: Path, view: View) -> None:
    def draw(_: int) -> np.ndarray:
        renderer = CameraRenderer(model_file, 32, ["above"])
        images = [renderer.render("above", view) for _ in range(5)]
        renderer.close()
        return np.stack(images)

    expected = draw(0)
    with ThreadPoolExecutor(2) as executor:
        for images in executor.map(draw, range(4)):
            np.testing.assert_array_equal(images, expected)


def test_a_damaged_model_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "scene.mjb"
    file.write_bytes(b"not a model")
    with pytest.raises(RenderingError, match="damaged"):
        CameraRenderer(file, 32, ["above"])
    assert not file.exists()
