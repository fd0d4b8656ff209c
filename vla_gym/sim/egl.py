"""List EGL devices through the driver library, without creating displays or contexts."""

from __future__ import annotations

import ctypes
import os
from typing import Any

_EGL_EXTENSIONS = 0x3055
_EGL_CUDA_DEVICE_NV = 0x323A
_SOFTWARE = b"EGL_MESA_device_software"
# mujoco considers no more than these
_MAX_DEVICES = 10


def egl_device_count() -> int:
    """Count EGL devices, software renderers included; 0 if there is no EGL."""
    return len(_query_devices()[1])


def egl_device_ids() -> list[int]:
    """
    List the devices to spread rendering over, as ``MUJOCO_EGL_DEVICE_ID`` counts them.

    These are the graphics cards, or the software renderers if there are none. Of several cards, those in
    ``CUDA_VISIBLE_DEVICES`` count (matched by their CUDA numbers, which the driver knows).

    :return: device numbers, empty if there is no EGL
    """
    get, devices = _query_devices()
    if not devices:
        return []
    query_string = _function(get, "eglQueryDeviceStringEXT", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)
    if query_string is None:
        return list(range(len(devices)))
    extensions = [(query_string(device, _EGL_EXTENSIONS) or b"").split() for device in devices]
    hardware = [i for i, names in enumerate(extensions) if _SOFTWARE not in names]
    visible = _visible_cuda_devices()
    if visible is not None:
        chosen = [i for i in hardware if _cuda_number(get, devices[i]) in visible]
        hardware = chosen or hardware
    return hardware or list(range(len(devices)))


def choose_egl_device(index: int) -> None:
    """
    Let this process render on EGL device ``index`` modulo their number; call it before the first image.

    It has no effect if ``MUJOCO_EGL_DEVICE_ID`` is already set or there is a single device.

    :param index: number of the environment that runs here
    """
    if "MUJOCO_EGL_DEVICE_ID" in os.environ:
        return
    if egl_device_count() > 1:
        devices = egl_device_ids()
        os.environ["MUJOCO_EGL_DEVICE_ID"] = str(devices[index % len(devices)])


def _query_devices() -> tuple[Any, list[ctypes.c_void_p]]:
    """Return the library's function look-up and its devices."""
    try:
        get = ctypes.CDLL("libEGL.so.1").eglGetProcAddress
    except (OSError, AttributeError):
        return None, []
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    query = _function(get, "eglQueryDevicesEXT", ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    if query is None:
        return get, []
    found, count = (ctypes.c_void_p * _MAX_DEVICES)(), ctypes.c_int(0)
    if not query(_MAX_DEVICES, found, ctypes.byref(count)):
        return get, []
    return get, [ctypes.c_void_p(found[i]) for i in range(count.value)]


def _function(get: Any, name: str, result: Any, *arguments: Any) -> Any:
    address = get(name.encode())
    return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None


def _cuda_number(get: Any, device: ctypes.c_void_p) -> int | None:
    query = _function(get, "eglQueryDeviceAttribEXT", ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    number = ctypes.c_ssize_t(-1)
    if query is None or not query(device, _EGL_CUDA_DEVICE_NV, ctypes.byref(number)):
        return None
    return number.value


def _visible_cuda_devices() -> set[int] | None:
    """Return the numbers in ``CUDA_VISIBLE_DEVICES``; None if it is unset, or names devices otherwise."""
    try:
        return {int(part) for part in os.environ["CUDA_VISIBLE_DEVICES"].split(",")}
    except (KeyError, ValueError):
        return None
