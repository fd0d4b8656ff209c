"""
Camera images of a simulation.

``mujoco.Renderer`` takes its OpenGL back end from ``MUJOCO_GL`` at the first import of mujoco, whoever that was, and
falls back on a window system. This renderer makes the same calls, but chooses an off-screen back end when it is needed:
EGL, or OSMesa where there is no EGL; ``MUJOCO_GL=egl|osmesa`` overrides the choice.

Compiled render models are large. A process loads each once, and each thread sends it to OpenGL once per image size,
however many environments show it. The model has cameras, joints and bodies like the simulated one, and is posed anew
for each image.
"""

from __future__ import annotations

import atexit
import ctypes.util
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from vla_gym.errors import RenderingError, UnknownNameError
from vla_gym.sim.core import View
from vla_gym.tasks.registry import COLLISION_GROUP, RENDER_QUALITIES, VISUAL_GROUP
from vla_gym.type_aliases import UInt8Array

_MAX_GEOMS = 10_000
_MAX_SPARES = 2
"""Scenes that a thread with open renderers keeps ready although none shows them; environments come back to scenes."""
_REMEDY = (
    "Install one: 'apt-get install libegl1 libgl1-mesa-dri' (EGL, software or GPU) or 'apt-get install libosmesa6' "
    "(OSMesa, CPU only); MUJOCO_GL=egl or MUJOCO_GL=osmesa selects it."
)


class CameraRenderer:
    """
    Renders square images from the cameras of a scene; belongs to the thread that makes it.

    :param model_file: compiled render model
    :param image_size: height and width (px)
    :param cameras: names of cameras in the scene
    :param quality: ``full`` as upstream renders, or ``fast`` without shadows and reflections
    :raises UnknownNameError: if the quality is unknown
    :raises RenderingError: if the model cannot be read or no OpenGL back end can be started
    """

    def __init__(self, model_file: Path, image_size: int, cameras: Sequence[str], quality: str = "full") -> None:
        if quality not in RENDER_QUALITIES:
            raise UnknownNameError("render_quality", quality, RENDER_QUALITIES)
        self._size = image_size
        self._has_effects = quality == "full"
        self._viewport = mujoco.MjrRect(0, 0, image_size, image_size)
        self._scene: _GLScene | None = _pool.acquire(model_file, image_size)
        self._cameras = {name: _fixed_camera(self._scene.stage.model, name) for name in cameras}

    def render(self, camera: str, view: View) -> UInt8Array:
        """
        Image as the policy sees it: the raw OpenGL image rotated by 180 degrees.

        :param camera: one of the cameras
        :param view: what to show
        :return: (size, size, 3) uint8
        :raises RenderingError: if the renderer is closed
        """
        if self._scene is None:
            raise RenderingError("The renderer is closed; make the environment anew.")
        scene = self._scene
        scene.stage.show(view, self._cameras[camera], scene.visible)
        for effect in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            scene.visible.flags[effect] = self._has_effects
        raw = np.empty((self._size, self._size, 3), dtype=np.uint8)
        scene.make_current()
        mujoco.mjr_render(self._viewport, scene.visible, scene.buffers)
        mujoco.mjr_readPixels(raw, None, self._viewport, scene.buffers)
        return np.ascontiguousarray(raw[::-1, ::-1])

    def device(self) -> str:
        """
        Name that OpenGL gives what it draws with, e.g. ``llvmpipe (...)`` for a CPU or the name of a graphics card.

        :raises RenderingError: if the renderer is closed
        """
        if self._scene is None:
            raise RenderingError("The renderer is closed; make the environment anew.")
        self._scene.make_current()
        # imported here because PyOpenGL commits to the back end that is in use at its first import
        from OpenGL import GL

        return str(GL.glGetString(GL.GL_RENDERER).decode(errors="replace"))

    def close(self) -> None:
        """Give the scene back; a second call does nothing."""
        if self._scene is not None:
            _pool.release(self._scene)
            self._scene = None


class _Stage:
    """A render model of this process and the state it is posed in; threads take turns."""

    def __init__(self, model_file: Path) -> None:
        try:
            self.model = mujoco.MjModel.from_binary_path(str(model_file))
        except ValueError as error:
            model_file.unlink(missing_ok=True)
            raise RenderingError(
                f"The render model {model_file} was damaged ({error}) and has been removed; make the environment again "
                "to rebuild it."
            ) from error
        self.data = mujoco.MjData(self.model)
        self.lock = threading.Lock()
        self._options = mujoco.MjvOption()
        self._options.geomgroup[COLLISION_GROUP] = 0
        self._options.geomgroup[VISUAL_GROUP] = 1

    def show(self, view: View, camera: mujoco.MjvCamera, visible: mujoco.MjvScene) -> None:
        """Pose the model and list what the camera sees in ``visible``."""
        with self.lock:
            self.model.body_pos[:], self.model.body_quat[:] = view.body_pos, view.body_quat
            self.model.site_rgba[:] = view.site_rgba
            self.data.qpos[:] = view.qpos
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_camlight(self.model, self.data)
            everything = mujoco.mjtCatBit.mjCAT_ALL.value
            mujoco.mjv_updateScene(self.model, self.data, self._options, None, camera, everything, visible)


class _GLScene:
    """A stage in the OpenGL memory of one thread, for one image size."""

    def __init__(self, stage: _Stage, context: Any, image_size: int) -> None:
        self.stage = stage
        self.thread = threading.get_ident()
        self.users = 0
        self._context = context
        context.make_current()
        with stage.lock:
            for name in ("offwidth", "offheight"):
                setattr(stage.model.vis.global_, name, max(getattr(stage.model.vis.global_, name), image_size))
            self.buffers = mujoco.MjrContext(stage.model, mujoco.mjtFontScale.mjFONTSCALE_150)
            self.visible = mujoco.MjvScene(stage.model, maxgeom=_MAX_GEOMS)

    def make_current(self) -> None:
        self._context.make_current()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.buffers)

    def free(self) -> None:
        self._context.make_current()
        self.buffers.free()


class _Pool:
    """Stages of this process and OpenGL scenes of its threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._contexts: dict[int, Any] = {}
        self._scenes: dict[tuple[int, Path, int], _GLScene] = {}  # least recently released first

    def acquire(self, model_file: Path, image_size: int) -> _GLScene:
        thread = threading.get_ident()
        key = (thread, model_file, image_size)
        with self._lock:
            if key not in self._scenes:
                context = self._contexts.get(thread) or _gl_context_class()(image_size, image_size)
                if not self._contexts:
                    # registered after mujoco's own exit handler, so that it runs before that one ends EGL
                    atexit.unregister(self.free_all)
                    atexit.register(self.free_all)
                self._contexts[thread] = context
                self._scenes[key] = _GLScene(self._stage(model_file), context, image_size)
            scene = self._scenes[key]
            scene.users += 1
            return scene

    def release(self, scene: _GLScene) -> None:
        with self._lock:
            scene.users -= 1
            key = next(key for key, value in self._scenes.items() if value is scene)
            self._scenes[key] = self._scenes.pop(key)
            if threading.get_ident() != scene.thread:
                return  # its memory can only be freed by its own thread
            own = {key: value for key, value in self._scenes.items() if key[0] == scene.thread}
            spares = [key for key, value in own.items() if not value.users]
            is_done = len(spares) == len(own)
            for key in spares if is_done else spares[:-_MAX_SPARES]:
                self._scenes.pop(key).free()
            if is_done:
                self._contexts.pop(scene.thread).free()

    def free_all(self) -> None:
        with self._lock:
            thread = threading.get_ident()
            for scene in self._scenes.values():
                if scene.thread == thread:
                    scene.free()
            for context in self._contexts.values():
                context.free()
            self._contexts.clear()

    def _stage(self, model_file: Path) -> _Stage:
        for (_, file, _), scene in self._scenes.items():
            if file == model_file:
                return scene.stage
        return _Stage(model_file)


_pool = _Pool()


def _fixed_camera(model: mujoco.MjModel, name: str) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = model.camera(name).id
    return camera


def gl_backend() -> str:
    """
    Name of the OpenGL back end that images are rendered with: ``egl`` or ``osmesa``.

    :raises RenderingError: if neither is installed
    """
    choice = os.environ.get("MUJOCO_GL", "").strip().lower()
    if choice not in ("egl", "osmesa"):
        # PyOpenGL commits to a platform at its first import, so the choice is made before
        choice = "egl" if ctypes.util.find_library("EGL") else "osmesa"
    if choice == "osmesa" and not ctypes.util.find_library("OSMesa"):
        raise RenderingError(
            f"Rendering needs an off-screen OpenGL library; neither EGL nor OSMesa was found. {_REMEDY}"
        )
    return choice


def _gl_context_class() -> Any:
    choice = gl_backend()
    try:
        if choice == "egl":
            from mujoco.egl import GLContext
        else:
            from mujoco.osmesa import GLContext
    except Exception as error:  # PyOpenGL raises what it likes when a library is missing or unusable
        raise RenderingError(f"The OpenGL back end {choice!r} cannot be loaded ({error}). {_REMEDY}") from error

    def create(width: int, height: int) -> Any:
        try:
            return GLContext(width, height)
        except Exception as error:
            raise RenderingError(f"The OpenGL back end {choice!r} cannot be started ({error}). {_REMEDY}") from error

    return create
