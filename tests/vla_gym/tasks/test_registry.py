from __future__ import annotations

import pytest

from vla_gym.errors import UnknownNameError
from vla_gym.sim.scene_builder import libero_root, task_files
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
