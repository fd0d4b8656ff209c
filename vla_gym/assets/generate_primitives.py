"""
Generate the primitive pack: MJCF and PNG files from tables of shapes.

Run ``python -m vla_gym.assets.generate_primitives [FOLDER]`` after a change to ``objects`` or ``arenas``. The same
tables give the same bytes on every machine: figures are rounded, and pictures are stored uncompressed.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from vla_gym.assets.arenas import ARENAS, TEXTURES, WALL_SIZE, Arena
from vla_gym.assets.objects import OBJECTS
from vla_gym.assets.resolve import PRIMITIVE_PACK
from vla_gym.assets.shapes import IDENTITY, Asset, Body, Geom, Quaternion, Site, box, multiply, rotation
from vla_gym.type_aliases import UInt8Array

CONTACT: dict[str, dict[str, str]] = {
    "stiff": {"solref": "0.001 1", "solimp": "0.998 0.998 0.001", "friction": "0.95 0.3 0.1"},
    "soft": {"solref": "0.02 1", "solimp": "0.8 0.9 0.01", "margin": "0.001", "contype": "0", "conaffinity": "1"},
    "plain": {},
}
VISUAL_ONLY = {"contype": "0", "conaffinity": "0", "group": "1"}


def write_pack(root: Path) -> None:
    """
    Write every file of the primitive pack.

    :param root: folder to write into; files already there are overwritten
    """
    for name, asset in OBJECTS.items():
        _write_xml(root / name, object_element(Path(name).stem, asset))
    for name, arena in ARENAS.items():
        _write_xml(root / name, arena_element(Path(name).stem, arena))
    for name, draw in TEXTURES.items():
        file = root / "textures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png_bytes(draw()))


def object_element(name: str, asset: Asset) -> ElementTree.Element:
    """
    Make the MJCF of one object in robosuite's form: an outer body with three marker sites around the body ``object``.

    :param name: model name
    :param asset: the object
    :return: root element
    """
    root = ElementTree.Element("mujoco", {"model": name})
    ElementTree.SubElement(root, "compiler", {"angle": "radian"})
    ElementTree.SubElement(root, "asset")
    holder = ElementTree.SubElement(ElementTree.SubElement(root, "worldbody"), "body")
    _add_body(holder, asset.body)
    size = (asset.marker_size,)
    for marker, pos in (
        ("bottom_site", (0.0, 0.0, asset.bottom)),
        ("top_site", (0.0, 0.0, asset.top)),
        ("horizontal_radius_site", (asset.radius, asset.radius, 0.0)),
    ):
        _add_site(holder, Site(marker, pos, size, kind="sphere", rgba=(0, 0, 0, 0)))
    return root


def arena_element(name: str, arena: Arena) -> ElementTree.Element:
    """
    Make the MJCF of one room for LIBERO's arena classes, which then set sizes, places and styles.

    :param name: model name
    :param arena: the room
    :return: root element
    """
    root = ElementTree.Element("mujoco", {"model": name})
    ElementTree.SubElement(root, "compiler", {"angle": "radian"})
    _add_materials(root, arena)
    world = ElementTree.SubElement(root, "worldbody")
    ground = ElementTree.SubElement(world, "body", {"name": "floor", "pos": "0 0 0"}) if arena.floor_is_body else world
    floor = {"name": "floor", "type": "plane", "size": "3 3 0.125", "material": "floorplane"}
    ElementTree.SubElement(ground, "geom", {**floor, "group": "1", "condim": "3"})
    for wall, (x, y), angle, length in arena.walls:
        turn = multiply(rotation("z", angle), rotation("y", 90))
        [panel] = box((WALL_SIZE, length, 0.01), (x, y, WALL_SIZE), turn, wall)
        _add_geom(world, panel, {**VISUAL_ONLY, "material": "walls_mat"})
    for geom in arena.furnishings:
        _add_visual(world, geom)
    if arena.table:
        _add_body(world, arena.table, "table_texture")
    for light in arena.lights:
        aim = {"name": light.name, "pos": _text(light.pos), "dir": _text(light.direction), "castshadow": "false"}
        beam = {"directional": "true"} if light.directional else {}
        colour = {"diffuse": "0.8 0.8 0.8", "specular": _text([light.specular] * 3)}
        ElementTree.SubElement(world, "light", {**aim, **beam, **colour})
    for camera, position, quat in arena.cameras:
        view = {"name": camera, "mode": "fixed", "pos": _text(position), "quat": _text(quat)}
        ElementTree.SubElement(world, "camera", view)
    return root


def png_bytes(picture: UInt8Array) -> bytes:
    """
    Encode a picture as PNG without compression, whose bytes do not depend on a library's version.

    :param picture: (height, width, 3) uint8
    :return: file contents
    """
    height, width, _ = picture.shape
    # each row is preceded by its filter type, 0
    raw = b"".join(b"\0" + row.tobytes() for row in picture)
    blocks = [raw[i : i + 65535] for i in range(0, len(raw), 65535)]
    stored = b"".join(
        struct.pack("<BHH", i == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block
        for i, block in enumerate(blocks)
    )
    body = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _add_body(parent: ElementTree.Element, body: Body, material: str = "") -> None:
    element = ElementTree.SubElement(parent, "body", {"name": body.name, **_place(body.pos, body.quat)})
    if body.inertia:
        mass, moment = body.inertia
        weight = {"pos": "0 0 0", "mass": _text([mass]), "diaginertia": _text([moment] * 3)}
        ElementTree.SubElement(element, "inertial", weight)
    if joint := body.joint:
        limits = {"limited": "true", "range": _text(joint.limits), "damping": _text([joint.damping])}
        motion = {"name": joint.name, "type": joint.kind, "axis": _text(joint.axis), **limits}
        ElementTree.SubElement(element, "joint", motion)
    for site in body.sites:
        _add_site(element, site)
    for geom in body.collision:
        mass_text = {"mass": _text([geom.mass])} if geom.mass else {}
        _add_geom(element, geom, {"group": "0", **mass_text, **CONTACT[body.contact]})
    for geom in body.visual:
        _add_visual(element, geom, material)
    for child in body.children:
        _add_body(element, child, material)


def _add_visual(parent: ElementTree.Element, geom: Geom, material: str = "") -> None:
    # a colour hides the material
    look = {"rgba": _text(geom.rgba)} if geom.rgba else {"material": material} if material else {}
    _add_geom(parent, geom, {**VISUAL_ONLY, **look})


def _add_materials(root: ElementTree.Element, arena: Arena) -> None:
    asset = ElementTree.SubElement(root, "asset")
    sky = {"type": "skybox", "builtin": "gradient", "width": "64", "height": "64"}
    ElementTree.SubElement(asset, "texture", {**sky, "rgb1": ".9 .9 1", "rgb2": ".2 .3 .4"})
    tiled = {"texrepeat": "3 3", "texuniform": "true"}
    for texture, file, kind, material, mapping in (
        ("texplane", arena.floor_texture, "2d", "floorplane", tiled),
        ("tex-wall", arena.wall_texture, "2d", "walls_mat", tiled),
        ("tex-table", arena.table_texture, "cube", "table_texture", {}),
    ):
        ElementTree.SubElement(asset, "texture", {"name": texture, "type": kind, "file": f"../textures/{file}"})
        finish = {"specular": "0.1", "shininess": "0"}
        ElementTree.SubElement(asset, "material", {"name": material, "texture": texture, **mapping, **finish})


def _add_geom(parent: ElementTree.Element, geom: Geom, attributes: dict[str, str]) -> None:
    name = {"name": geom.name} if geom.name else {}
    shape = {"type": geom.kind, "size": _text(geom.size), **_place(geom.pos, geom.quat)}
    ElementTree.SubElement(parent, "geom", {**name, **shape, **attributes})


def _add_site(parent: ElementTree.Element, site: Site) -> None:
    # LIBERO reads these attributes from the file, so all must be written
    shape = {"type": site.kind, "size": _text(site.size), "rgba": _text(site.rgba), "group": "0"}
    place = {"pos": _text(site.pos), "quat": _text(site.quat)}
    ElementTree.SubElement(parent, "site", {"name": site.name, **place, **shape})


def _place(pos: Iterable[float], quat: Quaternion) -> dict[str, str]:
    turn = {} if quat == IDENTITY else {"quat": _text(quat)}
    return {"pos": _text(pos), **turn}


def _text(values: Iterable[float]) -> str:
    # rounded, as the last digits of a sine differ between machines; adding zero turns -0 into 0
    return " ".join(f"{round(value, 9) + 0.0:.6g}" for value in values)


def _write_xml(file: Path, root: ElementTree.Element) -> None:
    ElementTree.indent(root)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(ElementTree.tostring(root, encoding="unicode") + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_pack(Path(sys.argv[1]) if len(sys.argv) > 1 else PRIMITIVE_PACK)
