from __future__ import annotations

import mujoco
import numpy as np
import pytest

from vla_gym.errors import RenderingError, UnknownNameError
from vla_gym.sim import render
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
def scene() -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.parametrize("quality", ["full", "fast"])
def test_image_is_the_raw_one_turned_by_180_degrees_without_collision_geoms(
    quality: str, scene: tuple[mujoco.MjModel, mujoco.MjData]
) -> None:
    model, data = scene
    renderer = CameraRenderer(model, 64, ["above"], quality)
    renderer.observe(data)
    image = renderer.render("above")
    renderer.close()
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    # the camera's +x is right and +y is up; turning the bottom-up OpenGL image by 180 degrees mirrors left and right
    red = np.argwhere((image[..., 0] > 60) & (image[..., 1] < 40))
    assert len(red) > 10
    assert (red < 32).all()
    assert not ((image[..., 1] > 60) & (image[..., 0] < 40)).any()


def test_images_larger_than_the_default_buffer(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    renderer = CameraRenderer(scene[0], 700, ["above"])
    renderer.observe(scene[1])
    assert renderer.render("above").shape == (700, 700, 3)
    renderer.close()


def test_a_closed_renderer_says_so(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    renderer = CameraRenderer(scene[0], 32, ["above"])
    renderer.close()
    renderer.close()
    with pytest.raises(RenderingError, match="closed"):
        renderer.render("above")


def test_unknown_quality(scene: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    with pytest.raises(UnknownNameError, match="full, fast"):
        CameraRenderer(scene[0], 32, ["above"], "best")


def test_without_any_off_screen_library_the_debian_packages_are_named(
    scene: tuple[mujoco.MjModel, mujoco.MjData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(render.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(RenderingError, match=r"libegl1 libgl1-mesa-dri.*libosmesa6"):
        CameraRenderer(scene[0], 32, ["above"])
