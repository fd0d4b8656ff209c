"""Write an appearance into a render model, and restore the model's own values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import mujoco
import numpy as np

from vla_gym.appearance import HEADLIGHT, Appearance, CameraOverride, LightOverride
from vla_gym.errors import InvalidArgumentError, UnknownNameError
from vla_gym.spec import CAMERAS
from vla_gym.tasks.registry import COLLISION_GROUP
from vla_gym.type_aliases import Float64Array, UInt8Array

_CAMERA_FIELDS = ("pos", "quat", "fovy")
_LIGHT_FIELDS = ("pos", "dir", "ambient", "diffuse", "specular", "active", "castshadow")
_HEADLIGHT_FIELDS = ("ambient", "diffuse", "specular", "active")
_UNIT_VECTORS = ("quat", "dir")
"""Fields that MuJoCo's compiler normalises and its renderer expects to be normalised."""
_MODEL_FIELDS = (
    *(f"cam_{name}" for name in _CAMERA_FIELDS),
    *(f"light_{name}" for name in _LIGHT_FIELDS),
    "geom_rgba",
    "mat_rgba",
)
_UNIT_TOLERANCE = 1e-14
_CUBE_FACES = 6


class Overrides:
    """
    Apply appearances to a render model.

    :param model: render model, written to by :meth:`apply`
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        cameras = _numbers(model.camera, model.ncam)
        self._cameras = {key: cameras[name] for key, name in CAMERAS.items() if name in cameras}
        self._lights = _numbers(model.light, model.nlight)
        self._geoms = {
            name: number
            for name, number in _numbers(model.geom, model.ngeom).items()
            if model.geom_group[number] != COLLISION_GROUP
        }
        self._materials = _numbers(model.material, model.nmat)
        self.textures = _numbers(model.texture, model.ntex)
        self._own = {name: getattr(model, name).copy() for name in _MODEL_FIELDS}
        self._own_headlight = {name: np.copy(getattr(model.vis.headlight, name)) for name in _HEADLIGHT_FIELDS}
        self._current: Appearance | None = None

    def check(self, appearance: Appearance) -> None:
        """
        Make sure that everything that an appearance names is in the model.

        :param appearance: what to show
        :raises UnknownNameError: for any other name
        :raises InvalidArgumentError: for a picture that does not fit the kind of its texture
        """
        for kind, names, valid in (
            ("camera", appearance.cameras, self._cameras),
            ("light", appearance.lights, [HEADLIGHT, *self._lights]),
            ("geom", appearance.geom_rgba, self._geoms),
            ("material", appearance.material_rgba, self._materials),
        ):
            _check_names(kind, names, valid)
        for name, picture in appearance.textures.items():
            _check_names("texture", [name], self.textures, self._texture_hint(name))
            height, width = picture.shape[:2]
            if self._is_cube(name) and height not in (width, _CUBE_FACES * width):
                raise InvalidArgumentError(
                    f"textures[{name!r}] has shape {picture.shape}; the texture is a cube, which takes a square "
                    "picture or six of them below each other."
                )

    def apply(self, appearance: Appearance | None) -> None:
        """
        Write an appearance, except for its textures, into the model; all other values are the model's own again.

        :param appearance: what to show; None: the scene as it is
        :raises UnknownNameError: as :meth:`check`, before anything is written
        :raises InvalidArgumentError: as :meth:`check`
        """
        if appearance is self._current:
            return
        if appearance is not None:
            self.check(appearance)
        if self._current is not None:
            self._restore()
        self._current = appearance
        if appearance is not None:
            self._write_all(appearance)

    def _write_all(self, appearance: Appearance) -> None:
        for key, camera in appearance.cameras.items():
            self._write("cam", self._cameras[key], camera)
        for name, light in appearance.lights.items():
            if name == HEADLIGHT:
                for entry, value in _set_fields(light):
                    setattr(self._model.vis.headlight, entry, value)
            else:
                self._write("light", self._lights[name], light)
        for name, rgba in appearance.geom_rgba.items():
            self._model.geom_rgba[self._geoms[name]] = rgba
        for name, rgba in appearance.material_rgba.items():
            self._model.mat_rgba[self._materials[name]] = rgba

    def own_appearance(self) -> Appearance:
        """Read all values of the model that an appearance can override."""
        self.apply(None)
        model = self._model
        lights = {name: _read(model, "light", number, _LIGHT_FIELDS) for name, number in self._lights.items()}
        headlight = {name: _copied(getattr(model.vis.headlight, name), name) for name in _HEADLIGHT_FIELDS}
        return Appearance.from_dict(
            {
                "cameras": {key: _read(model, "cam", number, _CAMERA_FIELDS) for key, number in self._cameras.items()},
                "lights": {**lights, HEADLIGHT: headlight},
                "geom_rgba": {name: model.geom_rgba[number] for name, number in self._geoms.items()},
                "material_rgba": {name: model.mat_rgba[number] for name, number in self._materials.items()},
                "textures": {name: _own_picture(model, number) for name, number in self.textures.items()},
            }
        )

    def texture_model(self, name: str, picture: UInt8Array | None) -> mujoco.MjModel:
        """
        Make a model from which ``mjr_uploadTexture`` can take a texture.

        MuJoCo uploads a texture with the size that it has in a model. A small model with the picture under the
        texture's number allows pictures of any size in place of the scene's own.

        :param name: name of the texture
        :param picture: what to show; None: the scene's own picture
        """
        if picture is None:
            return self._model
        number = self.textures[name]
        spec = mujoco.MjSpec()
        for i in range(number):
            flat = mujoco.mjtBuiltin.mjBUILTIN_FLAT
            spec.add_texture(name=f"{i}", type=mujoco.mjtTexture.mjTEXTURE_2D, builtin=flat, width=1, height=1)
        kind = mujoco.mjtTexture(int(self._model.tex_type[number]))
        height, width, channels = picture.shape
        texture = spec.add_texture(name=name, type=kind, width=width, height=height, nchannel=channels)
        texture.data = picture.tobytes()
        return spec.compile()

    def _is_cube(self, name: str) -> bool:
        return bool(self._model.tex_type[self.textures[name]] != mujoco.mjtTexture.mjTEXTURE_2D)

    def _write(self, prefix: str, number: int, override: CameraOverride | LightOverride) -> None:
        for name, value in _set_fields(override):
            if name in _UNIT_VECTORS:
                value = _normalized(value)
            getattr(self._model, f"{prefix}_{name}")[number] = value

    def _restore(self) -> None:
        for name, values in self._own.items():
            getattr(self._model, name)[:] = values
        for name, value in self._own_headlight.items():
            setattr(self._model.vis.headlight, name, value)

    def _texture_hint(self, name: str) -> str:
        """Explain which texture a material shows, if its name was given instead of the texture's."""
        if name not in self._materials:
            return ""
        shown = {int(number) for number in self._model.mat_texid[self._materials[name]]}
        names = [texture for texture, number in self.textures.items() if number in shown]
        return f"Material {name!r} shows {names[0]!r}." if names else f"Material {name!r} has no texture."


def _numbers(accessor: Any, count: int) -> dict[str, int]:
    """Number the elements that have a name: name -> number."""
    return {name: i for i in range(count) if (name := accessor(i).name)}


def _check_names(kind: str, names: Iterable[str], valid: Iterable[str], remedy: str = "") -> None:
    valid = list(valid)
    for name in names:
        if name not in valid:
            raise UnknownNameError(kind, name, valid, remedy)


def _set_fields(override: CameraOverride | LightOverride) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(override).items() if value is not None]


def _read(model: mujoco.MjModel, prefix: str, number: int, names: Iterable[str]) -> Mapping[str, Any]:
    return {name: _copied(getattr(model, f"{prefix}_{name}")[number], name) for name in names}


def _copied(value: Any, name: str) -> Any:
    if name in ("active", "castshadow"):
        return bool(value)
    return float(value) if name == "fovy" else np.array(value)


def _normalized(vector: Float64Array) -> Float64Array:
    """Normalise a vector to the bits of MuJoCo's compiler, which leaves vectors of almost unit length unchanged."""
    norm = math.sqrt(sum(float(x) * float(x) for x in vector))
    return vector if abs(norm - 1.0) <= _UNIT_TOLERANCE else vector / norm


def _own_picture(model: mujoco.MjModel, number: int) -> UInt8Array:
    """Read a texture's picture in RGB, (height, width, 3)."""
    height, width = int(model.tex_height[number]), int(model.tex_width[number])
    channels, start = int(model.tex_nchannel[number]), int(model.tex_adr[number])
    picture: UInt8Array = model.tex_data[start : start + height * width * channels].reshape(height, width, channels)
    # one channel: grey; four: the last one is alpha
    return np.repeat(picture, 3, axis=2) if channels == 1 else picture[..., :3]
