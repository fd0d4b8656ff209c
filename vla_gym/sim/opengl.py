"""Choose an off-screen OpenGL back end and create contexts, with errors that name the remedy."""

from __future__ import annotations

import ctypes.util
import os
import sys
from typing import Any

from vla_gym.errors import RenderingError
from vla_gym.processors import available_cpus
from vla_gym.sim.egl import choose_egl_device, egl_device_count

BACKENDS = ("egl", "osmesa")
_INSTALL = (
    "Install one: 'apt-get install libegl1 libgl1-mesa-dri' (EGL, software or GPU) or 'apt-get install libosmesa6' "
    "(OSMesa, CPU only); MUJOCO_GL=egl or MUJOCO_GL=osmesa selects it."
)


def gl_backend() -> str:
    """
    Name the OpenGL back end that images are rendered with: ``egl`` or ``osmesa``.

    ``MUJOCO_GL`` decides, then ``PYOPENGL_PLATFORM``, then what is installed.

    :raises RenderingError: if neither is installed, or the variables contradict each other
    """
    choice = os.environ.get("MUJOCO_GL", "").strip().lower()
    platform = os.environ.get("PYOPENGL_PLATFORM", "").strip().lower()
    reason = f"MUJOCO_GL={choice} asks for it"
    if choice not in BACKENDS:
        if platform in BACKENDS:
            choice, reason = platform, f"PYOPENGL_PLATFORM={platform} asks for it"
        else:
            # PyOpenGL commits to a platform at its first import, so choose before that
            choice = "egl" if ctypes.util.find_library("EGL") else "osmesa"
            reason = "there is no EGL either"
    if platform and platform != choice:
        raise RenderingError(
            f"PYOPENGL_PLATFORM is {platform!r}, but images are rendered with {choice!r}. Unset PYOPENGL_PLATFORM, or "
            f"set it to {choice!r}."
        )
    if choice == "osmesa" and not ctypes.util.find_library("OSMesa"):
        unset = f"Unset {reason.split('=')[0]} to let EGL be found, or install OSMesa. " if "=" in reason else ""
        raise RenderingError(
            "Rendering needs an off-screen OpenGL library, EGL or OSMesa. OSMesa was not found, and "
            f"{reason}. {unset}{_INSTALL}"
        )
    return choice


def make_context(width: int, height: int) -> Any:
    """
    Create an OpenGL context for the calling thread.

    :param width: width of the images (px)
    :param height: height of the images (px)
    :return: MuJoCo's ``GLContext``
    :raises RenderingError: if the back end cannot be loaded or started
    """
    choice = gl_backend()
    if choice == "egl":
        _check_egl_device()
    _check_loaded_platform(choice)
    try:
        if choice == "egl":
            from mujoco.egl import GLContext
        else:
            from mujoco.osmesa import GLContext
    except Exception as error:  # PyOpenGL raises what it likes when a library is missing or unusable
        raise RenderingError(f"The OpenGL back end {choice!r} cannot be loaded ({error}). {_INSTALL}") from error

    # GLContext.__del__ reads these, and would raise again for a context that was never created
    context_class = type("Context", (GLContext,), {"_context": None, "_buffer": None})
    try:
        return context_class(width, height)
    except Exception as error:
        raise RenderingError(f"The OpenGL back end {choice!r} cannot be started ({error}). {_INSTALL}") from error


def _check_egl_device() -> None:
    value = os.environ.get("MUJOCO_EGL_DEVICE_ID")
    if value is None:
        return
    count = egl_device_count()
    if count == 0:
        raise RenderingError(f"MUJOCO_EGL_DEVICE_ID is {value!r}, but EGL finds no device on this machine. {_INSTALL}")
    if not value.strip().isdecimal() or int(value) >= count:
        valid = "0, the only EGL device" if count == 1 else f"a number from 0 to {count - 1}"
        raise RenderingError(
            f"MUJOCO_EGL_DEVICE_ID is {value!r}; expected {valid} of this machine. Unset it to take the first device "
            "that works."
        )


def _check_loaded_platform(choice: str) -> None:
    """Refuse a PyOpenGL that was imported for another platform: it would call another library."""
    module = sys.modules.get("OpenGL.platform")
    loaded = type(module.PLATFORM).__name__.removesuffix("Platform").lower() if module else choice  # type: ignore[attr-defined]
    if loaded != choice:
        raise RenderingError(
            f"PyOpenGL was imported with platform {loaded!r}; images are rendered with {choice!r}. Set "
            f"PYOPENGL_PLATFORM={choice} before the program imports OpenGL."
        )


def share_out_rendering(index: int, n_processes: int) -> None:
    """
    Share graphics cards and cores among rendering processes; call it in each before its first image.

    :param index: number of this process
    :param n_processes: how many there are
    """
    choose_egl_device(index)
    # a software renderer starts as many threads as there are cores
    share = available_cpus() // n_processes
    # 0: Mesa's llvmpipe draws in the calling thread, which is faster than one extra thread on a single core
    os.environ.setdefault("LP_NUM_THREADS", str(share if share > 1 else 0))
