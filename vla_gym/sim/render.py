"""
Camera images of a simulation.

``mujoco.Renderer`` takes its OpenGL back end from ``MUJOCO_GL`` at the first import of mujoco, whoever that was, and
falls back on a window system. This renderer makes the same calls, but chooses an off-screen back end when it is needed:
EGL, or OSMesa where there is no EGL; ``MUJOCO_GL=egl|osmesa`` overrides the choice.
"""

from __future__ import annotations

import atexit
import ctypes.util
import os
import weakref
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from vla_gym.errors import RenderingError, UnknownNameError
from vla_gym.type_aliases import UInt8Array

RENDER_QUALITIES = ("full", "fast")
_MAX_GEOMS = 10_000
_open_renderers: weakref.WeakSet[CameraRenderer] = weakref.WeakSet()
_REMEDY = (
    "Install one: 'apt-get install libegl1 libgl1-mesa-dri' (EGL, software or GPU) or 'apt-get install libosmesa6' "
    "(OSMesa, CPU only); MUJOCO_GL=egl or MUJOCO_GL=osmesa selects it."
)


class CameraRenderer:
    """
    Renders square images from the cameras of a scene.

    ``observe`` notes where everything is, ``render`` draws it; the simulation may have moved on in between.

    :param model: compiled scene
    :param image_size: height and width (px)
    :param cameras: names of cameras in the scene
    :param quality: ``full`` as upstream renders, or ``fast`` without shadows, reflections and multisampling
    :raises UnknownNameError: if the quality is unknown
    :raises RenderingError: if no OpenGL back end can be started
    """

    def __init__(self, model: mujoco.MjModel, image_size: int, cameras: Sequence[str], quality: str = "full") -> None:
        if quality not in RENDER_QUALITIES:
            raise UnknownNameError("render_quality", quality, RENDER_QUALITIES)
        self._model = model
        self._size = image_size
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, image_size)
        model.vis.global_.offheight = max(model.vis.global_.offheight, image_size)
        if quality == "fast":
            # coarser tessellation of boxes, cylinders and spheres; no multisampling
            model.vis.quality.offsamples = 0
            model.vis.quality.numquads = 1
            model.vis.quality.numslices = 14
            model.vis.quality.numstacks = 8
        self._context: Any = _gl_context_class()(image_size, image_size)
        if not _open_renderers:
            # registered after mujoco's own exit handler, so that it runs before that one ends EGL
            atexit.unregister(_close_all)
            atexit.register(_close_all)
        _open_renderers.add(self)
        self._context.make_current()
        self._buffers: Any = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._buffers)
        self._options = mujoco.MjvOption()
        # group 0 holds collision geoms, group 1 what is meant to be seen
        self._options.geomgroup[0] = 0
        self._options.geomgroup[1] = 1
        self._viewport = mujoco.MjrRect(0, 0, image_size, image_size)
        self._views = {name: _fixed_camera(model, name) for name in cameras}
        self._scenes = {name: _scene(model, quality) for name in cameras}

    def observe(self, data: mujoco.MjData) -> None:
        """
        Note the poses of everything in view.

        :param data: simulation state with poses computed
        """
        for name, scene in self._scenes.items():
            everything = mujoco.mjtCatBit.mjCAT_ALL.value
            mujoco.mjv_updateScene(self._model, data, self._options, None, self._views[name], everything, scene)

    def render(self, camera: str) -> UInt8Array:
        """
        Image of what was last observed, as the policy sees it: the raw OpenGL image rotated by 180 degrees.

        :param camera: one of the cameras
        :return: (size, size, 3) uint8
        """
        if self._buffers is None:
            raise RenderingError("The renderer is closed; make the environment anew.")
        self._context.make_current()
        raw = np.empty((self._size, self._size, 3), dtype=np.uint8)
        mujoco.mjr_render(self._viewport, self._scenes[camera], self._buffers)
        mujoco.mjr_readPixels(raw, None, self._viewport, self._buffers)
        return np.ascontiguousarray(raw[::-1, ::-1])

    def close(self) -> None:
        """Free the OpenGL resources; a second call does nothing."""
        if self._buffers is not None:
            self._context.make_current()
            self._buffers.free()
            self._buffers = None
            self._context.free()
            _open_renderers.discard(self)


def _close_all() -> None:
    for renderer in list(_open_renderers):
        renderer.close()


def _fixed_camera(model: mujoco.MjModel, name: str) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = model.camera(name).id
    return camera


def _scene(model: mujoco.MjModel, quality: str) -> mujoco.MjvScene:
    scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
    if quality == "fast":
        scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    return scene


def _gl_context_class() -> Any:
    choice = os.environ.get("MUJOCO_GL", "").strip().lower()
    if choice not in ("egl", "osmesa"):
        # PyOpenGL commits to a platform at its first import, so the choice is made before
        choice = "egl" if ctypes.util.find_library("EGL") else "osmesa"
    if choice == "osmesa" and not ctypes.util.find_library("OSMesa"):
        raise RenderingError(
            f"Rendering needs an off-screen OpenGL library; neither EGL nor OSMesa was found. {_REMEDY}"
        )
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
