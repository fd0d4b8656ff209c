"""
Read the description of a scene bundle from any source: nothing is unpickled; every size, type and name is checked.

``meta.json`` and ``arrays.npz`` are read whole, within bounds. Their names are compared with the model elsewhere.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from vla_gym.assets.foreign import read_meta
from vla_gym.files import read_bounded
from vla_gym.tasks.goals import JOINT_RULES, SPELLING, Atom
from vla_gym.tasks.registry import N_INIT_STATES
from vla_gym.type_aliases import Float64Array

SCENE_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")
"""Name of a scene: hash of its source, and hash of all else that decides how it is compiled."""
HEADER_BYTES = 1 << 12
MAX_ARRAYS = 1 << 24
"""Largest size of ``arrays.npz``, packed and unpacked (bytes); those of the 130 tasks have about 40,000."""
MAX_ARENA = 1 << 32
"""Largest working memory that a model may request (bytes); LIBERO's request 1.3e9, and use little of it."""
ARRAYS = ("init_states", "fixture_pos", "fixture_quat")
_N_ARM, _N_FINGERS = 7, 2
_LONGEST = 512

_Check = Callable[[Any], bool]


def read_bundle_meta(path: Path) -> dict[str, Any]:
    """
    Read and check a ``meta.json``.

    :param path: the file
    :return: its content: all keys exist, names are strings, numbers are finite
    :raises ValueError: if anything differs; the message names the key
    :raises OSError: if it cannot be read
    """
    meta = read_meta(path)
    for key, is_valid in _META.items():
        if key not in meta:
            raise ValueError(f"{path.name} lacks {key!r}")
        if not is_valid(meta[key]):
            raise ValueError(f"{path.name} has an invalid {key!r}: {_shortened(meta[key])}")
    return meta


def read_arrays(path: Path, n_fixtures: int) -> dict[str, Float64Array]:
    """
    Read and check an ``arrays.npz``.

    :param path: the file
    :param n_fixtures: F
    :return: ``init_states`` (50, n), ``fixture_pos`` (50, F, 3), ``fixture_quat`` (50, F, 4), finite, float64
    :raises ValueError: if an array is missing, of another type or shape, or not finite
    :raises OSError: if the file cannot be read
    """
    data = read_bounded(path, MAX_ARRAYS)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            arrays = {name: _read_array(archive, name) for name in ARRAYS}
    except Exception as error:  # zipfile, its decompressors and numpy's parser of headers raise what they like
        raise ValueError(f"{path.name} cannot be read ({type(error).__name__}: {error})") from error
    states = arrays["init_states"]
    expected = {
        "init_states": (N_INIT_STATES, states.shape[1] if states.ndim == 2 else 1),
        "fixture_pos": (N_INIT_STATES, n_fixtures, 3),
        "fixture_quat": (N_INIT_STATES, n_fixtures, 4),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise ValueError(f"{path.name}: {name} has shape {arrays[name].shape}, expected {shape} finite numbers")
    return arrays


def _read_array(archive: zipfile.ZipFile, name: str) -> Float64Array:
    with archive.open(f"{name}.npy") as member:
        data = member.read(MAX_ARRAYS + 1)
    stream = io.BytesIO(data)
    if len(data) > MAX_ARRAYS or np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{name} is too large, or of another version")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=HEADER_BYTES)
    # trust the declared shape only if as many bytes follow
    if dtype != np.float64 or is_fortran or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"{name} is declared as {dtype} {shape}, which its {len(data)} bytes do not hold")
    return np.frombuffer(data, dtype=np.float64, offset=stream.tell()).reshape(shape).copy()


def check_model_header(path: Path) -> None:
    """
    Make sure that a compiled model is as large as it declares, before MuJoCo allocates that much.

    :param path: ``*.mjb``: five 32-bit numbers (magic number, bytes per float, how many sizes of 32 and of 64 bits
            follow, number of arrays), the sizes of 32 bits, those of 64 bits: working memory, all arrays together
    :raises ValueError: if it is no model, or declares more than it holds
    :raises OSError: if it cannot be read
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    numbers = np.frombuffer(head, dtype="<i4", count=min(5, len(head) // 4))
    if len(numbers) < 5 or numbers[0] != _MAGIC or numbers[1] != 8 or not (0 < numbers[2] < 500 and numbers[3] == 2):
        raise ValueError(f"{path.name} is no compiled model")
    n_sizes, n_arrays = int(numbers[2]), int(numbers[4])
    if len(head) < 20 + 4 * n_sizes + 16 or not 0 < n_arrays < 2000:
        raise ValueError(f"{path.name} is no compiled model")
    largest = int(np.frombuffer(head, dtype="<i4", count=n_sizes, offset=20).max())
    arena, declared = (int(n) for n in np.frombuffer(head, dtype="<i8", count=2, offset=20 + 4 * n_sizes))
    # in memory each array begins at a multiple of 64 bytes
    if not 0 <= declared <= size + 64 * n_arrays or largest > size or not 0 <= arena <= MAX_ARENA:
        raise ValueError(
            f"{path.name} declares {declared:,} and {arena:,} bytes of memory, but is a file of {size:,} bytes"
        )


_MAGIC = 54321


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST and "\0" not in value


def _is_number(value: Any) -> bool:
    # a bool is an int, and an int may overflow a float
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)
    )


def _list_of(is_valid: _Check, length: int | None = None) -> _Check:
    return lambda value: (
        isinstance(value, list) and (length is None or len(value) == length) and all(map(is_valid, value))
    )


def _texts(value: Any) -> bool:
    return _list_of(_is_text)(value)


def _map_of(is_valid: _Check) -> _Check:
    return lambda value: isinstance(value, dict) and all(map(_is_text, value)) and all(map(is_valid, value.values()))


def _record(**checks: _Check) -> _Check:
    return lambda value: (
        isinstance(value, dict) and value.keys() == checks.keys() and all(checks[key](value[key]) for key in checks)
    )


def _matching(pattern: str | re.Pattern[str]) -> _Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_range(value: Any) -> bool:
    return _list_of(_is_number, 2)(value) and value[0] <= value[1]


def _is_region(value: Any) -> bool:
    is_record = _record(x_ranges=_list_of(_is_range), y_ranges=_list_of(_is_range), yaw_range=_is_range)
    return is_record(value) and len(value["x_ranges"]) == len(value["y_ranges"]) > 0


def _is_heat_site(value: Any) -> bool:
    return _record(site=_is_text, joints=_texts, category=lambda name: _has_rule(name, "turnon"))(value)


def _has_rule(category: Any, predicate: str) -> bool:
    return isinstance(category, str) and predicate in JOINT_RULES.get(category, {})


def _is_atom(value: Any) -> bool:
    if not isinstance(value, dict) or not value.keys() <= {field.name for field in fields(Atom)}:
        return False
    predicate = value.get("predicate")
    if not isinstance(predicate, str) or predicate not in SPELLING or not _texts(value.get("arguments")):
        return False
    by_joints = predicate not in ("on", "in")
    if by_joints and not (value.get("joints") and _has_rule(value.get("category"), predicate)):
        return False
    return (
        all(isinstance(value.get(key, ""), str) for key in ("body", "target_body", "target_site", "category"))
        and all(_texts(value.get(key, [])) for key in ("geoms", "target_geoms", "joints"))
        and _list_of(_is_number, 3 if value.get("target_site") else 0)(value.get("target_size", []))
    )


_META: Mapping[str, _Check] = {
    "version": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "mujoco": _is_text,
    "pack": _is_text,
    "pack_digest": _matching(r"[0-9a-f]{64}"),
    "built_with": _map_of(_is_text),
    "suite": _is_text,
    "task": _is_text,
    "scene": _matching(SCENE_NAME),
    "bddl_language": _is_text,
    "goal": lambda value: _list_of(_is_atom)(value) and bool(value),
    "fixtures": _map_of(_is_text),
    "fixture_regions": _map_of(_is_region),
    "objects": _map_of(_is_text),
    "heat_sites": _list_of(_is_heat_site),
    "robot": _record(
        joints=_list_of(_is_text, _N_ARM),
        actuators=_list_of(_is_text, _N_ARM),
        gripper_joints=_list_of(_is_text, _N_FINGERS),
        gripper_actuators=_list_of(_is_text, _N_FINGERS),
        eef_site=_is_text,
        eef_body=_is_text,
        init_qpos=_list_of(_is_number, _N_ARM),
    ),
}
"""Key of ``meta.json`` -> check of its value."""


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
