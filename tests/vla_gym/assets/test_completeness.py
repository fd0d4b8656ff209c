"""The list of files is that of LIBERO's tasks, and every kind of gap in a pack is found."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from vla_gym.assets.completeness import ARENA_FILES, OBJECT_FILES, STYLE_TEXTURES, check_pack
from vla_gym.assets.resolve import PRIMITIVE_PACK
from vla_gym.scenes.libero_files import task_files
from vla_gym.tasks.registry import SUITES

BOWL = "stable_scanned_objects/akita_black_bowl"
TABLES = {"floor", "kitchen_table", "living_room_table", "study_table", "table"}
ARENAS = {
    "floor": "floor",
    "kitchen_tabletop": "kitchen_tabletop",
    "living_room_tabletop": "living_room_tabletop",
    "study_tabletop": "study",
    "tabletop": "tabletop",
}


def test_the_tasks_name_these_objects_and_rooms() -> None:
    texts = [task_files(task)[0].read_text() for suite in SUITES.values() for task in suite.tasks]
    assert len(texts) == 130
    categories, problems = set(), set()
    for text in texts:
        declarations = re.findall(r"\(:(?:fixtures|objects)(.*?)\)", text, flags=re.DOTALL)
        categories |= {name for part in declarations for name in re.findall(r" - (\w+)", part)}
        problems |= set(re.findall(r"\(problem libero_(\w+)_manipulation\)", text.lower()))
    assert categories - TABLES == set(OBJECT_FILES)
    assert {f"scenes/libero_{ARENAS[name]}_base_style.xml" for name in problems} == set(ARENA_FILES)


def test_the_primitive_pack_is_complete() -> None:
    found = check_pack(PRIMITIVE_PACK)
    assert found.is_complete, found.problems


def test_a_complete_pack_has_no_problems(complete_pack: Path) -> None:
    found = check_pack(complete_pack)
    assert found.is_complete and found.problems == ()
    # the bowl's mesh and texture besides
    assert found.n_files == len(OBJECT_FILES) + len(ARENA_FILES) + len(STYLE_TEXTURES) + 2
    assert check_pack(Path(os.path.relpath(complete_pack))) == found


def test_a_pack_of_links_is_complete(complete_pack: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    for file in (path for path in complete_pack.rglob("*") if path.is_file()):
        link = linked / file.relative_to(complete_pack)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    assert check_pack(linked).is_complete


@pytest.mark.parametrize(
    ("victim", "content", "problem"),
    [
        ("articulated_objects/microwave.xml", None, "articulated_objects/microwave.xml: missing"),
        ("scenes/libero_study_base_style.xml", None, "scenes/libero_study_base_style.xml: missing"),
        (f"{BOWL}/akita_black_bowl.xml", "<mujoco>", f"{BOWL}/akita_black_bowl.xml: not well-formed XML (no element"),
        (f"{BOWL}/visual/bowl.msh", None, f"{BOWL}/visual/bowl.msh: missing, named by {BOWL}/akita_black_bowl.xml"),
        (f"{BOWL}/visual/bowl.msh", "", f"{BOWL}/visual/bowl.msh: empty, named by"),
        ("textures/wood.png", None, f"textures/wood.png: missing, named by {BOWL}/akita_black_bowl.xml"),
        ("textures/gray_ceramic_tile.png", None, "textures/gray_ceramic_tile.png: missing"),
    ],
)
def test_gaps_are_found(complete_pack: Path, victim: str, content: str | None, problem: str) -> None:
    if content is None:
        (complete_pack / victim).unlink()
    else:
        (complete_pack / victim).write_text(content)
    found = check_pack(complete_pack)
    assert not found.is_complete
    (line,) = found.problems
    assert line.startswith(problem)


@pytest.mark.assets
def test_liberos_own_assets_are_complete(libero_assets: Path) -> None:
    found = check_pack(libero_assets)
    assert found.problems == ()
    assert found.n_files > 150
