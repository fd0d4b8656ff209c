"""The living room: a low table in front of a wall unit with a television."""

from __future__ import annotations

from vla_gym.assets.arenas.arena import Arena
from vla_gym.assets.objects.colors import BLACK, BLUE, BOTTLE_GREEN, BROWN, CHARCOAL, LIGHT_WOOD, MAHOGANY, RED, WHITE
from vla_gym.assets.shapes import Body, Geom, box, paint

# the plate of LIBERO's table, whose ends are narrower than its middle
_CENTRE = (-0.25, 0.0524)
_TOP, _THICKNESS = 0.42492, 0.01184


def _table() -> Body:
    x, y = _CENTRE
    plate = box((0.44432, 0.67171, _THICKNESS), (x, y, _TOP))
    plate += box((0.41675, 0.10133, _THICKNESS), (x, y + 0.74697, _TOP))
    plate += box((0.41675, 0.10133, _THICKNESS), (x, y - 0.77245, _TOP))
    plate += box((0.07752, 0.67171, _THICKNESS), (x + 0.51121, y, _TOP))
    plate += box((0.07752, 0.67171, _THICKNESS), (x - 0.49665, y, _TOP))
    foot = box((0.41162, 0.43516, 0.20884), (x, 0.25, 0.20414))
    return Body("living_room_table", collision=plate + foot, visual=plate + paint(foot, BROWN))


def _wall_unit() -> list[Geom]:
    board = box((0.22, 1.3, 0.2), (-1.7, 0, 0.22)) + box((0.17, 1.3, 0.02), (-1.8, 0, 1.75))
    towers = box((0.2, 0.25, 0.85), (-1.75, 1.1, 0.9)) + box((0.2, 0.25, 0.85), (-1.75, -1.1, 0.9))
    doors: list[Geom] = []
    for y in (-0.85, -0.29, 0.29, 0.85):
        doors += box((0.01, 0.27, 0.16), (-1.475, y, 0.22))
    for y in (-1.1, 1.1):
        doors += box((0.01, 0.22, 0.35), (-1.545, y, 1.3))
    return paint(board + towers, MAHOGANY) + paint(doors, LIGHT_WOOD)


def _television() -> list[Geom]:
    stand = paint(box((0.1, 0.2, 0.02), (-1.7, 0, 0.44)) + box((0.02, 0.05, 0.08), (-1.72, 0, 0.5)), CHARCOAL)
    return stand + paint(box((0.02, 0.6, 0.34), (-1.7, 0, 0.92)), BLACK)


def _ornaments() -> list[Geom]:
    books: list[Geom] = []
    for i, colour in enumerate((RED, BLUE, BOTTLE_GREEN, WHITE, RED)):
        books += paint(box((0.08, 0.02, 0.1 + 0.01 * (i % 3)), (-1.78, -0.5 + 0.045 * i, 1.88)), colour)
    picture = paint(box((0.01, 0.28, 0.2), (-1.97, 0.45, 2.05)), LIGHT_WOOD)
    return books + picture + paint(box((0.012, 0.24, 0.16), (-1.965, 0.45, 2.05)), BLUE)


def _rug() -> list[Geom]:
    border = paint(box((0.95, 1.35, 0.002), (-0.25, 0.05, 0.002)), WHITE)
    return border + paint(box((0.85, 1.25, 0.002), (-0.25, 0.05, 0.003)), RED)


LIVING_ROOM = Arena(
    "seamless_wood_planks_floor.png",
    "light-gray-plaster.png",
    "red-wood-table.png",
    _table(),
    floor_is_body=True,
    furnishings=_wall_unit() + _television() + _ornaments() + _rug(),
)
