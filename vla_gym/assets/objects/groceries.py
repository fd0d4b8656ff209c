"""Cartons and cans of the primitive pack."""

from __future__ import annotations

from vla_gym.assets.objects.colors import (
    BLACK,
    BLUE,
    CHOCOLATE,
    CREAM,
    LEAF_GREEN,
    ORANGE,
    PINK,
    RED,
    STEEL,
    TOMATO,
    WHITE,
    YELLOW,
)
from vla_gym.assets.shapes import Asset, Body, Geom, Rgba, box, cylinder, move, paint, ring, rotation, weigh

# LIBERO's scans of standing things lie on their backs: their height runs along y
STANDING = rotation("x", -90)


def _cream_cheese() -> Asset:
    carton = box((0.0406, 0.0213, 0.0089))
    visual = paint(carton, BLUE) + paint(box((0.013, 0.0215, 0.0091)), WHITE)
    return Asset(Body("object", collision=weigh(carton, 0.0062), visual=visual), -0.025, 0.025, 0.03)


def _butter() -> Asset:
    carton = box((0.0381, 0.0197, 0.0087))
    visual = paint(carton, YELLOW) + paint(box((0.0383, 0.0199, 0.0032)), WHITE)
    visual += paint(box((0.007, 0.0199, 0.0089), (0.022, 0, 0)), RED)
    return Asset(Body("object", collision=weigh(carton, 0.00525), visual=visual), -0.02, 0.02, 0.02)


def _chocolate_pudding() -> Asset:
    middle = (-0.0005, 0, 0.0006)
    carton = box((0.0401, 0.0232, 0.0137), middle)
    visual = paint(carton, CHOCOLATE) + paint(box((0.0403, 0.0234, 0.003), (-0.0005, 0, 0.0075)), CREAM)
    visual += paint(box((0.0215, 0.0115, 0.0139), middle), CREAM)
    return Asset(Body("object", collision=weigh(carton, 0.0102), visual=visual), -0.06, 0.04, 0.025)


def _cookies() -> Asset:
    carton = box((0.031, 0.0413, 0.0094))
    visual = paint(carton, PINK) + paint(cylinder(0.0205, -0.0096, 0.0096, (0, -0.012, 0)), YELLOW)
    visual += paint(box((0.0312, 0.0075, 0.0096), (0, 0.024, 0)), WHITE)
    return Asset(Body("object", collision=weigh(carton, 0.00964), visual=visual), -0.06, 0.04, 0.025)


def _gable_carton(x: float, main: Rgba, roof: Rgba, pattern: list[Geom], radius: float) -> Asset:
    trunk = box((0.0262, 0.0262, 0.0548), (0, 0, -0.015))
    slopes = box((0.0262, 0.0143, 0.0021), (0, 0.0139, 0.0478), rotation("x", -40))
    slopes += box((0.0262, 0.0143, 0.0021), (0, -0.0139, 0.0478), rotation("x", 40))
    ridge = box((0.0264, 0.0032, 0.0034), (0, 0, 0.058))
    collision = weigh(trunk, 0.0301) + weigh(slopes, 0.0013) + weigh(ridge, 0.0003)
    visual = paint(trunk, main) + pattern + paint(slopes, roof) + paint(ridge, WHITE)
    # its lower half is inside the trunk
    gable = box((0.0258, 0.0129, 0.0129), (0, 0, 0.0398), rotation("x", 45))
    visual += paint(gable, main)
    body = Body("object", collision=move(collision, (x, 0, 0), STANDING), visual=move(visual, (x, 0, 0), STANDING))
    return Asset(body, -0.06, 0.04, radius)


def _milk() -> Asset:
    band = paint(box((0.0264, 0.0264, 0.0115), (0, 0, 0.012)), RED)
    patches = paint(box((0.0264, 0.0115, 0.0095), (0, -0.0105, -0.034)), BLACK)
    patches += paint(box((0.0115, 0.0264, 0.0095), (0.0105, 0, -0.034)), BLACK)
    return _gable_carton(0.0004, WHITE, RED, band + patches, 0.03)


def _orange_juice() -> Asset:
    band = paint(box((0.0264, 0.0264, 0.0095), (0, 0, 0.019)), WHITE)
    meadow = paint(box((0.0264, 0.0264, 0.009), (0, 0, -0.06)), LEAF_GREEN)
    return _gable_carton(-0.0004, ORANGE, YELLOW, band + meadow, 0.025)


def _can(label: Rgba, band: Rgba, depth: float, mass: float, bottom: float) -> Asset:
    # the core stands a little lower than the wall: one box touches the table instead of thirteen
    core = box((0.0205, 0.0205, 0.0376), (0, 0, -0.0008))
    wall = ring((0.0282, -0.0381), (0.0282, 0.037), 0.006, 12)
    collision = weigh(core, 0.54 * mass) + weigh(wall, 0.46 * mass)
    visual = (
        paint(cylinder(0.0305, -0.0384, 0.0355), STEEL)
        + paint(cylinder(0.0312, -0.0384, -0.0355) + cylinder(0.0312, 0.0345, 0.037), STEEL)
        + paint(cylinder(0.0308, -0.033, 0.032), label)
        + paint(cylinder(0.031, -0.024, -0.004), band)
    )
    place = (0.0, 0.0, depth)
    body = Body("object", collision=move(collision, place, STANDING), visual=move(visual, place, STANDING))
    return Asset(body, bottom, 0.04, 0.025)


GROCERIES: dict[str, Asset] = {
    "stable_hope_objects/alphabet_soup/alphabet_soup.xml": _can(BLUE, YELLOW, -0.0037, 0.0259, -0.04),
    "stable_hope_objects/butter/butter.xml": _butter(),
    "stable_hope_objects/chocolate_pudding/chocolate_pudding.xml": _chocolate_pudding(),
    "stable_hope_objects/cookies/cookies.xml": _cookies(),
    "stable_hope_objects/cream_cheese/cream_cheese.xml": _cream_cheese(),
    "stable_hope_objects/milk/milk.xml": _milk(),
    "stable_hope_objects/orange_juice/orange_juice.xml": _orange_juice(),
    "stable_hope_objects/tomato_sauce/tomato_sauce.xml": _can(TOMATO, LEAF_GREEN, -0.0033, 0.0266, -0.06),
}
