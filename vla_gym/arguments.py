"""Check arguments that come from users: the type first, so that a string is never read as a list of letters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vla_gym.errors import InvalidArgumentError, UnknownNameError


def checked_int(name: str, value: Any, lowest: int, highest: int | None = None) -> int:
    """
    Check a whole number; NumPy's integers are accepted, truth values and floats are not.

    :param name: argument
    :param value: its value
    :param lowest: smallest valid value
    :param highest: largest valid value; None: any
    :return: the value as ``int``
    :raises InvalidArgumentError: if it is not an integer, or out of range
    """
    expected = f"an integer of at least {lowest}" if highest is None else f"an integer from {lowest} to {highest}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise InvalidArgumentError(f"{name} is {value!r} ({type(value).__name__}); expected {expected}.")
    if value < lowest or (highest is not None and value > highest):
        at_least = f"at least {lowest}" if highest is None or value < lowest else f"at most {highest}"
        raise InvalidArgumentError(f"{name} is {value}; expected {at_least}.")
    return int(value)


def checked_bool(name: str, value: Any) -> bool:
    """
    Check a truth value; Python would take any non-empty string, even "false", for true.

    :param name: argument
    :param value: its value
    :return: the value as ``bool``
    :raises InvalidArgumentError: if it is neither True nor False
    """
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidArgumentError(f"{name} is {value!r} ({type(value).__name__}); expected True or False.")
    return bool(value)


def checked_list(name: str, value: Any, example: str) -> list[Any]:
    """
    Check a list without repetitions; a string is not a list.

    :param name: argument
    :param value: its value: list, tuple, range, set or one-dimensional array
    :param example: a valid value, for the message
    :return: its entries
    :raises InvalidArgumentError: if it is not a list, or contains an entry twice
    """
    is_list = value.ndim == 1 if isinstance(value, np.ndarray) else isinstance(value, Collection)
    if not is_list or isinstance(value, (str, bytes, Mapping)):
        raise InvalidArgumentError(f"{name} is {value!r} ({type(value).__name__}); expected a list, like {example}.")
    entries = list(value)
    for i, entry in enumerate(entries):
        if any(type(entry) is type(other) and entry == other for other in entries[:i]):
            raise InvalidArgumentError(f"{name} names {entry!r} twice; expected different entries, like {example}.")
    return entries


def checked_name(name: str, value: Any, valid: Collection[Any]) -> Any:
    """
    Check one of several names.

    :param name: argument
    :param value: its value
    :param valid: valid values
    :return: the value
    :raises UnknownNameError: if it is not among them
    """
    if not any(value is each or (isinstance(value, str) and value == each) for each in valid):
        raise UnknownNameError(name, value, valid)
    return value
