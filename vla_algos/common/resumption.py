"""What a run needs beside its weights to go on with the same bits."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch as th


def generator_states() -> dict[str, Any]:
    """States of the generators of Python, NumPy and torch; what :func:`restore_generators` takes."""
    states: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": th.get_rng_state()}
    if th.cuda.is_available():
        states["cuda"] = th.cuda.get_rng_state_all()
    return states


def restore_generators(states: dict[str, Any]) -> None:
    """
    Put the generators back.

    :param states: as :func:`generator_states` gave them; those of GPUs that are not there are left out
    """
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    th.set_rng_state(states["torch"])
    for device, state in enumerate(states.get("cuda", [])[: th.cuda.device_count()]):
        th.cuda.set_rng_state(state, device)
