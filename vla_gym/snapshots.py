"""
Snapshots of an environment and its wrappers, as plain data: numbers, strings and arrays in containers.

An environment offers ``snapshot()`` and ``restore(snapshot)``, and a wrapper may do so, too. For other wrappers the
snapshot contains the attributes with plain data (counters, clocks, last observations), random generators, and objects
made of these (running means, stacks of frames).
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from vla_gym.errors import SnapshotError

# exact types: reading a subclass back would need its class
_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_CONTAINERS = (list, tuple, set, deque)
_MAX_DEPTH = 5
"""Depth to which nested objects are read; cyclic references are not plain data."""
_BELOW = ("venv", "env")
"""Attributes in which wrappers of Stable-Baselines3 and Gymnasium keep the wrapped environment."""
_KEYWORDS = "_saved_kwargs"
"""Attribute in which Gymnasium's wrappers keep their constructor's keywords."""


def take_snapshot(env: Any) -> list[dict[str, Any]] | None:
    """
    Take a snapshot of an environment and the wrappers around it.

    :param env: environment or vector environment, of Gymnasium or of Stable-Baselines3
    :return: one entry per layer, the outermost first; None if an environment below offers no snapshots
    """
    snapshot = []
    for layer in _layers(env):
        if _offers_snapshots(layer):
            entry = {"class": _name(layer), "own": layer.snapshot()}
        else:
            entry = {"class": _name(layer), "attributes": _read_attributes(layer, 0)}
            if "envs" in vars(layer):
                entry["envs"] = [take_snapshot(each) for each in layer.envs]
        snapshot.append(entry)
    innermost = snapshot[-1]
    is_complete = innermost.get("own") is not None or None not in innermost.get("envs", [None])
    return snapshot if is_complete else None


def restore_snapshot(env: Any, snapshot: list[dict[str, Any]]) -> None:
    """
    Restore a snapshot.

    :param env: environment with the same wrappers as the snapshot's
    :param snapshot: from :func:`take_snapshot`
    :raises SnapshotError: if the wrappers differ, or an environment refuses its part; the environments after that one
        and all wrappers are then unchanged
    """
    layers = list(_layers(env))
    found, expected = list(map(_name, layers)), [entry["class"] for entry in snapshot]
    if found != expected:
        raise SnapshotError(
            f"The environment is {' around '.join(found)}; the snapshot is of {' around '.join(expected)}."
        )
    for layer, entry in zip(layers, snapshot, strict=True):
        _check_alike(layer, entry)
    # wrappers last, as an environment may refuse
    for layer, entry in reversed(list(zip(layers, snapshot, strict=True))):
        try:
            if "own" in entry:
                layer.restore(entry["own"])
                continue
            for each, part in zip(layer.envs if "envs" in entry else (), entry.get("envs", ()), strict=True):
                restore_snapshot(each, part)
            _write_attributes(layer, entry["attributes"])
        except (AttributeError, KeyError, TypeError) as error:
            raise SnapshotError(
                f"{_name(layer)} does not take its part of the snapshot ({type(error).__name__}: {error}). "
                "It was made by another version of that class."
            ) from error


def plain_part(info: Mapping[str, Any]) -> dict[str, Any]:
    """
    Copy the entries of an info that a snapshot can contain.

    :param info: of a step or reset
    :return: entries with plain data
    """
    return {name: copy.deepcopy(value) for name, value in info.items() if _is_plain(value)}


def _check_alike(layer: Any, entry: Mapping[str, Any]) -> None:
    """Refuse a snapshot with another number of environments, or of a wrapper made with other keywords."""
    for name in ("num_envs", _KEYWORDS):
        kind, kept = entry.get("attributes", {}).get(name, ("", None))
        own = vars(layer).get(name)
        if kind == "plain" and _is_plain(own) and repr(_settings(kept)) != repr(_settings(own)):
            what = "keywords" if name == _KEYWORDS else name
            raise SnapshotError(
                f"{_name(layer)} has {what} {own}; the snapshot is of {kept}. "
                "Make the environment like the one that the snapshot comes from."
            )


def _settings(value: Any) -> Any:
    """Leave out strings: folders and names of recordings may change."""
    return {key: part for key, part in value.items() if type(part) is not str} if type(value) is dict else value


def _layers(env: Any) -> Iterator[Any]:
    while env is not None:
        yield env
        # not getattr: a wrapper forwards it to the layers below
        env = next((vars(env)[name] for name in _BELOW if name in vars(env)), None)


def _offers_snapshots(layer: Any) -> bool:
    return hasattr(type(layer), "snapshot") and hasattr(type(layer), "restore")


def _name(layer: Any) -> str:
    cls = type(layer)
    # all back ends of the vector environment have one name, so that a run can be resumed with another back end
    return getattr(cls, "snapshot_kind", f"{cls.__module__}.{cls.__qualname__}")


def _read_attributes(owner: Any, depth: int) -> dict[str, tuple[str, Any]]:
    kept = {name: _read(value, depth + 1) for name, value in vars(owner).items() if name not in _BELOW}
    return {name: entry for name, entry in kept.items() if entry is not None}


def _read(value: Any, depth: int) -> tuple[str, Any] | None:
    """Return a value's kind and plain data; None if it is not kept."""
    if _is_plain(value):
        return "plain", copy.deepcopy(value)
    if isinstance(value, np.random.Generator):
        return "generator", copy.deepcopy(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return "random state", value.get_state(legacy=False)
    if isinstance(value, random.Random):
        return "random", value.getstate()
    is_container = type(value) in (dict, list, tuple)
    if depth > _MAX_DEPTH or _is_ignored(value) or not (is_container or getattr(value, "__dict__", None)):
        return None
    if is_container:
        parts = value if isinstance(value, dict) else dict(enumerate(value))
    else:
        parts = {name: part for name, part in vars(value).items() if not _is_ignored(part)}
    kept = {}
    for name, part in parts.items():
        entry = _read(part, depth + 1) if _is_plain(name) else None
        if entry is None:
            return None
        kept[name] = entry
    return ("parts" if is_container else "object"), kept


def _write_attributes(owner: Any, kept: Mapping[str, tuple[str, Any]]) -> None:
    own = vars(owner)
    for name, (kind, data) in kept.items():
        # leave alone what is not plain data here, such as an open file
        if kind != "plain" or _is_plain(own.get(name)):
            own[name] = _written(own.get(name), kind, data)


def _written(current: Any, kind: str, data: Any) -> Any:
    """Rebuild what :func:`_read` was given; existing generators and objects keep their identity."""
    if kind == "plain":
        return copy.deepcopy(data)
    if kind == "generator":
        if not isinstance(current, np.random.Generator):
            current = np.random.Generator(getattr(np.random, data["bit_generator"])())
        current.bit_generator.state = data
    elif kind == "random state":
        current = current if isinstance(current, np.random.RandomState) else np.random.RandomState()
        current.set_state(data)
    elif kind == "random":
        current = current if isinstance(current, random.Random) else random.Random()
        current.setstate(data)
    elif kind == "parts":
        old = current if isinstance(current, dict) else dict(enumerate(current))
        parts = {key: _written(old.get(key), *entry) for key, entry in data.items()}
        return parts if isinstance(current, dict) else type(current)(parts.values())
    else:
        if current is None:
            raise TypeError("the snapshot contains attributes of an object that does not exist yet")
        _write_attributes(current, data)
    return current


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if type(value) in _CONTAINERS:
        return all(map(_is_plain, value))
    if type(value) is np.ndarray or isinstance(value, np.generic):
        return not value.dtype.hasobject
    return type(value) in _SCALARS


def _is_ignored(value: Any) -> bool:
    """Tell whether a value is code or a description of data, which belongs to the environment and is not state."""
    return callable(value) or isinstance(value, (gym.Space, gym.Env, np.dtype))
