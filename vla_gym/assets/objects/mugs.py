"""Mugs of the primitive pack."""

from __future__ import annotations

from vla_gym.assets.objects.colors import RED, WHITE, YELLOW
from vla_gym.assets.shapes import (
    IDENTITY,
    Asset,
    Body,
    Geom,
    Quaternion,
    Vector3,
    bars,
    box,
    cylinder,
    move,
    paint,
    ring,
    rotation,
    weigh,
)


def _mug(collision: list[Geom], visual: list[Geom], place: Vector3, turn: Quaternion = IDENTITY) -> Asset:
    body = Body("object", collision=move(collision, place, turn), visual=move(visual, place, turn))
    return Asset(body, -0.06, 0.04, 0.025)


def _porcelain_mug() -> Asset:
    handle = bars([(0.041, 0.0895), (0.0735, 0.0755), (0.0745, 0.036), (0.038, 0.0225)], 0.0076, 0.016)
    collision = (
        weigh(box((0.0195, 0.0195, 0.0052), (0, 0, 0.0076)), 0.0024)
        + weigh(ring((0.0247, 0.0068), (0.0422, 0.043), 0.003, 7), 0.0031)
        + weigh(ring((0.0422, 0.0428), (0.0422, 0.1085), 0.0046, 8), 0.0095)
        + weigh(handle, 0.0015)
    )
    shell = ring((0.0247, 0.0068), (0.0418, 0.043), 0.003, 12) + ring((0.0418, 0.0428), (0.0418, 0.1085), 0.0046, 12)
    visual = paint(cylinder(0.0255, 0.0024, 0.0128) + shell + handle, WHITE)
    # its handle points towards lower x
    return _mug(collision, visual, (0.0145, -0.0015, 0), rotation("z", 180))


def _red_coffee_mug() -> Asset:
    handle = bars([(0.034, 0.1095), (0.0695, 0.1135), (0.0735, 0.0745), (0.0275, 0.025)], 0.0056, 0.0146)
    collision = (
        weigh(box((0.0205, 0.0205, 0.0048), (0, 0, 0.003)), 0.0013)
        + weigh(ring((0.0245, -0.001), (0.0405, 0.1305), 0.0068, 8), 0.0268)
        + weigh(handle, 0.0012)
    )
    shell = ring((0.0245, -0.001), (0.0395, 0.1305), 0.0068, 12)
    visual = paint(cylinder(0.026, -0.0018, 0.0078) + shell + handle, RED)
    return _mug(collision, visual, (-0.0155, -0.0015, 0))


def _white_yellow_mug() -> Asset:
    handle = bars([(0.043, 0.0775), (0.0825, 0.0815), (0.0825, 0.0235), (0.034, 0.0315)], 0.008, 0.0172)
    collision = (
        weigh(box((0.0205, 0.0205, 0.0027), (0, 0, 0.0026)), 0.0013)
        + weigh(ring((0.025, 0.0026), (0.0368, 0.0205), 0.008, 7), 0.0036)
        + weigh(ring((0.0365, 0.017), (0.0484, 0.1028), 0.008, 8), 0.0239)
        + weigh(handle, 0.0022)
    )
    shell = ring((0.026, 0.0026), (0.0378, 0.0205), 0.006, 12) + ring((0.0375, 0.017), (0.0488, 0.1028), 0.006, 12)
    lining = ring((0.0345, 0.017), (0.0462, 0.1031), 0.0024, 12) + ring((0.0235, 0.005), (0.0345, 0.0205), 0.003, 12)
    visual = paint(shell + cylinder(0.027, -0.0001, 0.004), WHITE)
    visual += paint(lining + cylinder(0.027, 0.004, 0.0056) + handle, YELLOW)
    return _mug(collision, visual, (-0.0182, 0, 0))


MUGS: dict[str, Asset] = {
    "turbosquid_objects/porcelain_mug/porcelain_mug.xml": _porcelain_mug(),
    "turbosquid_objects/red_coffee_mug/red_coffee_mug.xml": _red_coffee_mug(),
    "turbosquid_objects/white_yellow_mug/white_yellow_mug.xml": _white_yellow_mug(),
}
