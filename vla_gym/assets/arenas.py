"""
Tables of the arenas and textures of the primitive pack.

Element names, the room's dimensions, lights and cameras are LIBERO's, which edits them by name when it builds a scene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vla_gym.assets.shapes import Quaternion, Vector3
from vla_gym.type_aliases import UInt8Array

WALL_SIZE = 1.5
# name, centre (x, y), angle of the inward normal, half length
Wall = tuple[str, tuple[float, float], float, float]


@dataclass(frozen=True)
class Arena:
    """
    One room.

    :param floor_texture: file in ``textures/``; LIBERO replaces it by the style of the scene
    :param wall_texture: file in ``textures/``; likewise
    :param table_texture: file in ``textures/`` that wraps the table
    :param walls: walls, visual only
    :param lights: name and position, m
    :param cameras: name, position, m, and rotation
    """

    floor_texture: str
    wall_texture: str
    table_texture: str
    walls: tuple[Wall, ...]
    lights: tuple[tuple[str, Vector3], ...]
    cameras: tuple[tuple[str, Vector3, Quaternion], ...]


_TABLETOP = Arena(
    floor_texture="light-gray-floor-tile.png",
    wall_texture="light-gray-plaster.png",
    table_texture="light-wood-table.png",
    walls=(
        ("wall_leftcorner_visual", (-1.25, 2.25), -45, 1.06),
        ("wall_rightcorner_visual", (-1.25, -2.25), 45, 1.06),
        ("wall_left_visual", (1.25, 3), -90, 1.75),
        ("wall_right_visual", (1.25, -3), 90, 1.75),
        ("wall_rear_visual", (-2, 0), 0, 1.5),
        ("wall_front_visual", (3, 0), 180, 3),
    ),
    lights=(("light1", (1, 1, 4)), ("light2", (-3, -3, 4))),
    cameras=(
        ("frontview", (1, 0, 1.45), (0.56, 0.43, 0.43, 0.56)),
        ("birdview", (-0.2, 0, 3), (0.7071, 0, 0, 0.7071)),
        ("agentview", (0.5, 0, 1.35), (0.653, 0.271, 0.271, 0.653)),
        ("sideview", (-0.0565, 1.2761, 1.488), (0.009905, 0.006878, 0.591223, 0.806418)),
    ),
)

ARENAS: dict[str, Arena] = {"scenes/libero_tabletop_base_style.xml": _TABLETOP}


def _speckle(size: int) -> UInt8Array:
    # integer noise: the same picture whatever the version of the random number library
    y, x = np.mgrid[0:size, 0:size].astype(np.uint64)
    mixed = (x * np.uint64(374761393) + y * np.uint64(668265263)) % np.uint64(2**32)
    mixed = (mixed ^ (mixed >> np.uint64(13))) * np.uint64(1274126177) % np.uint64(2**32)
    return (mixed >> np.uint64(24)).astype(np.uint8)


def _shade(level: UInt8Array, dark: tuple[int, int, int], light: tuple[int, int, int]) -> UInt8Array:
    mix = level[..., None].astype(np.int64)
    low, high = np.asarray(dark, dtype=np.int64), np.asarray(light, dtype=np.int64)
    return (low + (high - low) * mix // 255).astype(np.uint8)


def _tiles() -> UInt8Array:
    size = 64
    picture = _shade(_speckle(size), (128, 119, 113), (146, 138, 131))
    picture[::32, :] = picture[:, ::32] = (172, 167, 161)
    return picture


def _plaster() -> UInt8Array:
    return _shade(_speckle(64), (218, 219, 217), (232, 233, 231))


def _wood() -> UInt8Array:
    size = 64
    grain = _speckle(size)[0].astype(np.int64)
    bands = (grain + np.roll(grain, 1) + np.roll(grain, 2) + np.roll(grain, 3)) // 4
    return _shade(np.tile(bands.astype(np.uint8)[:, None], (1, size)), (188, 166, 140), (214, 196, 172))


TEXTURES: dict[str, Callable[[], UInt8Array]] = {
    "light-gray-floor-tile.png": _tiles,
    "light-gray-plaster.png": _plaster,
    "light-wood-table.png": _wood,
}
