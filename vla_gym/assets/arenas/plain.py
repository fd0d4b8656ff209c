"""The two arenas with nothing in the background: a table, and a bare floor."""

from __future__ import annotations

from vla_gym.assets.arenas.arena import Arena, resizable_table

TABLETOP = Arena("light-gray-floor-tile.png", "light-gray-plaster.png", "light-wood-table.png", resizable_table())
FLOOR = Arena("light-gray-floor-tile.png", "light-gray-plaster.png", "light-wood-table.png", floor_is_body=True)
