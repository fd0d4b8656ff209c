"""Cartons, cans and bottles of the primitive pack."""

from __future__ import annotations

from vla_gym.assets.objects.colors import BLUE, BOTTLE_GREEN, RED, WHITE
from vla_gym.assets.shapes import Asset, Body, box, cylinder, ellipsoid, paint, prism, ring, weigh


def _cream_cheese() -> Asset:
    carton = box((0.0406, 0.0213, 0.0089))
    visual = paint(carton, BLUE) + paint(box((0.013, 0.0215, 0.0091)), WHITE)
    return Asset(Body("object", collision=weigh(carton, 0.0062), visual=visual), -0.025, 0.025, 0.03)


def _wine_bottle() -> Asset:
    # the core stands a little lower than the barrel: one box touches the table instead of nine
    collision = (
        weigh(box((0.015, 0.015, 0.0325), (0, 0, 0.0336)), 0.0065)
        + weigh(ring((0.018, 0.0016), (0.018, 0.0665), 0.003, 8), 0.0039)
        + weigh(box((0.0125, 0.0125, 0.011), (0, 0, 0.077)), 0.0012)
        + weigh(prism(0.007, 0.0477, 0.158, 8), 0.0038)
    )
    visual = (
        paint(cylinder(0.0195, 0.0011, 0.066), BOTTLE_GREEN)
        + paint(cylinder(0.0199, 0.02, 0.05), RED)
        + paint(ellipsoid((0.0195, 0.0195, 0.03), (0, 0, 0.066)), BOTTLE_GREEN)
        + paint(cylinder(0.0068, 0.08, 0.146), BOTTLE_GREEN)
        + paint(cylinder(0.0074, 0.14, 0.158), RED)
    )
    return Asset(Body("object", collision=collision, visual=visual), -0.06, 0.04, 0.025)


GROCERIES: dict[str, Asset] = {
    "stable_hope_objects/cream_cheese/cream_cheese.xml": _cream_cheese(),
    "turbosquid_objects/wine_bottle/wine_bottle.xml": _wine_bottle(),
}
