"""
Table of the objects and fixtures of the primitive pack: relative file name -> shapes.

Names, sites, joints, masses and outer dimensions are LIBERO's (https://github.com/Lifelong-Robot-Learning/LIBERO), so
that its scene builder, initial states and goal predicates apply; the shapes are our own.
"""

from __future__ import annotations

from vla_gym.assets.shapes import (
    Asset,
    Body,
    Geom,
    Joint,
    Rgba,
    Site,
    box,
    cylinder,
    ellipsoid,
    paint,
    prism,
    ring,
    rotation,
    weigh,
)

BLACK: Rgba = (0.05, 0.05, 0.06, 1)
CHARCOAL: Rgba = (0.16, 0.16, 0.17, 1)
STEEL: Rgba = (0.62, 0.63, 0.65, 1)
SILVER: Rgba = (0.9, 0.9, 0.92, 1)
WHITE: Rgba = (0.95, 0.95, 0.93, 1)
RED: Rgba = (0.75, 0.12, 0.1, 1)
BLUE: Rgba = (0.12, 0.22, 0.62, 1)
BOTTLE_GREEN: Rgba = (0.03, 0.2, 0.07, 1)
LIGHT_WOOD: Rgba = (0.72, 0.53, 0.33, 1)
MAHOGANY: Rgba = (0.4, 0.12, 0.07, 1)
BROWN: Rgba = (0.27, 0.16, 0.09, 1)
LIGHT_BROWN: Rgba = (0.42, 0.27, 0.15, 1)


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


def _flat_stove() -> Asset:
    plate = Body(
        "burner_plate",
        visual=paint(cylinder(0.07, 0.02, 0.0214, name="burner"), CHARCOAL)
        + paint(box((0.07, 0.004, 0.0015), (0, 0, 0.024)), BLACK)
        + paint(box((0.004, 0.07, 0.0015), (0, 0, 0.024)), BLACK),
    )
    burner = Body(
        "burner",
        pos=(0.15, 0, 0),
        collision=weigh(box((0.095, 0.095, 0.02), name="base"), 1.444)
        + weigh(box((0.095, 0.095, 0.0005), (0, 0, 0.025), name="collision_burner"), 0.0361),
        visual=paint(box((0.095, 0.095, 0.02), name="base_vis"), SILVER),
        sites=[
            Site("cook_region", (0, 0, 0), (0.075, 0.075, 0.0025), rgba=(0.8, 0.8, 0, 0)),
            Site("burner", (0, 0, 0.022), (0.0625, 0.0005), kind="cylinder", rgba=(0.9, 0.05, 0.05, 1)),
        ],
        stiff=False,
        children=[plate],
    )
    grip = box((0.0123, 0.0346, 0.0243), (0.0014, 0.0174, 0.0257))
    tail = box((0.0122, 0.0145, 0.0175), (0.0012, -0.0255, 0.022))
    pointer = box((0.003, 0.0346, 0.0005), (0.0014, 0.0174, 0.0505))
    button = Body(
        "button",
        quat=rotation("z", 90),
        collision=prism(0.0475, 0.0004, 0.0128, 8, (0.0014, 0.0043, 0)) + grip + tail,
        visual=paint(cylinder(0.0475, 0.0004, 0.0128, (0.0014, 0.0043, 0)) + grip + tail, BLACK)
        + paint(pointer, WHITE),
        joint=Joint("button", "hinge", (0, 0, 1), (-0.005, 2.1), 1),
        inertia=(3, 1),
    )
    return Asset(Body("object", children=[Body("base", children=[burner, button])]), -0.045, 0.045, 0.045, 0.05)


def _drawer(level: str, centre: float, region: float, handle: float) -> Body:
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
        visual=paint(panels, LIGHT_BROWN) + paint(grip, STEEL),
        sites=[Site(f"{level}_region", (0.00328, 0.01128, region), (0.02993, 0.07561, 0.10224), upright)],
        joint=Joint(f"{level}_level", "slide", (0, 1, 0), (-0.16, 0.01), 50),
        inertia=(3, 1),
    )


def _wooden_cabinet() -> Asset:
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
        visual=paint(case, BROWN),
        sites=[Site("top_side", (0.00354, 0.01567, 0.22152), (0.12534, 0.09438, 0.00147), rgba=(0.8, 0.8, 0, 0))],
        children=[
            _drawer("top", 0.1836, 0.18563, 0.1839),
            _drawer("middle", 0.1139, 0.1169, 0.1104),
            _drawer("bottom", 0.0453, 0.04701, 0.0411),
        ],
    )
    return Asset(Body("object", children=[base]), -0.045, 0.045, 0.045, 0.05)


OBJECTS: dict[str, Asset] = {
    "articulated_objects/flat_stove.xml": _flat_stove(),
    "articulated_objects/wooden_cabinet.xml": _wooden_cabinet(),
    "stable_hope_objects/cream_cheese/cream_cheese.xml": _cream_cheese(),
    "stable_scanned_objects/akita_black_bowl/akita_black_bowl.xml": _akita_black_bowl(),
    "stable_scanned_objects/plate/plate.xml": _plate(),
    "turbosquid_objects/wine_bottle/wine_bottle.xml": _wine_bottle(),
    "turbosquid_objects/wine_rack/wine_rack.xml": _wine_rack(),
}
