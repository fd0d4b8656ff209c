"""Stove and microwave of the primitive pack."""

from __future__ import annotations

from vla_gym.assets.objects.colors import BLACK, BOTTLE_GREEN, CHARCOAL, GLASS, SILVER, STEEL, WHITE
from vla_gym.assets.shapes import Asset, Body, Joint, Site, box, capsule, cylinder, paint, prism, rotation, weigh


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
        contact="plain",
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


def _microwave_door() -> Body:
    handle = capsule(0.01, 0.065, (0.2375, -0.054, 0))
    handle += capsule(0.01, 0.015, (0.2375, -0.0375, 0.065), rotation("x", 90))
    handle += capsule(0.01, 0.015, (0.2375, -0.0375, -0.065), rotation("x", 90))
    frame = box((0.1295, 0.012, 0.0175), (0.1295, -0.013, 0.075)) + box(
        (0.1295, 0.012, 0.0175), (0.1295, -0.013, -0.075)
    )
    frame += box((0.0175, 0.012, 0.0575), (0.0175, -0.013, 0)) + box((0.0275, 0.012, 0.0575), (0.2315, -0.013, 0))
    return Body(
        "microdoorroot",
        pos=(-0.1725, -0.088, 0.096),
        collision=weigh(box((0.1295, 0.012, 0.0925), (0.1295, -0.013, 0)), 0.2) + weigh(handle, 0.06),
        visual=paint(frame, CHARCOAL)
        + paint(box((0.0845, 0.004, 0.0575), (0.1195, -0.013, 0)), GLASS)
        + paint(handle, SILVER),
        joint=Joint("microjoint", "hinge", (0, 0, 1), (-2.094, 0), 0.5),
        contact="soft",
    )


def _microwave() -> Asset:
    walls = (
        box((0.0145, 0.09955, 0.0935), (-0.158, 0.0115, 0.0935)),
        box((0.0545, 0.09955, 0.0935), (0.118, 0.0115, 0.0935)),
        box((0.1035, 0.015, 0.0935), (-0.0405, 0.0955, 0.0935)),
        box((0.1035, 0.0845, 0.0095), (-0.04, -0.0035, 0.1775)),
        box((0.1035, 0.084, 0.012), (-0.04, -0.004, 0.012)),
        box((0.0425, 0.012, 0.0935), (0.13, -0.0985, 0.0935)),
    )
    display = paint(box((0.03, 0.001, 0.014), (0.13, -0.111, 0.155)), BOTTLE_GREEN)
    buttons = [
        button
        for row in range(4)
        for column in (-1, 0, 1)
        for button in paint(box((0.007, 0.001, 0.006), (0.13 + 0.02 * column, -0.111, 0.12 - 0.022 * row)), SILVER)
    ]
    plate = paint(cylinder(0.07, 0.024, 0.027, (-0.04, 0, 0)), WHITE)
    body = Body(
        "object",
        # as in LIBERO, every wall weighs the same
        collision=[geom for wall in walls for geom in weigh(wall, 0.5)],
        visual=[geom for wall in walls for geom in paint(wall, STEEL)] + display + buttons + plate,
        sites=[
            Site("top_side", (0, 0.01, 0.2), (0.12, 0.0835, 0.005)),
            Site("heating_region", (0, 0.01, 0.096), (0.12, 0.0835, 0.08)),
        ],
        contact="soft",
        children=[_microwave_door()],
    )
    return Asset(body, bottom=-0.06, top=0.06, radius=0.015)


APPLIANCES: dict[str, Asset] = {
    "articulated_objects/flat_stove.xml": _flat_stove(),
    "articulated_objects/microwave.xml": _microwave(),
}
