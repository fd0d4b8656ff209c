from __future__ import annotations

import re
import runpy
from itertools import groupby

import pytest

from vla_gym.errors import UnknownNameError
from vla_gym.scenes.libero_files import libero_root, task_files
from vla_gym.tasks import registry


def test_every_task_has_its_files_in_the_installed_libero() -> None:
    for suite in registry.SUITES.values():
        installed = {path.stem for path in (libero_root() / "bddl_files" / suite.name).glob("*.bddl")}
        assert {task.name for task in suite.tasks} == installed
        assert all(file.is_file() for task in suite.tasks for file in task_files(task))


@pytest.mark.parametrize("name", ["LIBERO-Goal-v0", "goal", "libero_goal"])
def test_suites_are_found_by_id_and_short_name(name: str) -> None:
    assert registry.get_suite(name).env_id == "LIBERO-Goal-v0"


def test_unknown_names_list_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown suite 'LIBERO-Gaol-v0'. Did you mean 'LIBERO-Goal-v0'\?"):
        registry.get_suite("LIBERO-Gaol-v0")
    with pytest.raises(UnknownNameError, match=r"task_id of LIBERO-Goal-v0 10\. Valid: 0\.\.9\."):
        registry.get_suite("goal").task(10)


def test_control_step_is_25_physics_steps() -> None:
    assert registry.SUBSTEPS == 25


def test_order_and_instructions_are_those_of_liberos_benchmark() -> None:
    upstream = runpy.run_path(str(libero_root() / "benchmark" / "libero_suite_task_map.py"))["libero_task_map"]
    assert sum(len(suite.tasks) for suite in registry.SUITES.values()) == 130
    for suite in registry.SUITES.values():
        assert [task.name for task in suite.tasks] == upstream[suite.name]
    assert registry.get_suite("10").task(4).instruction == (
        "put the white mug on the left plate and put the yellow and white mug on the right plate"
    )
    assert registry.get_suite("90").task(0).instruction == "close the top drawer of the cabinet"
    assert all(task.instruction.islower() for suite in registry.SUITES.values() for task in suite.tasks)


def test_tasks_of_one_scene_start_from_the_same_objects_in_the_same_places() -> None:
    n_scenes = {}
    for suite in registry.SUITES.values():
        for scene, tasks in groupby(sorted(suite.tasks, key=lambda task: task.scene), key=lambda task: task.scene):
            arrangements = set()
            for task in tasks:
                text = (libero_root() / "bddl_files" / suite.name / f"{task.name}.bddl").read_text()
                sections = re.findall(r"\(:(?:objects|fixtures|init)\n(.*?)\n\s*\)\n", text, re.DOTALL)
                assert len(sections) == 3
                arrangements.add(tuple(frozenset(line.strip() for line in section.split("\n")) for section in sections))
            assert len(arrangements) == 1, scene
        n_scenes[suite.name] = len({task.scene for task in suite.tasks})
    assert n_scenes == {
        "libero_spatial": 10, "libero_object": 10, "libero_goal": 1, "libero_10": 9, "libero_90": 20
    }  # fmt: skip
