"""
Arenas and textures of the primitive pack.

Names, dimensions, tables, lights and cameras are those of LIBERO, which edits them by name when it builds a scene; the
furnishings are our own.
"""

from __future__ import annotations

from vla_gym.assets.arenas.arena import WALL_SIZE, Arena
from vla_gym.assets.arenas.kitchen import KITCHEN
from vla_gym.assets.arenas.living_room import LIVING_ROOM
from vla_gym.assets.arenas.plain import FLOOR, TABLETOP
from vla_gym.assets.arenas.study import STUDY
from vla_gym.assets.arenas.textures import TEXTURES

ARENAS: dict[str, Arena] = {
    "scenes/libero_tabletop_base_style.xml": TABLETOP,
    "scenes/libero_floor_base_style.xml": FLOOR,
    "scenes/libero_kitchen_tabletop_base_style.xml": KITCHEN,
    "scenes/libero_living_room_tabletop_base_style.xml": LIVING_ROOM,
    "scenes/libero_study_base_style.xml": STUDY,
}

__all__ = ["ARENAS", "TEXTURES", "WALL_SIZE", "Arena"]
