"""Where the result of a model comes from: what ``vla_gym.provenance`` says, and the hardware as torch sees it."""

from __future__ import annotations

from typing import Any

import torch as th

from vla_algos.common.devices import has_native_bf16
from vla_gym.processors import NOTEWORTHY_FLAGS, available_cpus, processor_flags, processor_name
from vla_gym.provenance import commit, versions


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
