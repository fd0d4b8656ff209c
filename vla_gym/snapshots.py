"""
Snapshots of an environment and of the wrappers around it, as plain data: numbers, texts and arrays in containers.

An environment offers ``snapshot()`` and ``restore(snapshot)``, and so may a wrapper. Of a wrapper that does not, the
attributes with plain data are kept (counters, clocks, last observations), and random generators and objects that hold
plain data alone (running means).
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_SCALARS = (bool, int, float, str, bytes, type(None), np.generic)
_BELOW = ("venv", "env")
"""Attributes under which wrappers keep what they wrap, of Stable-Baselines3 and of Gymnasium."""


def take_snapshot(env: Any) -> list[dict[str, Any]] | None:
    """
    State of an environment and of the wrappers around it.

    :param env: environment or vector environment, of Gymnasium or of Stable-Baselines3
    :return: one entry per layer, the outermost first; None if an environment below offers no snapshots
    """
    snapshot = []
    for layer in _layers(env):
        entry = {"class": _name(layer), **_attributes(layer)}
        if _offers_snapshots(layer):
            entry = {"class": _name(layer), "own": layer.snapshot()}
        elif "envs" in vars(layer):
            entry["envs"] = [take_snapshot(each) for each in layer.envs]
        snapshot.append(entry)
    innermost = snapshot[-1]
    is_complete = innermost.get("own") is not None or None not in innermost.get("envs", [None])
    return snapshot if is_complete else None


def restore_snapshot(env: Any, snapshot: list[dict[str, Any]]) -> None:
    """
    Go back to a snapshot.

    :param env: wrapped as the one that the snapshot is of
    :param snapshot: from :func:`take_snapshot`
    :raises ValueError: if it is wrapped otherwise, or an environment refuses its part
    """
    layers = list(_layers(env))
    found, expected = list(map(_name, layers)), [entry["class"] for entry in snapshot]
    if found != expected:
        raise ValueError(
            f"The environment is {' around '.join(found)}; the snapshot is of {' around '.join(expected)}."
        )
    for layer, entry in zip(layers, snapshot, strict=True):
        if "own" in entry:
            layer.restore(entry["own"])
            continue
        _set_attributes(layer, entry)
        if "envs" in entry:
            if len(entry["envs"]) != len(layer.envs):
                raise ValueError(f"The snapshot is of {len(entry['envs'])} environments; there are {len(layer.envs)}.")
            for each, part in zip(layer.envs, entry["envs"], strict=True):
                restore_snapshot(each, part)


def _layers(env: Any) -> Iterator[Any]:
    while env is not None:
        yield env
        # not getattr, by which a wrapper answers for those below it
        env = next((vars(env)[name] for name in _BELOW if name in vars(env)), None)


def _offers_snapshots(layer: Any) -> bool:
    return hasattr(type(layer), "snapshot") and hasattr(type(layer), "restore")


def _name(layer: Any) -> str:
    cls = type(layer)
    # back ends of one vector environment answer to one name, so that a run may go on with another of them
    return getattr(cls, "snapshot_kind", f"{cls.__module__}.{cls.__qualname__}")


def _attributes(layer: Any) -> dict[str, Any]:
    """What is kept of an object: plain attributes, generators, and objects that hold plain attributes alone."""
    plain, generators, objects = {}, {}, {}
    for name, value in vars(layer).items():
        if name in _BELOW:
            continue
        if _is_plain(value):
            plain[name] = copy.deepcopy(value)
        elif isinstance(value, np.random.Generator):
            generators[name] = value.bit_generator.state
        elif _holds_plain_data(value):
            objects[name] = copy.deepcopy(vars(value))
    return {"plain": plain, "generators": generators, "objects": objects}


def _set_attributes(layer: Any, kept: Mapping[str, Any]) -> None:
    current = vars(layer)
    for name, value in kept["plain"].items():
        # what is no plain data here, such as an open file, stays
        if _is_plain(current.get(name)):
            setattr(layer, name, copy.deepcopy(value))
    for name, state in kept["generators"].items():
        current[name].bit_generator.state = state
    for name, attributes in kept["objects"].items():
        vars(current[name]).update(copy.deepcopy(attributes))


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return type(value) is dict and all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple, set, deque)):
        return type(value) in (list, tuple, set, deque) and all(map(_is_plain, value))
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    return isinstance(value, _SCALARS)


def _holds_plain_data(value: Any) -> bool:
    return not isinstance(value, type) and hasattr(value, "__dict__") and bool(vars(value)) and _is_plain(vars(value))
