"""Lists that callers give: a text is a sequence too, and is never meant as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from vla_algos.errors import UnknownNameError

T = TypeVar("T")


def as_list(name: str, values: Iterable[T], example: str) -> list[T]:
    """
    Read a list that is not a text.

    :param name: of the argument, for the message
    :param values: the argument
    :param example: of what is expected, for the message
    :return: its items
    :raises UnknownNameError: for a text, whose letters would count as items, or a single item
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise UnknownNameError(name, values, [f"a list such as {example}"], f"One item needs brackets: [{values!r}].")
    return list(values)
