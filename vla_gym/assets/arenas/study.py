"""The study: a desk with a lamp in front of a book shelf, a plant and a painting."""

from __future__ import annotations

from vla_gym.assets.arenas.arena import Arena
from vla_gym.assets.objects.colors import BLACK, BLUE, BOTTLE_GREEN, BROWN, CHARCOAL, LIGHT_WOOD, MAHOGANY, RED, WHITE
from vla_gym.assets.shapes import Body, Geom, box, cylinder, ellipsoid, paint


def _desk() -> Body:
    top = box((0.68946, 1.39273, 0.03584), (0, 0, 0.84929))
    legs: list[Geom] = []
    for leg, foot in ((-0.69064, -0.69765), (0.7122, 0.71473)):
        for x in (-0.50048, 0.49617):
            legs += box((0.02002, 0.05031, 0.39407), (x, leg, 0.39431))
        legs += box((0.51262, 0.05031, 0.02002), (-0.00488, foot, 0.02528))
    return Body("study_table", collision=top + legs, visual=top + paint(legs, CHARCOAL))


def _lamp() -> list[Geom]:
    stand = cylinder(0.07, 0.885, 0.9, (0.3, -0.6, 0)) + cylinder(0.01, 0.9, 1.35, (0.3, -0.6, 0))
    return paint(stand, BLACK) + paint(cylinder(0.11, 1.35, 1.52, (0.3, -0.6, 0)), WHITE)


def _book_shelf() -> list[Geom]:
    frame = box((0.15, 0.02, 0.95), (-1.8, -1.5, 0.95)) + box((0.15, 0.02, 0.95), (-1.8, -0.4, 0.95))
    frame += box((0.01, 0.55, 0.95), (-1.95, -0.95, 0.95))
    books: list[Geom] = []
    colours = (RED, BLUE, BOTTLE_GREEN, BLACK, MAHOGANY)
    for shelf in range(5):
        height = 0.05 + 0.45 * shelf
        frame += box((0.15, 0.55, 0.015), (-1.8, -0.95, height))
        for i in range(4 if shelf < 4 else 0):
            tall = 0.13 + 0.02 * ((i + shelf) % 3)
            place = (-1.78, -1.32 + 0.07 * i + 0.2 * (shelf % 3), height + 0.015 + tall)
            books += paint(box((0.1, 0.03, tall), place), colours[(2 * i + shelf) % 5])
    return paint(frame, BROWN) + books


def _plant() -> list[Geom]:
    x, y = -1.75, 0.6
    leaves = ellipsoid((0.22, 0.22, 0.3), (x, y, 1.05)) + ellipsoid((0.12, 0.3, 0.2), (x, y + 0.05, 0.85))
    leaves += ellipsoid((0.16, 0.14, 0.25), (x + 0.05, y - 0.1, 1.3))
    pot = paint(cylinder(0.17, 0, 0.35, (x, y, 0)), MAHOGANY) + paint(cylinder(0.025, 0.35, 0.9, (x, y, 0)), BROWN)
    return pot + paint(leaves, (0.1, 0.36, 0.13, 1))


def _painting() -> list[Geom]:
    frame = paint(box((0.01, 0.35, 0.25), (-1.97, 0.1, 1.75)), LIGHT_WOOD)
    sky = paint(box((0.012, 0.3, 0.1), (-1.965, 0.1, 1.85)), (0.5, 0.68, 0.85, 1))
    return frame + sky + paint(box((0.012, 0.3, 0.1), (-1.965, 0.1, 1.65)), (0.35, 0.5, 0.25, 1))


STUDY = Arena(
    "light-gray-floor-tile.png",
    "light-gray-plaster.png",
    "dark-wood-table.png",
    _desk(),
    furnishings=_lamp() + _book_shelf() + _plant() + _painting(),
)
