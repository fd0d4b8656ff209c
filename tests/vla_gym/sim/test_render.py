from __future__ import annotations

import gc
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mujoco
import numpy as np
import pytest

from vla_gym.errors import RenderingError, UnknownNameError
from vla_gym.sim import opengl, render
from vla_gym.sim.core import SceneView
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
def view() -> SceneView:
    model = mujoco.MjModel.from_xml_string(SCENE)
    return SceneView(np.zeros(model.nq), model.body_pos, model.body_quat, model.site_rgba)


@pytest.mark.parametrize("quality", ["full", "fast"])
def test_image_is_the_raw_one_turned_by_180_degrees_without_collision_geoms(
    quality: str, model_file: Path, view: SceneView
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


def test_images_larger_than_the_default_buffer(model_file: Path, view: SceneView) -> None:
    renderer = CameraRenderer(model_file, 700, ["above"])
    assert renderer.render("above", view).shape == (700, 700, 3)
    renderer.close()


def test_a_closed_renderer_says_so(model_file: Path, view: SceneView) -> None:
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
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)
    monkeypatch.setattr(render, "_pool", render._Pool())
    monkeypatch.setattr(opengl.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(RenderingError, match=r"libegl1 libgl1-mesa-dri.*libosmesa6"):
        CameraRenderer(model_file, 32, ["above"])


def test_renderers_of_one_scene_share_its_memory_and_do_not_mix_their_views(model_file: Path, view: SceneView) -> None:
    first, second = (CameraRenderer(model_file, 32, ["above"]) for _ in range(2))
    assert first._scene is second._scene
    moved = SceneView(view.qpos, view.body_pos + 0.1, view.body_quat, view.site_rgba)
    before = first.render("above", view)
    second.render("above", moved)
    np.testing.assert_array_equal(first.render("above", view), before)
    first.close()
    np.testing.assert_array_equal(second.render("above", view), before)
    second.close()


def test_renderers_of_many_scenes_can_be_closed(
    tmp_path: Path, view: SceneView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "_pool", render._Pool())
    files = [tmp_path / f"{i}.mjb" for i in range(4)]
    for file in files:
        mujoco.mj_saveModel(mujoco.MjModel.from_xml_string(SCENE), str(file), None)
    for renderer in [CameraRenderer(file, 16, ["above"]) for file in files]:
        renderer.close()
    assert not render._pool._scenes


def test_threads_render_the_same_pixels(model_file: Path, view: SceneView) -> None:
    def draw(_: int) -> np.ndarray:
        renderer = CameraRenderer(model_file, 32, ["above"])
        images = [renderer.render("above", view) for _ in range(5)]
        renderer.close()
        return np.stack(images)

    expected = draw(0)
    with ThreadPoolExecutor(2) as executor:
        for images in executor.map(draw, range(4)):
            np.testing.assert_array_equal(images, expected)


def damaged(folder: Path) -> Path:
    folder.mkdir(parents=True)
    file = folder / "scene.mjb"
    file.write_bytes(b"not a model")
    return file


def test_a_damaged_model_is_removed_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path))
    file = damaged(tmp_path / "scenes" / "models")
    with pytest.raises(RenderingError, match=r"scene\.mjb is damaged \(.*It has been removed from the cache; make the"):
        CameraRenderer(file, 32, ["above"])
    assert not file.exists()


def test_a_damaged_model_stays_in_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError("read-only")

    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path))
    file = damaged(tmp_path / "scenes" / "models")
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(RenderingError, match=r"scene\.mjb is damaged \(.*Remove it; make the environment again"):
        CameraRenderer(file, 32, ["above"])


@pytest.mark.parametrize("way", ["itself", "link", "cache"])
def test_nothing_is_removed_from_a_folder_that_the_user_named(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = tmp_path / "scenes"
    file = damaged(scenes / "models")
    (tmp_path / "link").symlink_to(scenes)
    monkeypatch.setenv("VLA_GYM_SCENES", str(tmp_path / "link" if way == "link" else scenes))
    if way == "cache":
        monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path))
    with pytest.raises(RenderingError, match=r"VLA_GYM_SCENES names.*vla-rl assets import FILE --into FOLDER"):
        CameraRenderer(file, 32, ["above"])
    assert file.exists()


def test_a_damaged_model_from_elsewhere_stays(tmp_path: Path) -> None:
    file = damaged(tmp_path / "models")
    with pytest.raises(RenderingError, match=r"scene\.mjb is damaged \(.*Remove it"):
        CameraRenderer(file, 32, ["above"])
    assert file.exists()


def test_an_image_may_be_drawn_in_another_thread_than_the_renderers_own(model_file: Path, view: SceneView) -> None:
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        renderer = first.submit(CameraRenderer, model_file, 32, ["above"]).result()
        images = [pool.submit(renderer.render, "above", view).result() for pool in (first, second, first)]
        images.append(renderer.render("above", view))
        second.submit(renderer.close).result()
    for image in images[1:]:
        np.testing.assert_array_equal(image, images[0])


def test_a_process_forked_after_rendering_is_told_what_to_do(model_file: Path, view: SceneView) -> None:
    renderer = CameraRenderer(model_file, 32, ["above"])
    expected = renderer.render("above", view)
    reader, writer = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        for attempt in (lambda: renderer.render("above", view), lambda: CameraRenderer(model_file, 32, ["above"])):
            try:
                attempt()
            except RenderingError as error:
                writer.send(str(error))
        renderer.close()
        writer.send("closed")

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    try:
        messages = [reader.recv() if reader.poll(20) else "the child hangs" for _ in range(3)]
    finally:
        child.kill()
        child.join()
    assert all("was forked from one that has rendered" in text and "'forkserver'" in text for text in messages[:2])
    assert messages[2] == "closed"
    np.testing.assert_array_equal(renderer.render("above", view), expected)
    renderer.close()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MUJOCO_EGL_DEVICE_ID": "7"}, "MUJOCO_EGL_DEVICE_ID is '7'; expected a number from 0 to 1 .* Unset it"),
        ({"MUJOCO_EGL_DEVICE_ID": "-1"}, "MUJOCO_EGL_DEVICE_ID is '-1'; expected a number"),
        ({"MUJOCO_EGL_DEVICE_ID": ""}, "MUJOCO_EGL_DEVICE_ID is ''; expected a number"),
        ({"MUJOCO_EGL_DEVICE_ID": "cuda:0"}, "MUJOCO_EGL_DEVICE_ID is 'cuda:0'; expected a number"),
        ({"PYOPENGL_PLATFORM": "osmesa"}, "PYOPENGL_PLATFORM=osmesa asks for it. Unset PYOPENGL_PLATFORM"),
        ({"MUJOCO_GL": "osmesa"}, "MUJOCO_GL=osmesa asks for it. Unset MUJOCO_GL"),
        ({"PYOPENGL_PLATFORM": "glx"}, "PYOPENGL_PLATFORM is 'glx', but images are rendered with 'egl'. Unset"),
        ({"PYOPENGL_PLATFORM": "osmesa", "MUJOCO_GL": "egl"}, "PYOPENGL_PLATFORM is 'osmesa', but .* 'egl'"),
    ],
)
def test_variables_that_keep_opengl_from_starting_are_named(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(opengl, "egl_device_count", lambda: 2)
    monkeypatch.setattr(opengl.ctypes.util, "find_library", lambda name: "libEGL.so.1" if name == "EGL" else None)
    with pytest.raises(RenderingError, match=message):
        opengl.make_context(32, 32)


def test_a_context_that_cannot_be_made_leaves_no_second_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    egl = pytest.importorskip("mujoco.egl")

    def fail(*args: object) -> None:
        raise RuntimeError("no such display")

    for name in ("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(egl.EGL, "eglChooseConfig", fail)
    monkeypatch.setattr(egl, "EGL_DISPLAY", object())
    with pytest.raises(RenderingError, match=r"'egl' cannot be started \(no such display\)"):
        opengl.make_context(32, 32)
    gc.collect()
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_sixteen_threads_that_open_draw_and_close_get_the_right_pixels(model_file: Path, view: SceneView) -> None:
    renderer = CameraRenderer(model_file, 16, ["above"])
    expected = renderer.render("above", view)
    renderer.close()

    def draw(_: int) -> bool:
        renderer = CameraRenderer(model_file, 16, ["above"])
        is_right = all(np.array_equal(renderer.render("above", view), expected) for _ in range(20))
        renderer.close()
        return is_right

    with ThreadPoolExecutor(16) as executor:
        assert all(executor.map(draw, range(64)))
