"""Elements of the primitive pack's arenas, and parts that several share."""

from __future__ import annotations

from dataclasses import dataclass, field

from vla_gym.assets.shapes import Body, Geom, Quaternion, Site, Vector3, box, cylinder

WALL_SIZE = 1.5
# name, centre (x, y), angle of the inward normal, half length
Wall = tuple[str, tuple[float, float], float, float]
# name, position, rotation
Camera = tuple[str, Vector3, Quaternion]


@dataclass(frozen=True)
class Light:
    """
    One light without shadows.

    :param name: name
    :param pos: position, m
    :param direction: where it shines
    :param specular: strength of highlights, 0..1
    :param directional: whether its rays are parallel
    """

    name: str
    pos: Vector3
    direction: Vector3 = (0, -0.15, -1)
    specular: float = 0.3
    directional: bool = False


WALLS: tuple[Wall, ...] = (
    ("wall_leftcorner_visual", (-1.25, 2.25), -45, 1.06),
    ("wall_rightcorner_visual", (-1.25, -2.25), 45, 1.06),
    ("wall_left_visual", (1.25, 3), -90, 1.75),
    ("wall_right_visual", (1.25, -3), 90, 1.75),
    ("wall_rear_visual", (-2, 0), 0, 1.5),
    ("wall_front_visual", (3, 0), 180, 3),
)
LIGHTS = (Light("light1", (1, 1, 4)), Light("light2", (-3, -3, 4)))
CAMERAS: tuple[Camera, ...] = (
    ("frontview", (1, 0, 1.45), (0.56, 0.43, 0.43, 0.56)),
    ("birdview", (-0.2, 0, 3), (0.7071, 0, 0, 0.7071)),
    ("agentview", (0.5, 0, 1.35), (0.653, 0.271, 0.271, 0.653)),
    ("sideview", (-0.0565, 1.2761, 1.488), (0.009905, 0.006878, 0.591223, 0.806418)),
)


@dataclass(frozen=True)
class Arena:
    """
    One room.

    :param floor_texture: file in ``textures/``; LIBERO replaces it by the style of the scene
    :param wall_texture: file in ``textures/``; LIBERO replaces it, too
    :param table_texture: file in ``textures/`` that wraps the table
    :param table: body that carries the task, if it is not the floor; its unpainted geoms show the texture
    :param floor_is_body: whether the floor is a separate body, as LIBERO expects in rooms without a resizable table
    :param furnishings: what stands in the background, visual only
    :param walls: walls, visual only
    :param lights: lights
    :param cameras: name, position, m, and rotation
    """

    floor_texture: str
    wall_texture: str
    table_texture: str
    table: Body | None = None
    floor_is_body: bool = False
    furnishings: list[Geom] = field(default_factory=list)
    walls: tuple[Wall, ...] = WALLS
    lights: tuple[Light, ...] = LIGHTS
    cameras: tuple[Camera, ...] = CAMERAS


def resizable_table() -> Body:
    """
    Make a table that LIBERO gives size, height, friction and legs.

    :return: its body
    """
    size = (0.4, 0.4, 0.4)
    legs = [leg for i in range(1, 5) for leg in cylinder(0.05, -0.1, 0.1, name=f"table_leg{i}_visual")]
    return Body(
        "table",
        pos=(0, 0, 0.4),
        collision=box(size, name="table_collision"),
        visual=box(size, name="table_visual") + legs,
        sites=[Site("table_top", (0, 0, 0.4), (0.001,), kind="sphere", rgba=(0, 0, 0, 0))],
        contact="plain",
    )
