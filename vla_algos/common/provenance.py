"""What a result depends on, and what it cost: versions, hardware, memory."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib import metadata
from typing import Any

import torch as th

from vla_gym.datasets.provenance import commit

_PACKAGES = ("vla-gym", "mujoco", "gymnasium", "numpy", "torch", "transformers", "stable-baselines3")


def versions() -> dict[str, str]:
    """Package -> version, or "not installed"."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def origin(device: th.device | str) -> dict[str, Any]:
    """
    Where a result comes from.

    :param device: of the model
    :return: ``versions``, ``commit`` (None where it is unknown) and ``hardware``
    """
    return {"versions": versions(), "commit": commit() or None, "hardware": hardware(device)}


def hardware(device: th.device | str) -> str:
    """
    What a model was trained on.

    :param device: of the model
    :return: name of the GPU, or threads and processor architecture
    """
    if th.device(device).type == "cuda":
        return th.cuda.get_device_name(device)
    return f"{th.get_num_threads()} thread(s) of a machine with {os.cpu_count()} CPU cores ({platform.machine()})"


def peak_memory_mb() -> float:
    """Most memory that this process has had so far, megabytes (1e6 bytes)."""
    # kibibytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
