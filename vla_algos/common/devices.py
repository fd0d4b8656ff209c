"""Whether a device is there, has room, and computes in bfloat16."""

from __future__ import annotations

import logging
import os
import time
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch as th

from vla_algos.errors import DeviceError, UnknownNameError
from vla_gym.processors import processor_flags, processor_name

if TYPE_CHECKING:
    # it brings Stable-Baselines3 along, which models do without
    from vla_algos.common.type_aliases import UseBF16

logger = logging.getLogger(__name__)

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_GIB = 2**30
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Instruction sets with products in bfloat16, as Linux names them; "bf16" is Arm's."""
_ONEDNN_WITH_BF16 = ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX10", "DEFAULT", "ALL")
"""Values of ONEDNN_MAX_CPU_ISA, or their beginnings, that leave torch's matrix products such instructions."""


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
    :param device: where it is to go
    :param what: name of it, for the message
    :raises DeviceError: if it does not fit
    """
    available = available_memory(device)
    if available is not None and needed > available:
        raise DeviceError(
            f"{what} needs {needed / _GIB:.1f} GiB on {device}, where {available / _GIB:.1f} GiB are free. Load it "
            "with dtype=torch.bfloat16, on another device, or free some memory."
        )


def has_native_bf16(device: th.device | str) -> bool:
    """
    Whether a device multiplies matrices in bfloat16 itself. Where it does not, torch converts number by number: on CPUs
    with AVX2 alone a product then takes some 50 times as long as in float32.

    :param device: CPU or CUDA device; others are taken to have none
    """
    device = th.device(device)
    if device.type == "cuda":
        return th.cuda.is_available() and th.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not th.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    limit = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "DEFAULT").upper()
    return bool(_BF16_FLAGS & processor_flags()) and limit.startswith(_ONEDNN_WITH_BF16)


@lru_cache(maxsize=16)
def computes_in_bf16(use_bf16: UseBF16, device: th.device) -> bool:
    """
    Settle whether passes run under autocast to bfloat16; the choice is logged once.

    :param use_bf16: "auto": where the device computes it natively; True and False are obeyed, True with a warning where
        it is slow
    :param device: of the model
    :raises UnknownNameError: for anything else
    """
    if use_bf16 not in (True, False, "auto"):
        raise UnknownNameError("use_bf16", use_bf16, (True, False, "auto"))
    if not use_bf16:
        return False
    is_native = has_native_bf16(device)
    if use_bf16 == "auto":
        logger.info("use_bf16='auto': computing in %s on %s.", "bfloat16" if is_native else "float32", _name(device))
        return is_native
    if not is_native:
        warnings.warn(
            f"use_bf16=True, but {_name(device)} has no bfloat16 arithmetic: a matrix product takes "
            f"{_bf16_slowdown(device):.0f} times as long as in float32. Pass use_bf16='auto' or False.",
            stacklevel=2,
        )
    return True


def _name(device: th.device) -> str:
    return th.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def _bf16_slowdown(device: th.device) -> float:
    """Time of a product in bfloat16 over that in float32."""

    def seconds(dtype: th.dtype) -> float:
        a = th.ones(256, 256, dtype=dtype, device=device)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            (a @ a)[0, 0].item()
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(th.bfloat16) / seconds(th.float32)
