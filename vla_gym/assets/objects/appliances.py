"""Stove and microwave of the primitive pack."""

from __future__ import annotations

from vla_gym.assets.objects.colors import BLACK, CHARCOAL, SILVER, WHITE
from vla_gym.assets.shapes import Asset, Body, Joint, Site, box, cylinder, paint, prism, rotation, weigh


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


APPLIANCES: dict[str, Asset] = {
    "articulated_objects/flat_stove.xml": _flat_stove(),
}
