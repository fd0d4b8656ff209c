"""Numbers and keys of the action and camera space are spelled in one place."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import gymnasium as gym
import numpy as np

import vla_gym  # noqa: F401 - registers the environments
from vla_gym import spec
from vla_gym.envs.toy_env import ToyLiberoEnv

ROOT = Path(__file__).resolve().parents[1]
NAMES = {name for name in vars(spec) if name.isupper()} | {"ACTION_DIM", "N_ACTION_BINS"}
SCENES = {"vla_gym/assets/arenas/arena.py"}
"""Cameras of scenes, under MuJoCo's names."""
PRIMITIVE = {"assets": "primitive", "render_quality": "fast"}
FIELDS = {"vla_algos/bc/dataset.py"}
"""Its field for images of the wrist camera has the camera's name."""


@cache
def library() -> list[tuple[str, ast.Module]]:
    files = sorted(path for package in ("vla_gym", "vla_algos") for path in (ROOT / package).rglob("*.py"))
    named = [(str(path.relative_to(ROOT)), ast.parse(path.read_text())) for path in files]
    return [(name, tree) for name, tree in named if name != "vla_gym/spec.py"]


def test_no_other_file_defines_them() -> None:
    found = [
        f"{file}: {target.id}"
        for file, tree in library()
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if file not in SCENES and isinstance(target, ast.Name) and target.id in NAMES
    ]
    assert found == [], "vla_gym/spec.py has these"


def test_no_other_file_spells_a_camera() -> None:
    found = [
        f"{file}:{node.lineno}"
        for file, tree in library()
        for node in ast.walk(tree)
        if file not in SCENES | FIELDS and isinstance(node, ast.Constant) and node.value in spec.CAMERAS
    ]
    assert found == [], "vla_gym/spec.py names these"


def test_environments_have_the_spaces_that_are_stated() -> None:
    for env in (
        ToyLiberoEnv(),
        gym.make("LIBERO-Goal-v0", cameras=tuple(spec.CAMERAS), privileged_obs=True, **PRIMITIVE),
    ):
        space = env.observation_space
        assert isinstance(space, gym.spaces.Dict) and isinstance(env.action_space, gym.spaces.MultiDiscrete)
        assert set(space) <= {*spec.CAMERAS, spec.PROPRIO, spec.INSTRUCTION, spec.PRIVILEGED}
        assert space[spec.PROPRIO].shape == (spec.PROPRIO_DIM,)
        np.testing.assert_array_equal(env.action_space.nvec, [spec.N_BINS] * spec.COMMAND_DIM)
        env.close()
