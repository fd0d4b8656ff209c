"""What a result depends on, and what it cost: versions, hardware, memory."""

from __future__ import annotations

import resource
import sys
from importlib import metadata
from typing import Any

import torch as th

from vla_algos.common.devices import has_native_bf16
from vla_gym.datasets.provenance import commit
from vla_gym.processors import NOTEWORTHY_FLAGS, available_cpus, processor_flags, processor_name

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
    :return: ``versions``, ``commit`` (None where it is unknown), ``hardware`` in words, and ``processor``: its name,
        cores, instruction sets that matter, those that torch uses, and whether it computes in bfloat16
    """
    return {
        "versions": versions(),
        "commit": commit() or None,
        "hardware": hardware(device),
        "processor": {
            "name": processor_name(),
            "cpus": available_cpus(),
            "flags": sorted(processor_flags().intersection(NOTEWORTHY_FLAGS)),
            "torch_capability": th.backends.cpu.get_cpu_capability(),
            "native_bf16": has_native_bf16("cpu"),
        },
    }


def hardware(device: th.device | str) -> str:
    """
    What a model was trained on.

    :param device: of the model
    :return: name of the GPU, or threads, cores and processor
    """
    if th.device(device).type == "cuda":
        return th.cuda.get_device_name(device)
    arithmetic = th.backends.cpu.get_cpu_capability() + (", bfloat16" if has_native_bf16("cpu") else "")
    return f"{th.get_num_threads()} thread(s) on {available_cpus()} core(s) of {processor_name()} ({arithmetic})"


def peak_memory_mb() -> float:
    """Most memory that this process has had so far, megabytes (1e6 bytes)."""
    # kibibytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
