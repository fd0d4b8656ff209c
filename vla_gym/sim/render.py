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

    :param model: compiled scene
    :param image_size: height and width (px)
    :param quality: ``full`` as upstream renders, or ``fast`` without shadows, reflections and multisampling
    :raises UnknownNameError: if the quality is unknown
    :raises RenderingError: if no OpenGL back end can be started
    """

    def __init__(self, model: mujoco.MjModel, image_size: int, quality: str = "full") -> None:
        if quality not in RENDER_QUALITIES:
            raise UnknownNameError("render_quality", quality, RENDER_QUALITIES)
        self._model = model
        self._size = image_size
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, image_size)
        model.vis.global_.offheight = max(model.vis.global_.offheight, image_size)
        if quality == "fast":
            model.vis.quality.offsamples = 0
        self._context: Any = _gl_context_class()(image_size, image_size)
        if not _open_renderers:
            # registered after mujoco's own exit handler, so that it runs before that one ends EGL
            atexit.unregister(_close_all)
            atexit.register(_close_all)
        _open_renderers.add(self)
        self._context.make_current()
        self._buffers: Any = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._buffers)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        if quality == "fast":
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._options = mujoco.MjvOption()
        # group 0 holds collision geoms, group 1 what is meant to be seen
        self._options.geomgroup[0] = 0
        self._options.geomgroup[1] = 1
        self._viewport = mujoco.MjrRect(0, 0, image_size, image_size)

    def render(self, data: mujoco.MjData, camera: str) -> UInt8Array:
        """
        Image as the policy sees it: the raw OpenGL image rotated by 180 degrees.

        :param data: simulation state
        :param camera: name of a camera in the scene
        :return: (size, size, 3) uint8
        """
        if self._buffers is None:
            raise RenderingError("The renderer is closed; make the environment anew.")
        self._context.make_current()
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = self._model.camera(camera).id
        mujoco.mjv_updateScene(
            self._model, data, self._options, None, view, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        raw = np.empty((self._size, self._size, 3), dtype=np.uint8)
        mujoco.mjr_render(self._viewport, self._scene, self._buffers)
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
