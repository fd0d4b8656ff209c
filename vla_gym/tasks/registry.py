"""
Suites, tasks and all constants of LIBERO that results depend on, each defined once.

The constants of the action and observation spaces are in ``vla_gym.spec``.

Sources: LIBERO (https://github.com/Lifelong-Robot-Learning/LIBERO, task order of its benchmark) and OpenVLA's LIBERO
evaluation (horizons, settle steps, image rotation, gripper convention).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vla_gym.errors import UnknownNameError
from vla_gym.tasks.task_names import TASK_NAMES

CONTROL_HZ = 20
"""Commands per second."""
PHYSICS_HZ = 500
"""Simulation steps per second."""
SUBSTEPS = PHYSICS_HZ // CONTROL_HZ
"""Simulation steps per command (25)."""
OBSERVED_SUBSTEP = 23
"""Sub-step (from 0) after which upstream samples its observations."""
N_INIT_STATES = 50
"""Stored initial states per task."""
SETTLE_STEPS = 10
"""Control steps with ``SETTLE_COMMAND`` before the policy acts, so that dropped objects come to rest."""
SETTLE_COMMAND = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
EVALUATION_SEED = 0
"""Seed of numpy's global stream before the first reset in OpenVLA's evaluation; it decides the fixture poses."""

RENDER_QUALITIES = ("full", "fast")
"""``full``: upstream's pixels; ``fast``: simpler meshes, smaller pictures, no shadows, reflections or multisampling."""
COLLISION_GROUP, VISUAL_GROUP = 0, 1
"""robosuite's geom groups."""

_SCENE_PREFIX = re.compile(r"^([A-Z_]+SCENE\d+)_")
_ONE_SCENE = ("libero_goal",)
"""Suites whose tasks share one scene. In Spatial the bowls stand elsewhere in each task; Object has other objects."""


@dataclass(frozen=True)
class TaskSpec:
    """
    One task.

    :param suite: LIBERO's folder name, e.g. ``libero_goal``
    :param task_id: position in LIBERO's benchmark order
    :param name: stem of the BDDL and initial-state files
    """

    suite: str
    task_id: int
    name: str

    @property
    def instruction(self) -> str:
        """Instruction as in OpenVLA's evaluation: the file name in words, without the scene's name."""
        return _SCENE_PREFIX.sub("", self.name).replace("_", " ")

    @property
    def scene(self) -> str:
        """Name of the scene. Tasks with the same name start from the same objects in the same places."""
        prefix = _SCENE_PREFIX.match(self.name)
        if prefix:
            return prefix[1]
        return self.suite if self.suite in _ONE_SCENE else f"{self.suite}/{self.name}"


@dataclass(frozen=True)
class SuiteSpec:
    """
    One suite.

    :param env_id: Gymnasium id
    :param name: LIBERO's folder name
    :param horizon: control steps until truncation, settle steps not counted
    :param tasks: tasks in LIBERO's benchmark order
    """

    env_id: str
    name: str
    horizon: int
    tasks: tuple[TaskSpec, ...]

    def task(self, task_id: int) -> TaskSpec:
        """
        Look up a task by number.

        :raises UnknownNameError: if the suite has no such task
        """
        if isinstance(task_id, bool) or not 0 <= int(task_id) < len(self.tasks) or int(task_id) != task_id:
            raise UnknownNameError(f"task_id of {self.env_id}", task_id, range(len(self.tasks)))
        return self.tasks[int(task_id)]


def _suite(env_id: str, name: str, horizon: int) -> SuiteSpec:
    return SuiteSpec(env_id, name, horizon, tuple(TaskSpec(name, i, task) for i, task in enumerate(TASK_NAMES[name])))


SUITES: Mapping[str, SuiteSpec] = MappingProxyType(
    {
        suite.env_id: suite
        for suite in (
            _suite("LIBERO-Spatial-v0", "libero_spatial", 220),
            _suite("LIBERO-Object-v0", "libero_object", 280),
            _suite("LIBERO-Goal-v0", "libero_goal", 300),
            _suite("LIBERO-10-v0", "libero_10", 520),
            _suite("LIBERO-90-v0", "libero_90", 400),
        )
    }
)
"""Gymnasium id -> suite; horizons are those of OpenVLA's LIBERO evaluation."""


def get_suite(suite: str) -> SuiteSpec:
    """
    Look up a suite by Gymnasium id (``LIBERO-Goal-v0``) or short name (``goal``, ``libero_goal``).

    :raises UnknownNameError: if there is no such suite
    """
    by_name = {spec.name: spec for spec in SUITES.values()}
    if isinstance(suite, str) and suite in SUITES:
        return SUITES[suite]
    for name in (str(suite), f"libero_{suite}"):
        if name in by_name:
            return by_name[name]
    raise UnknownNameError("suite", suite, [*SUITES, *(name.removeprefix("libero_") for name in by_name)])
