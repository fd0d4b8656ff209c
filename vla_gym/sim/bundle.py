"""
Scene bundles: what LIBERO's builder produces for a task, cached on disk so that it runs once.

Layout of the cache, all files written under another name and then renamed::

    <cache>/scenes/<key of the task>/meta.json   names, goal, checksums
                                     arrays.npz  init_states (50, 1+nq+nv), fixture_pos (50, F, 3), fixture_quat
    <cache>/scenes/models/<scene>.mjb            compiled model, shared by the tasks that compile to it

The key is a hash of the versions of everything that shapes the result, of the task's files and of the asset pack. The
binary model is stored rather than an XML saved from it, because a re-saved XML loses ``inertiagrouprange`` and would
compile to other masses.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from filelock import FileLock

from vla_gym.assets.resolve import AssetPack, cache_dir
from vla_gym.errors import SceneBuildError
from vla_gym.sim.scene_builder import task_files, write_libero_config
from vla_gym.tasks.goals import Atom
from vla_gym.tasks.registry import TaskSpec
from vla_gym.type_aliases import Float64Array

logger = logging.getLogger(__name__)

BUNDLE_VERSION = 1
"""Raised whenever the content of a bundle changes."""
BUILD_TIMEOUT_S = 900


@dataclass(frozen=True)
class SceneBundle:
    """
    One task, ready to simulate.

    :param task: the task
    :param pack: name of the asset pack it was built with
    :param scene: hash of the scene's source; equal for tasks that share a model
    :param model_path: compiled model
    :param goal: atoms of the goal
    :param init_states: (50, 1 + nq + nv) float64: time (s), qpos, qvel
    :param fixture_names: instance names of the fixtures
    :param fixture_bodies: their root bodies
    :param fixture_pos: pose of each fixture at each evaluation reset (m), (50, F, 3) float64
    :param fixture_quat: the same, orientation (wxyz), (50, F, 4) float64
    :param fixture_regions: fixture -> where LIBERO's sampler may put it
    :param object_bodies: movable object -> root body
    :param heat_sites: sites shown while an appliance is on
    :param robot: joint, actuator, site and body names of the arm and gripper, and the rest positions of the arm (rad)
    """

    task: TaskSpec
    pack: str
    scene: str
    model_path: Path
    goal: tuple[Atom, ...]
    init_states: Float64Array
    fixture_names: tuple[str, ...]
    fixture_bodies: tuple[str, ...]
    fixture_pos: Float64Array
    fixture_quat: Float64Array
    fixture_regions: Mapping[str, Any]
    object_bodies: Mapping[str, str]
    heat_sites: tuple[Mapping[str, Any], ...]
    robot: Mapping[str, Any]

    def load_model(self) -> mujoco.MjModel:
        """A fresh copy of the compiled model; environments change fixture poses in theirs."""
        return mujoco.MjModel.from_binary_path(str(self.model_path))


def load_bundles(tasks: Sequence[TaskSpec], pack: AssetPack) -> list[SceneBundle]:
    """
    Bundles of some tasks of one suite, from the cache or newly built.

    :param tasks: tasks of one suite
    :param pack: the assets to build with
    :return: one bundle per task, in order
    :raises SceneBuildError: if LIBERO cannot build a scene
    """
    root = cache_dir() / "scenes"
    keys = _bundle_keys(tasks, pack)
    bundles = _load_all(root, tasks, keys, pack)
    if len(bundles) < len(tasks):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(str(root / "build.lock")):
            # another process may have built some while this one waited
            bundles = _load_all(root, tasks, keys, pack)
            missing = [task for task in tasks if task not in bundles]
            if missing:
                _build(root, missing, keys, pack)
                bundles = _load_all(root, tasks, keys, pack)
    unbuilt = [task.name for task in tasks if task not in bundles]
    if unbuilt:
        raise SceneBuildError(
            f"The scenes of {unbuilt} were built but cannot be read back from {root}; "
            "check that the disk is not full, or name another cache folder in VLA_GYM_CACHE."
        )
    return [bundles[task] for task in tasks]


def _bundle_keys(tasks: Sequence[TaskSpec], pack: AssetPack) -> dict[TaskSpec, str]:
    """Per task a hash of everything its bundle depends on, 24 hexadecimal digits."""
    common = hashlib.sha256()
    for part in (f"bundle {BUNDLE_VERSION}", *_versions(), pack.fingerprint()):
        common.update(part.encode() + b"\0")
    keys = {}
    for task in tasks:
        digest = common.copy()
        digest.update(f"{task.suite}/{task.name}\0".encode())
        for file in task_files(task):
            try:
                digest.update(file.read_bytes())
            except OSError as error:
                raise SceneBuildError(f"LIBERO's file {file} cannot be read ({error}); reinstall hf-libero.") from error
        keys[task] = digest.hexdigest()[:24]
    return keys


@lru_cache(maxsize=1)
def _versions() -> tuple[str, ...]:
    return tuple(f"{name} {importlib.metadata.version(name)}" for name in ("mujoco", "robosuite", "hf-libero", "bddl"))


def _load_all(
    root: Path, tasks: Sequence[TaskSpec], keys: Mapping[TaskSpec, str], pack: AssetPack
) -> dict[TaskSpec, SceneBundle]:
    """The cached bundles; those that are missing or damaged (which is logged) are left out."""
    checksum = lru_cache(maxsize=None)(_crc32)  # the tasks of a suite share models
    bundles = ((task, _load(root / keys[task], root / "models", task, pack, checksum)) for task in tasks)
    return {task: bundle for task, bundle in bundles if bundle is not None}


def _load(
    folder: Path, models: Path, task: TaskSpec, pack: AssetPack, checksum: Callable[[Path], int]
) -> SceneBundle | None:
    if not folder.is_dir():
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text())
        model_path = models / meta["model_file"]
        for path, expected in ((folder / "arrays.npz", meta["arrays_crc32"]), (model_path, meta["model_crc32"])):
            if checksum(path) != expected:
                raise ValueError(f"checksum of {path.name} differs")
        with np.load(folder / "arrays.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("init_states", "fixture_pos", "fixture_quat")}
        return SceneBundle(
            task=task,
            pack=pack.name,
            scene=meta["scene"],
            model_path=model_path,
            goal=tuple(Atom.from_dict(atom) for atom in meta["goal"]),
            fixture_names=tuple(meta["fixtures"]),
            fixture_bodies=tuple(meta["fixtures"].values()),
            fixture_regions=meta["fixture_regions"],
            object_bodies=meta["objects"],
            heat_sites=tuple(meta["heat_sites"]),
            robot=meta["robot"],
            **arrays,
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error) as error:
        logger.warning("Cached scene of %s is damaged (%s); rebuilding it.", task.name, error)
        return None


def _build(root: Path, tasks: Sequence[TaskSpec], keys: Mapping[TaskSpec, str], pack: AssetPack) -> None:
    logger.info("Building %d scene(s) of %s with the %s assets (once).", len(tasks), tasks[0].suite, pack.name)
    with tempfile.TemporaryDirectory(dir=root, prefix="building-") as temporary:
        out = Path(temporary)
        _run_builder(tasks, pack, out)
        for task in tasks:
            _install(root, root / keys[task], task, pack, out)


def _run_builder(tasks: Sequence[TaskSpec], pack: AssetPack, out: Path) -> None:
    config = cache_dir() / "libero_config"
    write_libero_config(config)
    package_parent = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "LIBERO_CONFIG_PATH": str(config),
        # robosuite imports a GL back end although nothing is rendered; this one needs no GPU, display or EGL library
        "MUJOCO_GL": "glx",
        "PYTHONPATH": os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-m", "vla_gym.sim.scene_builder", "--suite", tasks[0].suite]
    command += ["--task-ids", *(str(task.task_id) for task in tasks)]
    command += ["--assets", str(pack.path), "--out", str(out)]
    try:
        result = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SceneBuildError(f"Building the scenes took more than {BUILD_TIMEOUT_S} s; command: {command}") from error
    if result.returncode != 0:
        tail = "\n".join(result.stderr.strip().splitlines()[-15:])
        missing_library = "libGL" in result.stderr or "libgthread" in result.stderr
        remedy = "apt-get install libgl1 libglib2.0-0 (OpenCV, which robosuite imports, needs them).\n"
        raise SceneBuildError(
            f"LIBERO could not build {[task.name for task in tasks]} from the assets in {pack.path}. "
            f"{remedy if missing_library else ''}Last lines of its output:\n{tail}"
        )


def _install(root: Path, target: Path, task: TaskSpec, pack: AssetPack, out: Path) -> None:
    """Move one built task into the cache: the model first, the folder that refers to it last and at once."""
    meta = json.loads((out / f"{task.name}.json").read_text())
    model_file = f"{meta['scene']}-{hashlib.sha256(pack.fingerprint().encode()).hexdigest()[:8]}.mjb"
    built, installed = out / f"{meta['scene']}.mjb", root / "models" / model_file
    installed.parent.mkdir(exist_ok=True)
    if built.exists():
        os.replace(built, installed)
    folder = out / "bundle"
    folder.mkdir()
    os.replace(out / f"{task.name}.npz", folder / "arrays.npz")
    meta |= {
        "model_file": model_file,
        "model_crc32": _crc32(installed),
        "arrays_crc32": _crc32(folder / "arrays.npz"),
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    if target.exists():
        shutil.rmtree(target)
    os.replace(folder, target)


def _crc32(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
