"""Textures of the primitive pack, drawn with integer arithmetic so that every machine makes the same bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vla_gym.type_aliases import UInt8Array

Rgb = tuple[int, int, int]
_SIZE = 64


def _speckle() -> UInt8Array:
    # integer noise: the same picture whatever the version of the random number library
    y, x = np.mgrid[0:_SIZE, 0:_SIZE].astype(np.uint64)
    mixed = (x * np.uint64(374761393) + y * np.uint64(668265263)) % np.uint64(2**32)
    mixed = (mixed ^ (mixed >> np.uint64(13))) * np.uint64(1274126177) % np.uint64(2**32)
    return (mixed >> np.uint64(24)).astype(np.uint8)


def _shade(level: UInt8Array, dark: Rgb, light: Rgb) -> UInt8Array:
    mix = level[..., None].astype(np.int64)
    low, high = np.asarray(dark, dtype=np.int64), np.asarray(light, dtype=np.int64)
    return (low + (high - low) * mix // 255).astype(np.uint8)


def _tiles(dark: Rgb, light: Rgb, joint: Rgb) -> UInt8Array:
    picture = _shade(_speckle(), dark, light)
    picture[::32, :] = picture[:, ::32] = joint
    return picture


def _grain() -> UInt8Array:
    noise = _speckle()[0].astype(np.int64)
    bands = (noise + np.roll(noise, 1) + np.roll(noise, 2) + np.roll(noise, 3)) // 4
    return np.tile(bands.astype(np.uint8)[:, None], (1, _SIZE))


def _planks(dark: Rgb, light: Rgb, gap: Rgb) -> UInt8Array:
    # four planks of different tone, their ends staggered
    level = _grain().astype(np.int64) // 2 + np.repeat([0, 110, 45, 80], _SIZE // 4)[:, None]
    picture = _shade(level.astype(np.uint8), dark, light)
    picture[:: _SIZE // 4, :] = gap
    for plank in range(4):
        rows = slice(plank * _SIZE // 4, (plank + 1) * _SIZE // 4)
        picture[rows, (plank * 27) % _SIZE] = gap
    return picture


def _linen(dark: Rgb, light: Rgb) -> UInt8Array:
    noise = _speckle().astype(np.int64)
    threads = (np.tile(noise[:1], (_SIZE, 1)) + np.tile(noise[:, :1], (1, _SIZE))) // 2
    return _shade(threads.astype(np.uint8), dark, light)


TEXTURES: dict[str, Callable[[], UInt8Array]] = {
    "light-gray-floor-tile.png": lambda: _tiles((128, 119, 113), (146, 138, 131), (172, 167, 161)),
    "gray_ceramic_tile.png": lambda: _tiles((98, 102, 108), (112, 116, 122), (70, 73, 78)),
    "seamless_wood_planks_floor.png": lambda: _planks((120, 76, 42), (176, 122, 76), (84, 52, 30)),
    "light-gray-plaster.png": lambda: _shade(_speckle(), (218, 219, 217), (232, 233, 231)),
    "yellow_linen_wall_texture.png": lambda: _linen((206, 188, 132), (230, 214, 164)),
    "light-wood-table.png": lambda: _shade(_grain(), (188, 166, 140), (214, 196, 172)),
    "red-wood-table.png": lambda: _shade(_grain(), (104, 58, 38), (136, 82, 56)),
    "dark-wood-table.png": lambda: _shade(_grain(), (104, 84, 70), (134, 110, 92)),
}
