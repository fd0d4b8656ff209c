"""The kitchen: a table in front of a counter with a stove, cupboards and a fridge."""

from __future__ import annotations

from vla_gym.assets.arenas.arena import LIGHTS, Arena, Light, resizable_table
from vla_gym.assets.objects.colors import BLACK, CHARCOAL, LIGHT_BROWN, LIGHT_WOOD, SILVER, STEEL, WHITE
from vla_gym.assets.shapes import Geom, box, cylinder, paint


def _counter() -> list[Geom]:
    case = paint(box((0.3, 1.45, 0.43), (-1.68, -0.2, 0.45)), LIGHT_BROWN)
    top = paint(box((0.33, 1.47, 0.02), (-1.66, -0.2, 0.89)), WHITE)
    doors: list[Geom] = []
    for i in range(6):
        y = -1.4 + 0.48 * i
        doors += paint(box((0.01, 0.22, 0.3), (-1.375, y, 0.48)), LIGHT_WOOD)
        doors += paint(box((0.01, 0.01, 0.06), (-1.36, y + 0.17, 0.66)), STEEL)
    return case + top + doors


def _cupboards() -> list[Geom]:
    # the hood hangs between them, above the stove
    parts: list[Geom] = []
    for y in (-0.95, 0.85):
        parts += paint(box((0.17, 0.44, 0.35), (-1.82, y, 1.75)), LIGHT_BROWN)
        for side in (-0.22, 0.22):
            parts += paint(box((0.01, 0.2, 0.32), (-1.645, y + side, 1.75)), LIGHT_WOOD)
    parts += paint(box((0.2, 0.3, 0.06), (-1.8, 0, 1.6)), STEEL)
    return parts + paint(box((0.12, 0.13, 0.4), (-1.87, 0, 2)), STEEL)


def _stove() -> list[Geom]:
    plate = paint(box((0.26, 0.34, 0.01), (-1.64, 0, 0.92)), BLACK)
    oven = paint(box((0.01, 0.3, 0.25), (-1.365, 0, 0.55)), CHARCOAL)
    pot = paint(cylinder(0.11, 0.93, 1.06, (-1.6, 0.17, 0)), STEEL)
    lid = paint(cylinder(0.115, 1.06, 1.07, (-1.6, 0.17, 0)), SILVER)
    return plate + oven + pot + lid + paint(cylinder(0.02, 1.07, 1.1, (-1.6, 0.17, 0)), BLACK)


def _fridge() -> list[Geom]:
    case = paint(box((0.35, 0.4, 0.95), (-1.62, -2.2, 0.95)), SILVER)
    gap = paint(box((0.002, 0.4, 0.005), (-1.27, -2.2, 1.2)), CHARCOAL)
    handles = box((0.02, 0.015, 0.2), (-1.25, -1.88, 1.5)) + box((0.02, 0.015, 0.3), (-1.25, -1.88, 0.8))
    return case + gap + paint(handles, STEEL)


KITCHEN = Arena(
    "gray_ceramic_tile.png",
    "yellow_linen_wall_texture.png",
    "light-wood-table.png",
    resizable_table(),
    furnishings=_counter() + _cupboards() + _stove() + _fridge(),
    walls=(
        ("wall_left_visual", (0.5, 3), -90, 2.5),
        ("wall_right_visual", (0.5, -3), 90, 2.5),
        ("wall_rear_visual", (-2, 0), 0, 3),
        ("wall_front_visual", (3, 0), 180, 3),
    ),
    lights=(Light("light_kitchen", (-1.75, 0, 1.6), (0, 0, -1), specular=0.8, directional=True), *LIGHTS),
)
