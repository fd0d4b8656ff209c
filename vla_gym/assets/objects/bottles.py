"""Bottles of the primitive pack."""

from __future__ import annotations

from vla_gym.assets.objects.colors import BOTTLE_GREEN, CREAM, LEAF_GREEN, MAROON, OLIVE, RED, TOMATO, WHITE, YELLOW
from vla_gym.assets.objects.groceries import STANDING
from vla_gym.assets.shapes import Asset, Body, Rgba, box, cylinder, ellipsoid, move, paint, prism, ring, weigh


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


def _bbq_sauce() -> Asset:
    collision = (
        weigh(box((0.0235, 0.0145, 0.0266), (0, 0, -0.028)), 0.0073)
        + weigh(box((0.0182, 0.0144, 0.0146), (0, 0, 0.0124)), 0.003)
        + weigh(prism(0.0138, 0.0268, 0.0525, 8), 0.0019)
    )
    visual = (
        paint(box((0.0232, 0.0143, 0.0264), (0, 0, -0.028)), MAROON)
        + paint(ellipsoid((0.0232, 0.0143, 0.031)), MAROON)
        + paint(box((0.0205, 0.0147, 0.0145), (0, 0, -0.029)), YELLOW)
        + paint(cylinder(0.014, 0.0268, 0.0525), RED)
    )
    return Asset(Body("object", collision=collision, visual=visual), -0.06, 0.06, 0.015)


def _ketchup() -> Asset:
    collision = (
        weigh(box((0.0281, 0.017, 0.033), (0, 0, -0.0394)), 0.0126)
        + weigh(box((0.024, 0.0176, 0.011), (0, 0, 0.0046)), 0.004)
        + weigh(box((0.0188, 0.0178, 0.0108), (0, 0, 0.0258)), 0.0031)
        + weigh(prism(0.017, 0.0362, 0.0732, 8), 0.0035)
    )
    visual = (
        paint(box((0.0275, 0.0167, 0.0328), (0, 0, -0.0394)), TOMATO)
        + paint(ellipsoid((0.0275, 0.0172, 0.046), (0, 0, -0.0064)), TOMATO)
        + paint(box((0.0245, 0.0172, 0.0145), (0, 0, -0.036)), WHITE)
        + paint(box((0.0248, 0.0174, 0.004), (0, 0, -0.036)), LEAF_GREEN)
        + paint(cylinder(0.0172, 0.0335, 0.0732), WHITE)
    )
    shift = (0.0004, 0.0, 0.0008)
    body = Body("object", collision=move(collision, shift, STANDING), visual=move(visual, shift, STANDING))
    return Asset(body, -0.06, 0.04, 0.025)


def _dressing(name: str, pos: tuple[float, float, float], main: Rgba, label: Rgba, stripe: Rgba) -> Body:
    collision = (
        weigh(box((0.0222, 0.0173, 0.0102), (0, 0, -0.0625)), 0.0026)
        + weigh(box((0.0262, 0.0173, 0.021), (0, 0, -0.0314)), 0.0077)
        + weigh(box((0.0222, 0.0173, 0.0058), (0, 0, -0.0048)), 0.002)
        + weigh(box((0.0148, 0.0155, 0.0175), (0, 0, 0.0183)), 0.0052)
        + weigh(prism(0.017, 0.0355, 0.0728, 8), 0.0043)
    )
    visual = (
        paint(box((0.022, 0.0168, 0.0102), (0, 0, -0.0625)), main)
        + paint(box((0.0255, 0.0168, 0.0215), (0, 0, -0.0315)), main)
        + paint(ellipsoid((0.0252, 0.0166, 0.045), (0, 0, -0.012)), main)
        + paint(box((0.0262, 0.0173, 0.0135), (0, 0, -0.033)), label)
        + paint(box((0.0264, 0.0175, 0.004), (0, 0, -0.033)), stripe)
        + paint(cylinder(0.0132, 0.015, 0.036), main)
        + paint(cylinder(0.0172, 0.0355, 0.0728), BOTTLE_GREEN)
    )
    shift = (-0.0007, 0.0, 0.0002)
    return Body(name, pos, collision=move(collision, shift, STANDING), visual=move(visual, shift, STANDING))


def _salad_dressing() -> Asset:
    return Asset(_dressing("object", (0, 0, 0), CREAM, LEAF_GREEN, WHITE), -0.06, 0.04, 0.025)


def _new_salad_dressing() -> Asset:
    # LIBERO lifted the bottle by hanging it on a body of its own; the name is LIBERO's
    bottle = _dressing("sald_dressing_body", (0, 0.05, 0), OLIVE, WHITE, RED)
    return Asset(Body("object", children=[bottle]), -0.06, 0.04, 0.025)


BOTTLES: dict[str, Asset] = {
    "stable_hope_objects/bbq_sauce/bbq_sauce.xml": _bbq_sauce(),
    "stable_hope_objects/ketchup/ketchup.xml": _ketchup(),
    "stable_hope_objects/new_salad_dressing/new_salad_dressing.xml": _new_salad_dressing(),
    "stable_hope_objects/salad_dressing/salad_dressing.xml": _salad_dressing(),
    "turbosquid_objects/wine_bottle/wine_bottle.xml": _wine_bottle(),
}
