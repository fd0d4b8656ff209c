"""Attributes with which LIBERO's recorder describes a task."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_gym.errors import SceneBuildError
from vla_gym.scenes.libero_files import task_files
from vla_gym.spec import CAMERAS
from vla_gym.tasks.registry import CONTROL_HZ, SUITES, TaskSpec

ROBOMIMIC_ROBOSUITE = 1
"""robomimic's number for environments of robosuite."""
_PROBLEM = re.compile(r"\(problem\s+([^\s)]+)")


def task_attributes(task: TaskSpec, image_size: int) -> dict[str, Any]:
    """
    Make the attributes of the group ``data`` that depend on the task.

    The path of the BDDL file is relative to LIBERO's package. The instruction is the environment's.

    :param task: the task
    :param image_size: height and width of the images (px); 0 without images
    :return: name -> text
    """
    bddl = task_files(task)[0].read_text()
    found = _PROBLEM.search(bddl)
    if found is None:
        raise SceneBuildError(f"The BDDL file of {task.name} names no problem; is hf-libero complete?")
    problem = found.group(1).lower()
    path = f"bddl_files/{task.suite}/{task.name}.bddl"
    has_images = image_size > 0
    env_kwargs = {
        "robots": ["Panda"],
        "controller_configs": _controller(),
        "bddl_file_name": path,
        "has_renderer": False,
        "has_offscreen_renderer": has_images,
        "use_camera_obs": has_images,
        "ignore_done": True,
        "camera_depths": False,
        "camera_names": list(CAMERAS.values()),
        "camera_heights": image_size,
        "camera_widths": image_size,
        "reward_shaping": True,
        "control_freq": CONTROL_HZ,
    }
    env_args = {
        "type": ROBOMIMIC_ROBOSUITE,
        "env_name": problem,
        "problem_name": problem,
        "bddl_file": path,
        "env_kwargs": env_kwargs,
    }
    problem_info = {"problem_name": problem, "domain_name": "robosuite", "language_instruction": task.instruction}
    return {
        "tag": "libero-v1",
        "env_name": problem,
        "env_args": json.dumps(env_args),
        "problem_info": json.dumps(problem_info),
        "bddl_file_name": path,
        "bddl_file_content": bddl,
        "macros_image_convention": "opengl",
    }


def _controller() -> Any:
    """Read robosuite's default settings of LIBERO's controller without importing robosuite."""
    spec = importlib.util.find_spec("robosuite")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("Describing LIBERO's environment needs robosuite: pip install 'vla-gym[scenes]'")
    return json.loads((Path(spec.origin).parent / "controllers" / "config" / "osc_pose.json").read_text())


def find_task(attributes: Mapping[str, Any], path: Path) -> TaskSpec | None:
    """
    Find the task of a file in LIBERO's layout by the name of its BDDL file, else by its own name.

    :param attributes: of the group ``data``
    :param path: the file
    :return: the task; None if it is not one of LIBERO's
    """
    bddl = Path(str(attributes.get("bddl_file_name", "")))
    name = bddl.stem or path.stem.removesuffix("_demo")
    suites = sorted(SUITES.values(), key=lambda suite: suite.name not in (bddl.parent.name, path.parent.name))
    return next((task for suite in suites for task in suite.tasks if task.name == name), None)
