"""Check that an asset pack has all files that the 130 tasks read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ARENA_FILES = tuple(
    f"scenes/libero_{name}_base_style.xml"
    for name in ("floor", "kitchen_tabletop", "living_room_tabletop", "study", "tabletop")
)
"""Rooms of LIBERO's problem classes in the five suites."""

_OBJECTS = {
    "articulated_objects": ("flat_stove", "microwave", "white_cabinet", "wooden_cabinet"),
    "stable_hope_objects": (
        "alphabet_soup",
        "bbq_sauce",
        "butter",
        "chocolate_pudding",
        "cookies",
        "cream_cheese",
        "ketchup",
        "milk",
        "new_salad_dressing",
        "orange_juice",
        "salad_dressing",
        "tomato_sauce",
    ),
    "stable_scanned_objects": (
        "akita_black_bowl",
        "basket",
        "chefmate_8_frypan",
        "glazed_rim_porcelain_ramekin",
        "plate",
        "white_bowl",
    ),
    "turbosquid_objects": (
        "black_book",
        "desk_caddy",
        "moka_pot",
        "porcelain_mug",
        "red_coffee_mug",
        "white_yellow_mug",
        "wine_bottle",
        "wine_rack",
        "wooden_tray",
        "wooden_two_layer_shelf",
        "yellow_book",
    ),
}
OBJECT_FILES = {
    name: f"{folder}/{name}.xml" if folder == "articulated_objects" else f"{folder}/{name}/{name}.xml"
    for folder, names in _OBJECTS.items()
    for name in names
}
"""Category in a BDDL file -> file in a pack."""

STYLE_TEXTURES = (
    "gray_ceramic_tile.png",
    "light-gray-floor-tile.png",
    "light-gray-plaster.png",
    "seamless_wood_planks_floor.png",
    "yellow_linen_wall_texture.png",
)
"""Files in ``textures`` that LIBERO puts on floors and walls in place of the room's own."""


@dataclass(frozen=True)
class PackCheck:
    """
    Result of checking an asset pack.

    :param n_files: number of files checked: objects, rooms, and their meshes and textures
    :param problems: one line per file that is missing or cannot be read, sorted
    """

    n_files: int
    problems: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether all tasks can be built."""
        return not self.problems


def check_pack(root: Path) -> PackCheck:
    """
    Check every file that the 130 tasks read.

    :param root: folder in LIBERO's asset layout
    :return: the result
    """
    root = Path(os.path.abspath(root))
    named = {root / "textures" / name: "" for name in STYLE_TEXTURES}
    problems = []
    models = [*OBJECT_FILES.values(), *ARENA_FILES]
    for name in models:
        try:
            tree = ElementTree.parse(root / name)
        except OSError:
            problems.append(f"{name}: missing")
        except ElementTree.ParseError as error:
            problems.append(f"{name}: not well-formed XML ({error})")
        else:
            # relative to the folder of the file, as robosuite reads them
            files = (element.get("file") for element in tree.getroot().iterfind("./asset/*[@file]"))
            named |= {(root / name).parent / str(file): f", named by {name}" for file in files}
    # two files may refer to a third by different paths
    needed = {Path(os.path.normpath(path)): by for path, by in named.items()}
    for path, by in needed.items():
        if not path.is_file() or path.stat().st_size == 0:
            state = "empty" if path.is_file() else "missing"
            problems.append(f"{_relative(path, root)}: {state}{by}")
    return PackCheck(len(models) + len(needed), tuple(sorted(problems)))


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
