"""
Overrides of a scene's appearance: cameras, lights, colours and textures as plain data.

An :class:`Appearance` replaces values of the scene when an image is drawn; the physics never reads it. Names and units
are MuJoCo's. A value that is left out stays the scene's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from vla_gym.errors import InvalidArgumentError, UnknownNameError
from vla_gym.spec import CAMERAS
from vla_gym.type_aliases import Float64Array, UInt8Array

HEADLIGHT = "headlight"
"""Name of the light that moves with the camera."""
MAX_TEXTURE_SIZE = 8192
"""Largest side of a texture (px); not every OpenGL driver has larger ones."""


@dataclass(frozen=True, eq=False)
class CameraOverride:
    """
    Override the pose or the field of view of a camera.

    Pose in the frame of the body that carries the camera: the world for ``agentview``, the hand for ``wrist``.

    :param pos: position (m), (3,)
    :param quat: orientation (wxyz), of any length but 0, (4,); the camera looks along its -z axis, +y is up
    :param fovy: vertical field of view (degrees), above 0 and below 180
    :raises InvalidArgumentError: for a value of the wrong shape or out of range
    """

    pos: Float64Array | None = None
    quat: Float64Array | None = None
    fovy: float | None = None

    def __post_init__(self) -> None:
        _check_fields(self, {"pos": _vector, "quat": _direction(4), "fovy": _field_of_view})


@dataclass(frozen=True, eq=False)
class LightOverride:
    """
    Override the properties of a light.

    The light named ``headlight`` has only the three colours and ``active``.

    :param pos: position in the frame of the body that carries it, usually the world (m), (3,)
    :param dir: direction in which it shines, of any length but 0, (3,)
    :param ambient: ambient colour, RGB, each at least 0, (3,)
    :param diffuse: diffuse colour, RGB, each at least 0, (3,)
    :param specular: colour of highlights, RGB, each at least 0, (3,)
    :param active: whether it is on
    :param castshadow: whether it casts shadows; ``render_quality="fast"`` draws none
    :raises InvalidArgumentError: for a value of the wrong shape or out of range
    """

    pos: Float64Array | None = None
    dir: Float64Array | None = None
    ambient: Float64Array | None = None
    diffuse: Float64Array | None = None
    specular: Float64Array | None = None
    active: bool | None = None
    castshadow: bool | None = None

    def __post_init__(self) -> None:
        colors: dict[str, Check] = {name: _light_color for name in ("ambient", "diffuse", "specular")}
        flags: dict[str, Check] = {name: _flag for name in ("active", "castshadow")}
        _check_fields(self, {"pos": _vector, "dir": _direction(3), **colors, **flags})


@dataclass(frozen=True, eq=False)
class Appearance:
    """
    Override what the images of an episode show; an empty one changes nothing.

    Arrays are copied and read-only. :meth:`as_dict` and :meth:`from_dict` convert to and from plain data.

    :param cameras: by observation key, ``agentview`` or ``wrist``
    :param lights: by the light's name, or ``headlight``
    :param geom_rgba: colours (RGBA in [0, 1], (4,)) by the geom's name; a textured geom is tinted
    :param material_rgba: colours (RGBA in [0, 1], (4,)) by the material's name; geoms with a colour of their own
        ignore it
    :param textures: pictures by the texture's name, RGB, (height, width, 3) uint8, of any size up to
        ``MAX_TEXTURE_SIZE``; all materials with that texture show it. A cube texture takes one square picture for all
        its faces, or six stacked vertically
    :raises UnknownNameError: for a camera that does not exist
    :raises InvalidArgumentError: for a value of the wrong type or shape, or out of range
    """

    cameras: Mapping[str, CameraOverride] = field(default_factory=dict)
    lights: Mapping[str, LightOverride] = field(default_factory=dict)
    geom_rgba: Mapping[str, Float64Array] = field(default_factory=dict)
    material_rgba: Mapping[str, Float64Array] = field(default_factory=dict)
    textures: Mapping[str, UInt8Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in fields(self):
            entries = _checked_mapping(part.name, getattr(self, part.name))
            checked = {name: _ENTRIES[part.name](f"{part.name}[{name!r}]", value) for name, value in entries.items()}
            object.__setattr__(self, part.name, MappingProxyType(checked))
        for name in self.cameras:
            if name not in CAMERAS:
                raise UnknownNameError("camera", name, CAMERAS)
        headlight = self.lights.get(HEADLIGHT, LightOverride())
        for name in ("pos", "dir", "castshadow"):
            if getattr(headlight, name) is not None:
                raise InvalidArgumentError(
                    f"lights['{HEADLIGHT}'] has {name}; this light shines from the camera and casts no shadows. Give "
                    "it ambient, diffuse, specular or active."
                )

    def __reduce__(self) -> tuple[Any, ...]:
        # mapping proxies cannot be pickled
        return Appearance.from_dict, (self.as_dict(),)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Appearance:
        """
        Make an appearance from plain data.

        :param data: the class's parameters; cameras and lights are mappings, too:
            ``{"lights": {"light1": {"active": False}}}``
        :raises UnknownNameError: for a parameter or camera that does not exist
        :raises InvalidArgumentError: for a value of the wrong type or shape, or out of range
        """
        return cls(**_known_keys("part of an appearance", _checked_mapping("appearance", data), cls))

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data: dictionaries, numbers, truth values and arrays."""
        data: dict[str, Any] = {}
        for part in fields(self):
            entries = getattr(self, part.name)
            if entries:
                data[part.name] = {name: _plain(value) for name, value in entries.items()}
        return data


def checked_appearance(value: Appearance | Mapping[str, Any] | None) -> Appearance | None:
    """
    Accept an appearance or its plain data.

    :param value: an ``Appearance``, what :meth:`Appearance.from_dict` takes, or None
    :raises UnknownNameError: for a parameter or camera that does not exist
    :raises InvalidArgumentError: for anything else
    """
    return value if value is None or isinstance(value, Appearance) else Appearance.from_dict(value)


Check = Callable[[str, Any], Any]
"""Takes the name of a value, for messages, and the value; returns it converted."""


def _check_fields(owner: Any, checks: Mapping[str, Check]) -> None:
    for name, check in checks.items():
        value = getattr(owner, name)
        if value is not None:
            object.__setattr__(owner, name, check(name, value))


def _checked_mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{name} is {value!r} ({type(value).__name__}); expected a mapping from names.")
    return value


def _known_keys(kind: str, data: Mapping[str, Any], cls: type) -> dict[str, Any]:
    names = [part.name for part in fields(cls)]
    for key in data:
        if key not in names:
            raise UnknownNameError(kind, key, names)
    return dict(data)


def _override(cls: type) -> Check:
    def check(name: str, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        data = _known_keys(f"property of {name}", _checked_mapping(name, value), cls)
        try:
            return cls(**data)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{name}: {error}") from None

    return check


def _numbers(name: str, value: Any, size: int, expected: str) -> Float64Array:
    """A read-only copy of a vector of finite numbers."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (size,) or not np.isfinite(array).all():
        raise InvalidArgumentError(f"{name} is {value!r}; expected {expected}.")
    array.setflags(write=False)
    return array


def _vector(name: str, value: Any) -> Float64Array:
    return _numbers(name, value, 3, "3 finite numbers")


def _direction(size: int) -> Check:
    def check(name: str, value: Any) -> Float64Array:
        expected = f"{size} finite numbers that are not all 0"
        array = _numbers(name, value, size, expected)
        if not array.any():
            raise InvalidArgumentError(f"{name} is {value!r}; expected {expected}.")
        return array

    return check


def _color(size: int, highest: float, expected: str) -> Check:
    def check(name: str, value: Any) -> Float64Array:
        array = _numbers(name, value, size, expected)
        if array.min() < 0 or array.max() > highest:
            raise InvalidArgumentError(f"{name} is {value!r}; expected {expected}.")
        return array

    return check


_light_color = _color(3, np.inf, "3 finite numbers of at least 0 (red, green, blue)")
_rgba = _color(4, 1.0, "4 numbers from 0 to 1 (red, green, blue, alpha)")


def _field_of_view(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not np.isscalar(value) or not isinstance(value, (int, float, np.number)):
        raise InvalidArgumentError(f"{name} is {value!r} ({type(value).__name__}); expected degrees between 0 and 180.")
    if not 0 < float(value) < 180:
        raise InvalidArgumentError(f"{name} is {value}; expected degrees between 0 and 180.")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidArgumentError(f"{name} is {value!r} ({type(value).__name__}); expected True or False.")
    return bool(value)


def _picture(name: str, value: Any) -> UInt8Array:
    """A read-only copy of a picture."""
    try:
        array = np.array(value)
    except ValueError:  # rows of different lengths
        array = np.empty(0)
    is_picture = array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3
    if not is_picture or not 1 <= min(array.shape) <= max(array.shape) <= MAX_TEXTURE_SIZE:
        raise InvalidArgumentError(
            f"{name} is {array.dtype} of shape {array.shape}; expected a picture, uint8 of shape (height, width, 3) "
            f"with sides of 1 to {MAX_TEXTURE_SIZE} pixels."
        )
    array.setflags(write=False)
    return array


_ENTRIES: Mapping[str, Check] = MappingProxyType(
    {
        "cameras": _override(CameraOverride),
        "lights": _override(LightOverride),
        "geom_rgba": _rgba,
        "material_rgba": _rgba,
        "textures": _picture,
    }
)
"""Part of an appearance -> check of each entry."""


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value
    set_fields = {part.name: getattr(value, part.name) for part in fields(value)}
    return {name: entry for name, entry in set_fields.items() if entry is not None}
