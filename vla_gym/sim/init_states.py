"""Reads LIBERO's initial states (pickles inside zip archives) without executing what a pickle asks for."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vla_gym.errors import InitStatesError
from vla_gym.type_aliases import Float64Array

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Resolves the four names a pickled array of numbers needs, and refuses all others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}")
        if module.startswith("numpy.core"):  # numpy 2 moved it; the old path warns
            module = module.replace("numpy.core", "numpy._core") if hasattr(np, "_core") else module
        return super().find_class(module, name)


def read_init_states(path: Path) -> Float64Array:
    """
    Initial states of one task.

    :param path: a ``.pruned_init`` file as LIBERO ships it
    :return: (n, 1 + nq + nv) float64: time (s), qpos, qvel
    :raises InitStatesError: if the file is missing, damaged, holds anything but numbers, or has another layout
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            states = _ArrayUnpickler(io.BytesIO(archive.read(member))).load()
    except (OSError, zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise InitStatesError(
            f"{path}: expected a LIBERO initial-state archive ({error}). Reinstall it: pip install --force-reinstall "
            "hf-libero"
        ) from error
    if not isinstance(states, np.ndarray) or states.ndim != 2 or states.dtype.kind != "f":
        raise InitStatesError(f"{path}: expected a two-dimensional array of floats, got {type(states).__name__}.")
    if not np.isfinite(states).all():
        raise InitStatesError(f"{path}: contains values that are not finite. Reinstall hf-libero.")
    return states.astype(np.float64)
