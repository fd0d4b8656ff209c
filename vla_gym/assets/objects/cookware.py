"""Pots and pans of the primitive pack."""

from __future__ import annotations

from vla_gym.assets.objects.colors import BLACK, CHARCOAL, GRAPHITE, SILVER, STEEL
from vla_gym.assets.shapes import Asset, Body, bars, box, cylinder, move, paint, prism, ring, rotation, weigh


def _moka_pot() -> Asset:
    spout = box((0.012, 0.008, 0.0225), (0, -0.0415, 0.0445)) + box((0.007, 0.0058, 0.0115), (0, -0.0505, 0.049))
    bend = [(0.034, 0.0585), (0.073, 0.0605), (0.0835, 0.05), (0.0585, 0.0005)]
    # the handle points along y
    handle = move(bars(bend, 0.0138, 0.0134), quat=rotation("z", 90))
    knob = box((0.0054, 0.006, 0.0112), (0, -0.0013, 0.0745))
    collision = (
        weigh(box((0.026, 0.026, 0.0665), (0, 0, 0.0004)), 0.0405)
        + weigh(ring((0.0355, -0.0655), (0.0355, 0.0668), 0.004, 8), 0.0211)
        + weigh(spout, 0.0026)
        + weigh(handle, 0.0037)
        + weigh(knob, 0.0003)
    )
    boiler = ring((0.034, -0.0655), (0.0285, -0.002), 0.005, 8)
    jug = ring((0.0265, 0.004), (0.035, 0.064), 0.005, 8)
    visual = (
        paint(boiler + jug + spout, SILVER)
        + paint(
            cylinder(0.0305, -0.004, 0.006) + cylinder(0.036, 0.062, 0.067) + cylinder(0.034, -0.066, -0.062), STEEL
        )
        + paint(handle + knob, BLACK)
    )
    return Asset(Body("object", collision=collision, visual=visual), -0.06, 0.04, 0.025)


def _frypan() -> Asset:
    neck = bars([(0.096, 0.018), (0.126, 0.0352)], 0.0135, 0.0205)
    handle = bars([(0.118, 0.0345), (0.2515, 0.0522)], 0.0124, 0.0254)
    collision = (
        weigh(box((0.0545, 0.0545, 0.0058), (0, 0, 0.0066)), 0.0145)
        + weigh(prism(0.072, 0.003, 0.0119, 6), 0.0099)
        + weigh(ring((0.0788, 0.0045), (0.0995, 0.0408), 0.0072, 12), 0.0205)
        + weigh(neck, 0.0011)
        + weigh(handle, 0.0042)
    )
    shell = ring((0.0788, 0.0045), (0.0998, 0.0408), 0.005, 16)
    visual = (
        paint(shell + cylinder(0.081, 0.0008, 0.0115), CHARCOAL)
        + paint(cylinder(0.0765, 0.0115, 0.0122), GRAPHITE)
        + paint(neck, STEEL)
        + paint(handle, BLACK)
    )
    place = (0.0074, -0.001, 0.0)
    return Asset(Body("object", collision=move(collision, place), visual=move(visual, place)), -0.06, 0.04, 0.025)


COOKWARE: dict[str, Asset] = {
    "stable_scanned_objects/chefmate_8_frypan/chefmate_8_frypan.xml": _frypan(),
    "turbosquid_objects/moka_pot/moka_pot.xml": _moka_pot(),
}
