"""Check the types of settings: the text ``'8'`` is not a number, and ``7`` is not a list."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from vla_algos.errors import SettingsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_NAMES: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
}


def check_fields(settings: DataclassInstance) -> None:
    """
    Compare the values of a dataclass with the types of its fields.

    :param settings: to check
    :raises SettingsError: for a value of another type
    """
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        check_value(field.name, getattr(settings, field.name), hints[field.name])


def check_range(name: str, value: int, lowest: int, highest: int | None = None) -> None:
    """
    Check that a number is in its range.

    :param name: of the setting
    :param value: its value
    :param lowest: smallest value allowed
    :param highest: largest value allowed; None: no limit
    :raises SettingsError: if it is not
    """
    if value < lowest or (highest is not None and value > highest):
        expected = f"at least {lowest}" if highest is None else f"{lowest} to {highest}"
        raise SettingsError(f"{name} is {value}; expected {expected}.")


def check_value(name: str, value: Any, hint: Any) -> None:
    """
    Compare a value with a type.

    :param name: of the setting
    :param value: its value
    :param hint: type annotation; any value fits one that is neither a plain type nor a container of plain types
    :raises SettingsError: if it is of another type
    """
    if not fits(value, hint):
        raise SettingsError(f"{name} is {_shown(value)}; expected {_described(hint)}.{_remedy(value, hint)}")


def fits(value: Any, hint: Any) -> bool:
    """
    Tell whether a value fits a type.

    :param value: the value
    :param hint: type annotation
    :return: True also for types that settings do not use
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return any(value == argument and type(value) is type(argument) for argument in arguments)
    if (origin is tuple and arguments[-1:] == (Ellipsis,)) or origin in (list, Sequence):
        return isinstance(value, list | tuple) and all(fits(part, arguments[0]) for part in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(fits(key, arguments[0]) for key in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    return True


def _shown(value: Any) -> str:
    return f"the text {value!r}" if isinstance(value, str) else repr(value)


def _described(hint: Any) -> str:
    arguments = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_described(argument) for argument in arguments)
    if get_origin(hint) is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if get_origin(hint) in (tuple, list, Sequence):
        return f"a list, each entry {_described(arguments[0])}"
    if get_origin(hint) in (dict, Mapping):
        return "keywords with values"
    return _NAMES.get(hint, str(hint))


def _remedy(value: Any, hint: Any) -> str:
    """How to write what was meant, if that can be seen."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        meant = _meant(value, option)
        if meant is not None:
            return f" Write {meant}."
    return ""


def _meant(value: Any, hint: Any) -> str | None:
    if get_origin(hint) in (tuple, list, Sequence) and fits(value, get_args(hint)[0]):
        return f"[{value}]"
    if hint not in (int, float) or not isinstance(value, str | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if number.is_integer() and (hint is int or (isinstance(value, str) and value.strip().lstrip("+-").isdigit())):
        return f"{number:.0f}"
    return f"{number:.1e}, with a point" if hint is float else None
