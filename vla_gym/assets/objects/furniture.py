"""Cabinets, shelves, racks and trays of the primitive pack."""

from __future__ import annotations

from vla_gym.assets.objects.colors import BROWN, CHARCOAL, IVORY, LIGHT_BROWN, LIGHT_WOOD, MAHOGANY, STEEL, WHITE
from vla_gym.assets.shapes import Asset, Body, Geom, Joint, Rgba, Site, box, paint, rotation, weigh


def _wine_rack() -> Asset:
    slope = rotation("x", 31.2)
    shelves = box((0.1344, 0.0789, 0.0045), (0, -0.0061, 0.2512), slope)
    shelves += box((0.1344, 0.0789, 0.0045), (0, -0.0427, 0.1273), slope)
    # lips at the lower edges keep a bottle from rolling off
    lips = box((0.1322, 0.0011, 0.0087), (0, -0.0748, 0.2207), slope)
    lips += box((0.1322, 0.0011, 0.0087), (0, -0.1091, 0.0974), slope)
    stand = box((0.09, 0.127, 0.0056), (0, 0.0005, 0.0034))
    stand += box((0.0076, 0.0091, 0.1616), (0, 0.0089, 0.1703), rotation("x", -15.8))
    collision = weigh(shelves, 0.0763) + weigh(lips, 0.0042) + weigh(stand, 0.0722)
    visual = paint(shelves, LIGHT_WOOD) + paint(lips, BROWN) + paint(stand, MAHOGANY)
    top_region = Site("top_region", (0, -0.08003, 0.21745), (0.10087, 0.022, 0.00251), rotation("x", -62.5))
    return Asset(Body("object", collision=collision, visual=visual, sites=[top_region]), -0.06, 0.04, 0.025)


def _drawer(level: str, centre: float, region: float, handle: float, front: Rgba, metal: Rgba) -> Body:
    panels: list[Geom] = []
    panels += box((0.1093, 0.0066, 0.0325), (0.0033, -0.0714, centre))
    panels += box((0.1068, 0.0036, 0.0321), (0.0033, 0.0908, centre))
    panels += box((0.0024, 0.0815, 0.0316), (-0.1019, 0.0111, centre))
    panels += box((0.0024, 0.0815, 0.0316), (0.1089, 0.0111, centre))
    panels += box((0.107, 0.081, 0.004), (0.0035, 0.0105, centre - 0.0284))
    grip = box((0.0444, 0.0077, 0.0082), (-0.0028, -0.1016, handle))
    grip += box((0.0051, 0.0106, 0.0055), (0.0292, -0.0835, handle))
    grip += box((0.0051, 0.0106, 0.0055), (-0.0356, -0.0835, handle))
    upright = rotation("y", 90)
    return Body(
        f"cabinet_{level}",
        collision=panels + grip,
        visual=paint(panels, front) + paint(grip, metal),
        sites=[Site(f"{level}_region", (0.00328, 0.01128, region), (0.02993, 0.07561, 0.10224), upright)],
        joint=Joint(f"{level}_level", "slide", (0, 1, 0), (-0.16, 0.01), 50),
        inertia=(3, 1),
    )


def _cabinet(outside: Rgba, front: Rgba, metal: Rgba) -> Asset:
    case: list[Geom] = []
    case += box((0.0052, 0.0954, 0.1058), (-0.1122, 0.0163, 0.1143))
    case += box((0.0052, 0.0954, 0.1058), (0.119, 0.0163, 0.1143))
    case += box((0.1191, 0.0023, 0.1058), (0.0034, 0.1095, 0.1143))
    case += box((0.1228, 0.0896, 0.0027), (0.004, 0.0165, 0.0075))
    case += box((0.1117, 0.0894, 0.0009), (0.0038, 0.0187, 0.0793))
    case += box((0.1117, 0.0894, 0.0009), (0.0038, 0.0187, 0.1494))
    case += box((0.1273, 0.0941, 0.0014), (0.0039, 0.0158, 0.2216))
    base = Body(
        "base",
        collision=weigh(case, 0.1762),
        visual=paint(case, outside),
        sites=[Site("top_side", (0.00354, 0.01567, 0.22152), (0.12534, 0.09438, 0.00147), rgba=(0.8, 0.8, 0, 0))],
        children=[
            _drawer("top", 0.1836, 0.18563, 0.1839, front, metal),
            _drawer("middle", 0.1139, 0.1169, 0.1104, front, metal),
            _drawer("bottom", 0.0453, 0.04701, 0.0411, front, metal),
        ],
    )
    return Asset(Body("object", children=[base]), -0.045, 0.045, 0.045, 0.05)


def _wooden_two_layer_shelf() -> Asset:
    sides = box((0.0071, 0.0954, 0.1044), (-0.1538, 0.0163, 0.1046))
    sides += box((0.0071, 0.0954, 0.1044), (0.1631, 0.0163, 0.1046))
    back = box((0.1633, 0.0023, 0.1044), (0.0047, 0.1094, 0.1046))
    shelf = box((0.1533, 0.0895, 0.001), (0.0047, 0.0187, 0.07))
    top = box((0.1757, 0.0951, 0.0023), (0.005, 0.0163, 0.2083))
    regions = [
        Site("top_side", (0.00496, 0.01567, 0.20688), (0.17557, 0.09438, 0.00147)),
        Site("top_region", (0.00538, 0.01687, 0.13672), (0.06739, 0.08564, 0.15093), rotation("y", -90)),
        Site("bottom_region", (0.00555, 0.01687, 0.01407), (0.03528, 0.08564, 0.1558), rotation("y", 90)),
    ]
    return Asset(
        Body(
            "object",
            collision=weigh(sides + back + shelf + top, 0.2063),
            visual=paint(sides + top, MAHOGANY) + paint(back, BROWN) + paint(shelf, LIGHT_WOOD),
            sites=regions,
        ),
        bottom=-0.06,
        top=0.04,
        radius=0.025,
    )


FURNITURE: dict[str, Asset] = {
    "articulated_objects/white_cabinet.xml": _cabinet(outside=WHITE, front=IVORY, metal=CHARCOAL),
    "articulated_objects/wooden_cabinet.xml": _cabinet(outside=BROWN, front=LIGHT_BROWN, metal=STEEL),
    "turbosquid_objects/wine_rack/wine_rack.xml": _wine_rack(),
    "turbosquid_objects/wooden_two_layer_shelf/wooden_two_layer_shelf.xml": _wooden_two_layer_shelf(),
}
