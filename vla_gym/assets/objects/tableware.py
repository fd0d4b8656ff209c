"""Bowls and plates of the primitive pack."""

from __future__ import annotations

from vla_gym.assets.objects.colors import BLACK, CHARCOAL, LIGHT_WOOD, PORCELAIN, RED, WHITE
from vla_gym.assets.shapes import Asset, Body, box, cylinder, move, paint, prism, ring, rotation, weigh


def _akita_black_bowl() -> Asset:
    foot = box((0.0205, 0.0205, 0.0026), (0, 0, 0.0042))
    belly = ring((0.0245, 0.004), (0.0437, 0.0155), 0.0016, 8)
    wall = ring((0.0425, 0.0152), (0.0515, 0.0517), 0.0026, 12)
    collision = weigh(foot, 0.0012) + weigh(belly, 0.0011) + weigh(wall, 0.0033)
    visual = paint(cylinder(0.026, 0.0016, 0.0068), CHARCOAL) + paint(belly + wall, BLACK)
    return Asset(Body("object", pos=(0, -0.1, 0), collision=collision, visual=visual), -0.06, 0.04, 0.025)


def _plate() -> Asset:
    well = box((0.0295, 0.0295, 0.0039), (0, 0, 0.0014))
    slope = ring((0.031, 0.001), (0.0668, 0.0135), 0.005, 8)
    rim = ring((0.0575, 0.0113), (0.0685, 0.0152), 0.005, 10)
    visual = (
        paint(cylinder(0.034, -0.0025, 0.0053), WHITE)
        + paint(ring((0.031, 0.001), (0.06, 0.0115), 0.005, 10), WHITE)
        + paint(rim, RED)
    )
    return Asset(Body("object", collision=weigh(well, 0.002) + weigh(slope, 0.0095), visual=visual), -0.06, 0.04, 0.025)


def _white_bowl() -> Asset:
    foot = box((0.0168, 0.0168, 0.0018), (0, 0, 0.0024))
    # turned, because MuJoCo sees edges that are exactly parallel to a microwave's as centimetres inside it, and stored
    # states drop this bowl onto one
    turn = rotation("z", 5)
    belly = move(ring((0.0155, 0.0032), (0.0312, 0.0115), 0.0014, 6), quat=turn)
    wall = move(ring((0.0308, 0.0108), (0.0395, 0.035), 0.002, 10), quat=turn)
    collision = weigh(foot, 0.0004) + weigh(belly, 0.0004) + weigh(wall, 0.00129)
    smooth = ring((0.0155, 0.0032), (0.0308, 0.0115), 0.0014, 12) + ring((0.0306, 0.0108), (0.0392, 0.035), 0.002, 12)
    visual = paint(cylinder(0.0185, 0.0006, 0.0042), WHITE) + paint(smooth, WHITE)
    return Asset(Body("object", collision=collision, visual=visual), -0.06, 0.04, 0.025)


def _ramekin() -> Asset:
    core = box((0.0255, 0.0255, 0.0033), (0, 0, 0.004))
    floor = prism(0.033, 0.0011, 0.0073, 6)
    wall = ring((0.0352, 0.0013), (0.0414, 0.0425), 0.0052, 12)
    collision = weigh(core, 0.0013) + weigh(floor, 0.0014) + weigh(wall, 0.007)
    glaze = ring((0.0404, 0.0358), (0.0414, 0.0425), 0.0058, 12)
    visual = paint(cylinder(0.0355, 0.0007, 0.0073), WHITE) + paint(glaze, LIGHT_WOOD)
    # two tones in turn, as of a fluted wall
    visual += paint(wall[::2], WHITE) + paint(wall[1::2], PORCELAIN)
    return Asset(Body("object", collision=collision, visual=visual), -0.06, 0.04, 0.025)


TABLEWARE: dict[str, Asset] = {
    "stable_scanned_objects/akita_black_bowl/akita_black_bowl.xml": _akita_black_bowl(),
    "stable_scanned_objects/glazed_rim_porcelain_ramekin/glazed_rim_porcelain_ramekin.xml": _ramekin(),
    "stable_scanned_objects/plate/plate.xml": _plate(),
    "stable_scanned_objects/white_bowl/white_bowl.xml": _white_bowl(),
}
