"""
Read LIBERO's initial states (pickles in zip archives) without executing anything that a pickle requests.

- Names in the pickle resolve to the classes below, never to NumPy's, so that a file cannot allocate more than it
  contains.
- The pure-Python unpickler reads it: the C one allocates memory for as many objects as a file declares.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vla_gym.errors import InitStatesError
from vla_gym.files import named_errors, read_bounded
from vla_gym.type_aliases import Float64Array

MAX_BYTES = 64 * 2**20
"""Largest archive and largest pickle in it; LIBERO's have 40 kB."""
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class _DType:
    """A pickled ``numpy.dtype``."""

    def __init__(self, name: str, *_: object) -> None:
        self._name = name
        self._byte_order: Any = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._byte_order = state[1]

    def resolve(self) -> np.dtype[Any]:
        return np.dtype(self._name).newbyteorder(self._byte_order)


class _Array:
    """A pickled ``numpy.ndarray``."""

    def __init__(self, *_: object) -> None:
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._state = state

    def resolve(self) -> np.ndarray[Any, Any]:
        _, shape, dtype, is_fortran, content = self._state
        if not isinstance(dtype, _DType) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("the array does not hold plain numbers")
        return np.frombuffer(content, dtype.resolve()).reshape(shape, order="F" if is_fortran else "C")


def _encoded(text: str, encoding: str) -> bytes:
    """Encode bytes as protocol 2 does."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"refused to encode with {encoding}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _encoded,
}


class _ArrayUnpickler(pickle._Unpickler):
    """Resolve the names that a pickled array of numbers needs, and refuse all others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}")
        return _ALLOWED[module, name]


def read_init_states(path: Path) -> Float64Array:
    """
    Read the initial states of one task.

    :param path: a ``.pruned_init`` file as LIBERO ships it
    :return: (n, 1 + nq + nv) float64: time (s), qpos, qvel
    :raises InitStatesError: if the file is missing, damaged, too large, holds anything but numbers, or has another
        layout
    """
    expected = f"{path}: expected a LIBERO initial-state archive. Reinstall it: pip install --force-reinstall hf-libero"
    with named_errors(InitStatesError, expected):
        content = _ArrayUnpickler(io.BytesIO(_pickle_in(read_bounded(path, MAX_BYTES)))).load()
        states = content.resolve() if isinstance(content, _Array) else content
    if not isinstance(states, np.ndarray) or states.ndim != 2 or states.dtype.kind != "f" or not states.size:
        found = f"{states.dtype} {states.shape}" if isinstance(states, np.ndarray) else type(states).__name__
        raise InitStatesError(f"{path}: expected a two-dimensional array of floats, got {found}.")
    if not np.isfinite(states).all():
        raise InitStatesError(f"{path}: contains values that are not finite. Reinstall hf-libero.")
    return states.astype(np.float64)


def _pickle_in(content: bytes) -> bytes:
    """Read an archive's only pickle: bounded in size, stored or deflated, as LZMA allocates what it declares."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith("data.pkl")]
        if len(members) != 1:
            raise ValueError(f"{len(members)} members named data.pkl; expected one")
        if members[0].compress_type not in _COMPRESSIONS:
            raise ValueError(f"compression {members[0].compress_type}; expected stored or deflated")
        with archive.open(members[0]) as file:
            pickled = file.read(MAX_BYTES + 1)
    if len(pickled) > MAX_BYTES:
        raise ValueError(f"the pickle unpacks to more than {MAX_BYTES} bytes")
    return pickled
