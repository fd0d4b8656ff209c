"""The processor: its name, its instruction sets, and the number of cores that this process may use."""

from __future__ import annotations

import math
import os
import platform
from functools import lru_cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_CGROUP = Path("/sys/fs/cgroup")
NOTEWORTHY_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "sve")
"""Instruction sets of x86-64 and Arm that decide how fast a model runs, in Linux's spelling."""


@lru_cache(maxsize=1)
def _described() -> dict[str, str]:
    """Read Linux's description of the first processor; empty on other systems."""
    if not _CPUINFO.exists():
        return {}
    first = _CPUINFO.read_text(encoding="utf-8", errors="replace").strip().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def processor_name() -> str:
    """Return the model name if the system knows it, else the architecture."""
    return _described().get("model name") or platform.processor() or platform.machine()


def processor_flags() -> frozenset[str]:
    """Return instruction sets as Linux names them ("avx2", "avx512_bf16", ...); empty on other systems."""
    described = _described()
    return frozenset((described.get("flags") or described.get("features") or "").split())


def available_cpus() -> int:
    """Count the cores that this process may use, given its affinity mask and its container's quota; at least 1."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        allowed = os.cpu_count() or 1
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        if quota != "max":
            allowed = min(allowed, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    return max(1, allowed)
