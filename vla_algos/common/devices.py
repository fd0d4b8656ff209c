"""Whether a device is there, and has room."""

from __future__ import annotations

from pathlib import Path

import torch as th

from vla_algos.errors import DeviceError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_GIB = 2**30


def check_device(device: th.device | str) -> th.device:
    """
    A device that can be used.

    :param device: such as "cpu", "cuda" or "cuda:1"
    :return: the device
    :raises DeviceError: if it is not there
    """
    device = th.device(device)
    if device.type == "cuda":
        count = th.cuda.device_count() if th.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"{count} CUDA device(s)" if count else "no CUDA device, or a build of torch without CUDA"
            raise DeviceError(f"{device} was asked for; this machine has {found}. Use device='cpu', or install both.")
    return device


def available_memory(device: th.device) -> int | None:
    """
    Bytes that can be allocated.

    :param device: CPU or CUDA device
    :return: their number; None where it cannot be found out
    """
    if device.type == "cuda":
        unused = th.cuda.memory_reserved(device) - th.cuda.memory_allocated(device)
        return int(th.cuda.mem_get_info(device)[0]) + unused
    if device.type != "cpu" or not _MEMINFO.exists():
        return None
    lines = [line.split() for line in _MEMINFO.read_text().splitlines()]
    free = [int(value) * 1024 for name, value, *_ in lines if name == "MemAvailable:"]
    return min([*free, *_left_in_container()], default=None)


def _left_in_container() -> list[int]:
    """Bytes that a limit on this container leaves; empty without one."""
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return []
    return [] if limit == "max" else [int(limit) - int(used)]


def check_memory(needed: int, device: th.device, what: str) -> None:
    """
    Make sure that something fits.

    :param needed: bytes
    :param device: where it shall go
    :param what: name of it, for the message
    :raises DeviceError: if it does not fit
    """
    available = available_memory(device)
    if available is not None and needed > available:
        raise DeviceError(
            f"{what} needs {needed / _GIB:.1f} GiB on {device}, where {available / _GIB:.1f} GiB are free. Load it "
            "with dtype=torch.bfloat16, on another device, or free some memory."
        )
