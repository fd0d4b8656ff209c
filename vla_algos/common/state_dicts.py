"""How the weights of one model differ in name and shape from those of another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch as th


def describe_mismatch(expected: Mapping[str, th.Tensor], found: Mapping[str, th.Tensor]) -> str | None:
    """
    What keeps weights from being loaded.

    :param expected: of the model
    :param found: to be loaded
    :return: missing, unexpected and wrongly shaped weights by name; None if they fit
    """
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if not (missing or extra or wrong):
        return None
    return f"Missing: {_listed(missing)}. Unexpected: {_listed(extra)}. Of another shape: {_listed(wrong)}."


def _listed(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    if not names:
        return "none"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
