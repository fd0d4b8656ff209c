"""Basket, tray and desk caddy of the primitive pack."""

from __future__ import annotations

from vla_gym.assets.objects.colors import BROWN, LIGHT_WOOD, MAHOGANY, SAND, STRAW
from vla_gym.assets.shapes import Asset, Body, Geom, Site, box, paint, ring, rotation, weigh


def _basket() -> Asset:
    def wall(low: float, high: float, thickness: float) -> list[Geom]:
        lean = 0.0079 / 0.127
        ends = [(0.0678 + lean * (z - 0.015), z) for z in (low, high)]
        return ring(ends[0], ends[1], thickness, 4)

    bottom = box((0.0766, 0.0724, 0.0088), (0, 0, 0.013))
    # wider bands in turn look woven
    bands: list[Geom] = []
    for i in range(6):
        low = 0.015 + 0.0205 * i
        bands += paint(wall(low, low + 0.0205, (0.0133, 0.016)[i % 2]), (SAND, STRAW)[i % 2])
    bands += paint(wall(0.136, 0.143, 0.019), BROWN)
    return Asset(
        Body(
            "object",
            collision=weigh(bottom + wall(0.015, 0.142, 0.0133), 0.1361),
            visual=paint(bottom, STRAW) + bands,
            sites=[Site("contain_region", (0, 0, 0.07185), (0.06108, 0.06108, 0.06949), (0, 0, 0, 1))],
        ),
        bottom=-0.06,
        top=0.04,
        radius=0.025,
    )


def _wooden_tray() -> Asset:
    x, y = 0.0078, -0.005
    boards = box((0.144, 0.0755, 0.0043), (x, y, 0.0037))
    boards += box((0.144, 0.0026, 0.029), (x, -0.0845, 0.0325)) + box((0.144, 0.0026, 0.029), (x, 0.0758, 0.0325))
    boards += box((0.0024, 0.0778, 0.0246), (-0.1392, y, 0.03)) + box((0.0024, 0.0778, 0.0246), (0.1532, y, 0.03))
    posts: list[Geom] = []
    for end in (-0.1332, 0.1462):
        posts += box((0.006, 0.0055, 0.039), (end, -0.0785, 0.0408))
        posts += box((0.006, 0.0055, 0.039), (end, 0.0685, 0.0408))
    bars = box((0.0067, 0.0786, 0.0012), (-0.1335, y, 0.0797)) + box((0.0067, 0.0786, 0.0012), (0.1471, y, 0.0797))
    region = Site("contain_region", (0.00863, -0.00471, 0.04255), (0.04038, 0.07839, 0.13549), rotation("y", 90))
    return Asset(
        Body(
            "object",
            collision=weigh(boards + posts + bars, 0.0572),
            visual=paint(boards, LIGHT_WOOD) + paint(posts + bars, BROWN),
            sites=[region],
        ),
        bottom=-0.06,
        top=0.04,
        radius=0.025,
    )


def _caddy_side(y: float) -> list[Geom]:
    # low at the front, high at the back
    slope = rotation("y", -34.9)
    side = box((0.0706, 0.0036, 0.0333), (0, y, 0.0452)) + box((0.0306, 0.0036, 0.0165), (0.0362, y, 0.095))
    side += box((0.0706, 0.0036, 0.0209), (0, y, 0.0945), slope)
    return side + box((0.0116, 0.0036, 0.0275), (0.0549, y, 0.1305))


def _desk_caddy() -> Asset:
    floor = box((0.0755, 0.2169, 0.0062), (0, 0, 0.0076))
    walls = box((0.004, 0.2098, 0.0815), (0.0668, 0, 0.0868)) + box((0.004, 0.2098, 0.0346), (-0.0669, 0, 0.0395))
    walls += box((0.004, 0.0766, 0.0796), (-0.0669, -0.1398, 0.0877))
    walls += box((0.0706, 0.0062, 0.0824), (0, -0.0681, 0.085)) + box((0.0706, 0.0062, 0.0824), (0, -0.2094, 0.085))
    walls += _caddy_side(0.0706) + _caddy_side(0.2082)
    middle = box((0.004, 0.0668, 0.0434), (-0.0016, 0, 0.0552))
    flat = rotation("y", 180)
    regions = [
        Site("right_contain_region", (0.00631, -0.14339, 0.06558), (0.06196, 0.06216, 0.06046), flat),
        Site("left_contain_region", (0.00631, 0.14551, 0.06558), (0.06196, 0.06216, 0.06046), flat),
        Site("back_contain_region", (0.03364, -0.00064, 0.08558), (0.02775, 0.06216, 0.06046), flat),
        Site(
            "front_contain_region",
            (-0.03102, -0.00064, 0.04054),
            (0.02775, 0.03595, 0.06216),
            (0, 0, 0.70711, -0.70711),
        ),
    ]
    return Asset(
        Body(
            "object",
            collision=weigh(floor + walls + middle, 0.278),
            visual=paint(floor + middle, BROWN) + paint(walls, MAHOGANY),
            sites=regions,
        ),
        bottom=-0.06,
        top=0.04,
        radius=0.025,
    )


CONTAINERS: dict[str, Asset] = {
    "stable_scanned_objects/basket/basket.xml": _basket(),
    "turbosquid_objects/desk_caddy/desk_caddy.xml": _desk_caddy(),
    "turbosquid_objects/wooden_tray/wooden_tray.xml": _wooden_tray(),
}
