"""
Camera images of a simulation.

``mujoco.Renderer`` reads its OpenGL back end from ``MUJOCO_GL`` when mujoco is first imported, by whatever module, and
falls back on a window system. This renderer makes the same calls, but chooses an off-screen back end when it first
needs one: EGL, or OSMesa if there is no EGL; ``MUJOCO_GL=egl|osmesa`` overrides the choice.

Compiled render models are large. A process loads each model once and uploads it to OpenGL once per image size, no
matter how many environments show it. The model has the cameras, joints and bodies of the simulated one. For each image
it is posed, and the view's appearance is applied to it. All of this happens in one thread, see
``vla_gym.sim.gl_thread``.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from vla_gym.appearance import Appearance
from vla_gym.assets.foreign import SCENES_VARIABLE, named_scenes
from vla_gym.assets.resolve import scene_cache
from vla_gym.errors import RenderingError, UnknownNameError
from vla_gym.sim.core import SceneView
from vla_gym.sim.gl_thread import GLThread
from vla_gym.sim.opengl import gl_backend as gl_backend
from vla_gym.sim.opengl import make_context
from vla_gym.sim.overrides import Overrides
from vla_gym.tasks.registry import COLLISION_GROUP, RENDER_QUALITIES, VISUAL_GROUP
from vla_gym.type_aliases import UInt8Array

_MAX_GEOMS = 10_000
_MAX_SPARES = 2
"""Unused scenes that are kept while others are open, as environments return to scenes."""


class CameraRenderer:
    """
    Render square images from the cameras of a scene, in any thread.

    :param model_file: compiled render model
    :param image_size: height and width (px)
    :param cameras: names of cameras in the scene
    :param render_quality: ``full`` as upstream renders, or ``fast`` without shadows and reflections
    :raises UnknownNameError: if the quality is unknown
    :raises RenderingError: if the model cannot be read or no OpenGL back end can be started
    """

    def __init__(self, model_file: Path, image_size: int, cameras: Sequence[str], render_quality: str = "full") -> None:
        if render_quality not in RENDER_QUALITIES:
            raise UnknownNameError("render_quality", render_quality, RENDER_QUALITIES)
        self._size = image_size
        self._has_effects = render_quality == "full"
        self._scene: _GLScene | None = _pool.acquire(model_file, image_size)
        self._cameras = {name: _fixed_camera(self._scene.render_model.model, name) for name in cameras}

    def render(self, camera: str, view: SceneView) -> UInt8Array:
        """
        Render an image as the policy sees it: the raw OpenGL image rotated by 180 degrees.

        :param camera: one of the cameras
        :param view: what to show
        :return: (size, size, 3) uint8
        :raises RenderingError: if the renderer is closed, or in a process forked from one that has rendered
        :raises UnknownNameError: if the view's appearance names what the scene does not have
        """
        draw = self._open_scene().draw
        raw = _pool.thread.call(draw, self._cameras[camera], view, self._size, self._has_effects)
        return np.ascontiguousarray(raw[::-1, ::-1])

    def check_appearance(self, appearance: Appearance) -> None:
        """
        Make sure that an appearance can be shown.

        :param appearance: of a view
        :raises UnknownNameError: if it names what the scene does not have
        :raises InvalidArgumentError: for a picture that does not fit the kind of its texture
        :raises RenderingError: if the renderer is closed
        """
        self._open_scene().render_model.overrides.check(appearance)

    def scene_appearance(self) -> Appearance:
        """
        Read the scene's own values of everything that an appearance can override.

        :raises RenderingError: if the renderer is closed, or in a process forked from one that has rendered
        """
        # only the OpenGL thread writes to the model
        return _pool.thread.call(self._open_scene().render_model.overrides.own_appearance)

    def device(self) -> str:
        """
        Return OpenGL's name for the renderer, e.g. ``llvmpipe (...)`` for a CPU, or a graphics card.

        :raises RenderingError: if the renderer is closed, or in a process forked from one that has rendered
        """
        return _pool.thread.call(self._open_scene().device)

    def _open_scene(self) -> _GLScene:
        if self._scene is None:
            raise RenderingError("The renderer is closed; make the environment again.")
        return self._scene

    def close(self) -> None:
        """Release the scene; a second call has no effect."""
        if self._scene is not None:
            scene, self._scene = self._scene, None
            _pool.release(scene)


class _RenderModel:
    """A render model of this process, and the state that poses it."""

    def __init__(self, model_file: Path) -> None:
        try:
            self.model = mujoco.MjModel.from_binary_path(str(model_file))
        except (ValueError, mujoco.FatalError) as error:
            raise RenderingError(
                f"The render model {model_file} is damaged ({error}). {_mended(model_file)}"
            ) from error
        self.data = mujoco.MjData(self.model)
        self.overrides = Overrides(self.model)
        self._options = mujoco.MjvOption()
        self._options.geomgroup[COLLISION_GROUP] = 0
        self._options.geomgroup[VISUAL_GROUP] = 1

    def show(self, view: SceneView, camera: mujoco.MjvCamera, visible: mujoco.MjvScene) -> None:
        """Pose the model and list what the camera sees in ``visible``."""
        self.overrides.apply(view.appearance)
        self.model.body_pos[:], self.model.body_quat[:] = view.body_pos, view.body_quat
        self.model.site_rgba[:] = view.site_rgba
        self.data.qpos[:] = view.qpos
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self.model, self.data, self._options, None, camera, everything, visible)


def _mended(model_file: Path) -> str:
    """Remove a damaged model if it lies in the cache; return what is left to do."""
    named = named_scenes()
    if named is not None and model_file.resolve().is_relative_to(named.resolve()):
        return (
            f"It lies in the folder that {SCENES_VARIABLE} names, where nothing is changed: copy its scenes again, or "
            "import them again (vla-rl assets import FILE --into FOLDER)."
        )
    remedy = "make the environment again to rebuild it, or import its scene again where LIBERO is not installed."
    if model_file.resolve().is_relative_to(scene_cache().resolve()):
        with suppress(OSError):
            model_file.unlink()
            return f"It has been removed from the cache; {remedy}"
    return f"Remove it; {remedy}"


class _GLScene:
    """A render model in OpenGL's memory, for one image size; only the OpenGL thread uses it."""

    def __init__(self, render_model: _RenderModel, context: Any, image_size: int) -> None:
        self.render_model = render_model
        self.users = 0
        self._context = context
        context.make_current()
        buffer = render_model.model.vis.global_
        buffer.offwidth, buffer.offheight = max(buffer.offwidth, image_size), max(buffer.offheight, image_size)
        self.buffers = mujoco.MjrContext(render_model.model, mujoco.mjtFontScale.mjFONTSCALE_150)
        self.visible = mujoco.MjvScene(render_model.model, maxgeom=_MAX_GEOMS)
        # pictures that OpenGL now has in place of the scene's own
        self._pictures: dict[str, UInt8Array] = {}

    def draw(self, camera: mujoco.MjvCamera, view: SceneView, image_size: int, has_effects: bool) -> UInt8Array:
        self.render_model.show(view, camera, self.visible)
        for effect in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self.visible.flags[effect] = has_effects
        raw = np.empty((image_size, image_size, 3), dtype=np.uint8)
        viewport = mujoco.MjrRect(0, 0, image_size, image_size)
        self._context.make_current()
        self._upload({} if view.appearance is None else view.appearance.textures)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.buffers)
        mujoco.mjr_render(viewport, self.visible, self.buffers)
        mujoco.mjr_readPixels(raw, None, viewport, self.buffers)
        return raw

    def _upload(self, pictures: Mapping[str, UInt8Array]) -> None:
        """Upload the textures that differ from what OpenGL has now."""
        overrides = self.render_model.overrides
        for name in {*self._pictures, *pictures}:
            picture = pictures.get(name)
            if picture is not self._pictures.get(name):
                model = overrides.texture_model(name, picture)
                mujoco.mjr_uploadTexture(model, self.buffers, overrides.textures[name])
        self._pictures = dict(pictures)

    def device(self) -> str:
        self._context.make_current()
        # imported here because PyOpenGL commits to a back end at its first import
        from OpenGL import GL

        return str(GL.glGetString(GL.GL_RENDERER).decode(errors="replace"))

    def free(self) -> None:
        self._context.make_current()
        self.buffers.free()


class _Pool:
    """The OpenGL context of this process and the scenes in it."""

    def __init__(self) -> None:
        self.thread = GLThread()
        self._context: Any = None
        self._scenes: dict[tuple[Path, int], _GLScene] = {}  # least recently released first

    def acquire(self, model_file: Path, image_size: int) -> _GLScene:
        """Find or load a scene; ``release`` gives it back."""
        return self.thread.call(self._acquire, model_file, image_size)

    def release(self, scene: _GLScene) -> None:
        """Give a scene back; has no effect if OpenGL has already shut down."""
        if self.thread.is_usable:
            self.thread.call(self._release, scene)

    def shut_down(self) -> None:
        """Free everything when the program ends."""
        if self.thread.is_usable:
            self.thread.call(self._free_all)
            self.thread.stop()

    def note_fork(self) -> None:
        """Leave the parent's OpenGL alone in a forked process: even freeing it would wait for the driver's threads."""
        if self.thread.note_fork():
            atexit.unregister(self.shut_down)
            if (egl := sys.modules.get("mujoco.egl")) is not None:
                atexit.unregister(egl.EGL.eglTerminate)
            if self._context is not None:
                self._context._context = None

    def _acquire(self, model_file: Path, image_size: int) -> _GLScene:
        key = (model_file, image_size)
        if key not in self._scenes:
            render_model = self._render_model(model_file)
            if self._context is None:
                self._context = make_context(image_size, image_size)
                # registered after mujoco's exit handler, so that it runs before that one shuts down EGL
                atexit.unregister(self.shut_down)
                atexit.register(self.shut_down)
            self._scenes[key] = _GLScene(render_model, self._context, image_size)
        scene = self._scenes[key]
        scene.users += 1
        return scene

    def _release(self, scene: _GLScene) -> None:
        scene.users -= 1
        key = next(key for key, value in self._scenes.items() if value is scene)
        self._scenes[key] = self._scenes.pop(key)
        spares = [key for key, value in self._scenes.items() if not value.users]
        if len(spares) == len(self._scenes):
            self._free_all()
            return
        for key in spares[:-_MAX_SPARES]:
            self._scenes.pop(key).free()

    def _free_all(self) -> None:
        for scene in self._scenes.values():
            scene.free()
        self._scenes.clear()
        if self._context is not None:
            self._context.free()
            self._context = None

    def _render_model(self, model_file: Path) -> _RenderModel:
        for (file, _), scene in self._scenes.items():
            if file == model_file:
                return scene.render_model
        return _RenderModel(model_file)


_pool = _Pool()
os.register_at_fork(after_in_child=lambda: _pool.note_fork())


def _fixed_camera(model: mujoco.MjModel, name: str) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = model.camera(name).id
    return camera
