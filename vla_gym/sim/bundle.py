"""
Scene bundles: what LIBERO's builder produces for a task, cached on disk so that it runs once.

Layout of the cache, all files written under another name and then renamed::

    <cache>/scenes/<key of the task>/meta.json   names, goal, checksums
                                     arrays.npz  init_states (50, 1+nq+nv), fixture_pos (50, F, 3), fixture_quat
    <cache>/scenes/models/<scene>.physics.mjb    model to simulate, shared by the tasks that compile to it
    <cache>/scenes/models/<scene>.full.mjb       models to render, each written when it is first asked for
    <cache>/scenes/models/<scene>.fast.mjb

The key is a hash of the versions of everything that shapes the result, of the task's files and of the asset pack. The
binary model is stored rather than an XML saved from it, because a re-saved XML loses ``inertiagrouprange`` and would
compile to other masses.
"""

from __future__ import annotations

import atexit
import copy
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from filelock import FileLock

from vla_gym.assets.resolve import AssetPack, cache_dir
from vla_gym.errors import SceneBuildError
from vla_gym.sim.bundle_build import build_bundles, crc32
from vla_gym.sim.libero_files import task_files
from vla_gym.tasks.goals import Atom
from vla_gym.tasks.registry import TaskSpec
from vla_gym.type_aliases import Float64Array

logger = logging.getLogger(__name__)

BUNDLE_VERSION = 3
"""Raised whenever the content of a bundle changes."""


@dataclass(frozen=True)
class SceneBundle:
    """
    One task, ready to simulate.

    :param task: the task
    :param pack: name of the asset pack it was built with
    :param scene: hash of the scene's source; equal for tasks that share a model
    :param models: folder of the compiled models
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
    models: Path
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
        """A copy of the model to simulate; the environment changes fixture poses in its own."""
        return copy.copy(_physics_model(self.model_file("physics")))

    def model_file(self, kind: str) -> Path:
        """
        File of a compiled model.

        :param kind: ``physics``, ``full`` or ``fast``
        """
        return self.models / f"{self.scene}.{kind}.mjb"


def load_bundles(tasks: Sequence[TaskSpec], pack: AssetPack, quality: str | None = None) -> list[SceneBundle]:
    """
    Bundles of some tasks of one suite, from the cache or newly built.

    Any number of processes may ask at once: one builds, the others wait for it. Where the cache cannot be written (full
    disk, read-only folder), scenes are built into a temporary folder, which is lost when the process ends.

    :param tasks: tasks of one suite
    :param pack: the assets to build with
    :param quality: render model that is needed too: ``full`` or ``fast``
    :return: one bundle per task, in order
    :raises SceneBuildError: if LIBERO cannot build a scene
    """
    root = cache_dir() / "scenes"
    keys = _bundle_keys(tasks, pack)
    bundles = _load_all(root, tasks, keys, pack, quality)
    if len(bundles) < len(tasks):
        try:
            bundles = _build_missing(root, tasks, keys, pack, quality)
        except OSError as error:
            memory = _temporary_root()
            logger.warning("Cannot write to the cache %s (%s); keeping scenes in %s instead.", root, error, memory)
            bundles = _build_missing(memory, tasks, keys, pack, quality)
    unbuilt = [task.name for task in tasks if task not in bundles]
    if unbuilt:
        raise SceneBuildError(
            f"The scenes of {unbuilt} were built but cannot be read back from {root}; name another cache folder in "
            "VLA_GYM_CACHE."
        )
    return [bundles[task] for task in tasks]


def _build_missing(
    root: Path, tasks: Sequence[TaskSpec], keys: Mapping[TaskSpec, str], pack: AssetPack, quality: str | None
) -> dict[TaskSpec, SceneBundle]:
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(str(root / "build.lock")):
        # another process may have built some while this one waited
        bundles = _load_all(root, tasks, keys, pack, quality)
        missing = [task for task in tasks if task not in bundles]
        if missing:
            build_bundles(root, missing, keys, pack, quality)
            bundles = _load_all(root, tasks, keys, pack, quality)
    return bundles


@lru_cache(maxsize=1)
def _temporary_root() -> Path:
    """Folder of this process for scenes that the cache cannot take; in memory where the system has such a folder."""
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="vla_gym-", dir=memory if os.access(memory, os.W_OK) else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def _physics_model(path: Path) -> mujoco.MjModel:
    return mujoco.MjModel.from_binary_path(str(path))


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
    root: Path, tasks: Sequence[TaskSpec], keys: Mapping[TaskSpec, str], pack: AssetPack, quality: str | None
) -> dict[TaskSpec, SceneBundle]:
    """The cached bundles, but those that are missing, damaged (which is logged) or lack the render model."""
    checksum = lru_cache(maxsize=None)(crc32)  # the tasks of a suite share models
    bundles = ((task, _load(root / keys[task], root / "models", task, pack, checksum)) for task in tasks)
    return {
        task: bundle
        for task, bundle in bundles
        if bundle is not None and (quality is None or bundle.model_file(quality).exists())
    }


def _load(
    folder: Path, models: Path, task: TaskSpec, pack: AssetPack, checksum: Callable[[Path], int]
) -> SceneBundle | None:
    if not folder.is_dir():
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text())
        with np.load(folder / "arrays.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("init_states", "fixture_pos", "fixture_quat")}
        bundle = SceneBundle(
            task=task,
            pack=pack.name,
            scene=meta["scene"],
            models=models,
            goal=tuple(Atom.from_dict(atom) for atom in meta["goal"]),
            fixture_names=tuple(meta["fixtures"]),
            fixture_bodies=tuple(meta["fixtures"].values()),
            fixture_regions=meta["fixture_regions"],
            object_bodies=meta["objects"],
            heat_sites=tuple(meta["heat_sites"]),
            robot=meta["robot"],
            **arrays,
        )
        for path, expected in (
            (folder / "arrays.npz", meta["arrays_crc32"]),
            (bundle.model_file("physics"), meta["model_crc32"]),
        ):
            if checksum(path) != expected:
                raise ValueError(f"checksum of {path.name} differs")
        return bundle
    except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        logger.warning("Cached scene of %s is damaged (%s); rebuilding it.", task.name, error)
        return None
