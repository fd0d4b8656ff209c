"""
Scene bundles: what LIBERO's builder produces for a task, cached on disk so that it runs once.

Layout of the cache, and of folders with scenes that were built elsewhere::

    <key>-<source>/meta.json             names, goal, what it was built with
                   arrays.npz            init_states (50, 1+nq+nv), fixture_pos (50, F, 3), fixture_quat
                   SHA256SUMS            checksums of these
    models/<scene>.physics.mjb           model to simulate, shared by the tasks that compile to it
           <scene>.full.mjb              models to render, each written when it is first asked for
           <scene>.fast.mjb
           <scene>.<kind>.mjb.sha256     checksum of each

The key is a hash of task, asset pack and MuJoCo's version, which every machine can compute. The source is a hash of
LIBERO's version and files; a machine without LIBERO takes what it finds. The binary model is stored rather than an XML
saved from it, because a re-saved XML loses ``inertiagrouprange`` and would compile to other masses.

Every file is compared with its checksum, once per process. A damaged file in the cache is built again; one in a folder
named in ``VLA_GYM_SCENES`` is an error.
"""

from __future__ import annotations

import atexit
import copy
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import mujoco

from vla_gym.assets.foreign import SCENES_VARIABLE, archives_hint, named_scenes, read_meta, unread_archives
from vla_gym.assets.resolve import AssetPack, scene_cache
from vla_gym.errors import SceneBuildError, SceneFileError
from vla_gym.files import check_sums, locked, sha256
from vla_gym.sim.bundle_meta import check_model_header, read_arrays, read_bundle_meta
from vla_gym.sim.libero_files import libero_versions, task_files
from vla_gym.tasks.goals import Atom
from vla_gym.tasks.registry import TaskSpec
from vla_gym.type_aliases import Float64Array

logger = logging.getLogger(__name__)

BUNDLE_VERSION = 4
"""Raised whenever the content of a bundle changes."""
SUMS = "SHA256SUMS"
_UNFINISHED = ("building-*", "importing-*")
"""Folders in the cache that only the holder of its lock writes to."""
_OWNER = "owner.lock"


@dataclass(frozen=True)
class SceneBundle:
    """
    One task, ready to simulate.

    :param task: the task
    :param pack: name of the asset pack it was built with
    :param scene: hash of the scene's source; equal for tasks that share a model
    :param folder: where its description and arrays are
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
    folder: Path
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
    Bundles of some tasks of one suite: from ``VLA_GYM_SCENES``, from the cache, or newly built.

    Any number of processes may ask at once: one builds, the others wait for it. Where the cache cannot be written (full
    disk, read-only folder), scenes are built into a temporary folder, which is lost when the process ends.

    :param tasks: tasks of one suite
    :param pack: the assets to build with
    :param quality: render model that is needed too: ``full`` or ``fast``
    :return: one bundle per task, in order
    :raises SceneBuildError: if LIBERO cannot build a scene, or is needed and not there
    :raises SceneFileError: if a scene in ``VLA_GYM_SCENES`` is damaged
    """
    pack = replace(pack, digest=pack.fingerprint())
    keys = bundle_keys(tasks, pack)
    bundles = _load_named(tasks, keys, pack, quality)
    rest = [task for task in tasks if task not in bundles]
    if not rest:
        return [bundles[task] for task in tasks]
    root = scene_cache()
    folders = {task: _cached_folder(root, keys[task], task, pack) for task in rest}
    bundles |= _load_all(root, folders, pack, quality)
    missing = [task for task in rest if task not in bundles]
    if missing and not (pack.has_files and libero_versions()):
        raise SceneBuildError(_why_not_there(missing, pack, quality))
    if missing:
        if hint := archives_hint(unread_archives(root)):
            logger.warning("Building the scenes of %s.%s", [task.name for task in missing], hint)
        try:
            bundles |= _build_missing(root, rest, folders, pack, quality)
        except OSError as error:
            memory = _temporary_root()
            logger.warning("Cannot write to the cache %s (%s); keeping scenes in %s instead.", root, error, memory)
            folders = {task: memory / folder.name for task, folder in folders.items()}
            bundles |= _build_missing(memory, rest, folders, pack, quality)
    unbuilt = [task.name for task in tasks if task not in bundles]
    if unbuilt:
        raise SceneBuildError(
            f"The scenes of {unbuilt} were built but cannot be read back from {root}; name another cache folder in "
            "VLA_GYM_CACHE."
        )
    return [bundles[task] for task in tasks]


def load_bundle(root: Path, folder: Path, task: TaskSpec, pack: AssetPack, quality: str | None) -> SceneBundle | None:
    """
    Read one bundle and compare all its files with their checksums.

    :param root: folder with ``models``
    :param folder: the bundle
    :param task: its task
    :param pack: what it was built from
    :param quality: render model that is needed too
    :return: the bundle; ``None`` if it is not there or lacks the render model
    :raises ValueError: if a file is damaged, or is of another task, pack or version
    :raises OSError: if a file cannot be read
    """
    if not folder.is_dir():
        return None
    files = [folder / "meta.json", folder / "arrays.npz"]
    check_sums(folder / SUMS, files)
    meta = read_bundle_meta(files[0])
    expected = facts(task, pack)
    for name, value in expected.items():
        if meta[name] != value:
            raise ValueError(f"{name} is {meta[name]!r}, expected {value!r}")
    bundle = SceneBundle(
        task=task,
        pack=pack.name,
        scene=meta["scene"],
        folder=folder,
        models=root / "models",
        goal=tuple(Atom.from_dict(atom) for atom in meta["goal"]),
        fixture_names=tuple(meta["fixtures"]),
        fixture_bodies=tuple(meta["fixtures"].values()),
        fixture_regions=meta["fixture_regions"],
        object_bodies=meta["objects"],
        heat_sites=tuple(meta["heat_sites"]),
        robot=meta["robot"],
        **read_arrays(files[1], len(meta["fixtures"])),
    )
    check_model(bundle.model_file("physics"))
    if quality is not None:
        if not bundle.model_file(quality).exists():
            return None
        check_model(bundle.model_file(quality))
    return bundle


def facts(task: TaskSpec, pack: AssetPack) -> dict[str, Any]:
    """What a bundle says of itself in ``meta.json``, and must say to be used."""
    return {
        "version": BUNDLE_VERSION,
        "mujoco": mujoco.__version__,
        "pack_digest": pack.fingerprint(),
        "suite": task.suite,
        "task": task.name,
    }


def bundle_keys(tasks: Sequence[TaskSpec], pack: AssetPack) -> dict[TaskSpec, str]:
    """Per task a hash of task, pack and MuJoCo's version, 16 hexadecimal digits."""
    common = common_digest(pack)
    return {task: hashlib.sha256(f"{common}\0{task.suite}/{task.name}".encode()).hexdigest()[:16] for task in tasks}


def common_digest(pack: AssetPack) -> str:
    """Hash of what decides how all scenes of a pack are compiled."""
    return hashlib.sha256(f"bundle {BUNDLE_VERSION}\0{mujoco.__version__}\0{pack.fingerprint()}".encode()).hexdigest()


def model_sums(path: Path) -> Path:
    """File with the checksum of a model."""
    return path.with_name(f"{path.name}.sha256")


def sweep_unfinished(root: Path) -> None:
    """Remove what killed processes have left half built; the caller holds the lock, so none of them is alive."""
    for pattern in _UNFINISHED:
        for folder in root.glob(pattern):
            logger.info("Removing %s, which a process that was killed has left.", folder)
            shutil.rmtree(folder, ignore_errors=True)


def cache_lock(root: Path) -> Path:
    """File that is locked by whoever writes to a folder of scenes."""
    return root / "build.lock"


def check_model(path: Path) -> None:
    """
    Compare a compiled model with its checksum, and with what it says of its own size.

    :param path: the model; its checksum lies beside it
    :raises ValueError: if they differ
    :raises OSError: if one of them cannot be read
    """
    check_sums(model_sums(path), [path])
    check_model_header(path)


_checked: set[tuple[Path, str]] = set()
"""Bundles in ``VLA_GYM_SCENES`` that can be simulated, as this process has seen."""


def _load_named(
    tasks: Sequence[TaskSpec], keys: Mapping[TaskSpec, str], pack: AssetPack, quality: str | None
) -> dict[TaskSpec, SceneBundle]:
    """Those of ``VLA_GYM_SCENES``, whatever version of LIBERO built them."""
    root = named_scenes()
    if root is None:
        return {}
    bundles = {}
    for task in tasks:
        folder = _newest(root, keys[task])
        if folder is None:
            continue
        try:
            _stay_inside(root, folder)
            bundle = load_bundle(root, folder, task, pack, quality)
            if bundle is not None:
                _stay_inside(root, bundle.models)
                if (seen := (folder, sha256(folder / SUMS))) not in _checked:
                    check_names(bundle)
                    _checked.add(seen)
                bundles[task] = bundle
        except (OSError, ValueError, SceneBuildError) as error:
            raise SceneFileError(
                f"The scene of {task.name} in {folder} ({SCENES_VARIABLE}) cannot be used: {error}. Copy or export it "
                "again."
            ) from error
    return bundles


def _stay_inside(root: Path, folder: Path) -> None:
    """Refuse links that lead out of a folder of scenes."""
    inside = root.resolve()
    for path in (folder, *folder.iterdir()):
        if not path.resolve().is_relative_to(inside):
            raise ValueError(f"{path} is a link to {path.resolve()}, outside the folder")


def check_names(bundle: SceneBundle) -> None:
    """
    Make sure that a bundle from elsewhere can be simulated: its model loads, and has all that the bundle names.

    :param bundle: the bundle
    :raises ValueError: if it cannot be simulated
    """
    from vla_gym.sim.core import SimCore

    try:
        model = bundle.load_model()
        size = 1 + model.nq + model.nv
        if bundle.init_states.shape[1] != size:
            raise ValueError(f"initial states have {bundle.init_states.shape[1]} entries, expected {size}")
        for name in bundle.object_bodies.values():
            model.body(name)
        SimCore(bundle)
    except Exception as error:  # MuJoCo and its look-ups raise what they like
        raise ValueError(f"its model does not fit ({type(error).__name__}: {error})") from error


def _cached_folder(root: Path, key: str, task: TaskSpec, pack: AssetPack) -> Path:
    """Where the bundle of a task is or belongs; without LIBERO, the newest of those that are there."""
    versions = libero_versions() if pack.has_files else None
    if versions is None:
        return _newest(root, key) or root / f"{key}-{'0' * 16}"
    digest = hashlib.sha256("\0".join(f"{name} {version}" for name, version in versions.items()).encode())
    for file in task_files(task):
        try:
            digest.update(file.read_bytes())
        except OSError as error:
            raise SceneBuildError(f"LIBERO's file {file} cannot be read ({error}); reinstall hf-libero.") from error
    return root / f"{key}-{digest.hexdigest()[:16]}"


def _newest(root: Path, key: str) -> Path | None:
    return max(root.glob(f"{key}-*"), key=lambda folder: folder.stat().st_mtime_ns, default=None)


def _load_all(
    root: Path, folders: Mapping[TaskSpec, Path], pack: AssetPack, quality: str | None
) -> dict[TaskSpec, SceneBundle]:
    """The cached bundles, but those that are missing, damaged (which is logged) or lack the render model."""
    bundles = {}
    for task, folder in folders.items():
        try:
            bundle = load_bundle(root, folder, task, pack, quality)
        except (OSError, ValueError) as error:
            logger.warning("Cached scene of %s is damaged (%s) and has to be built again.", task.name, error)
            continue
        if bundle is not None:
            bundles[task] = bundle
    return bundles


def _build_missing(
    root: Path, tasks: Sequence[TaskSpec], folders: Mapping[TaskSpec, Path], pack: AssetPack, quality: str | None
) -> dict[TaskSpec, SceneBundle]:
    # imported here because environments whose scenes are there need neither it nor what it imports
    from vla_gym.sim.bundle_build import build_bundles

    root.mkdir(parents=True, exist_ok=True)
    with locked(cache_lock(root)):
        sweep_unfinished(root)
        # another process may have built some while this one waited
        bundles = _load_all(root, folders, pack, quality)
        missing = [task for task in tasks if task not in bundles]
        if missing:
            build_bundles(root, missing, folders, pack, quality)
            bundles = _load_all(root, folders, pack, quality)
    return bundles


def _why_not_there(tasks: Sequence[TaskSpec], pack: AssetPack, quality: str | None) -> str:
    """Message for scenes that are neither there nor can be built here; says what similar ones lack."""
    reasons = set()
    wanted = {(task.suite, task.name): facts(task, pack) for task in tasks}
    for root in filter(None, (named_scenes(), scene_cache())):
        for path in sorted(root.glob("*/meta.json")):
            try:
                meta = read_meta(path)
            except (OSError, ValueError):
                continue
            expected = wanted.get((str(meta.get("suite")), str(meta.get("task"))))
            if expected is None:
                continue
            if meta.get("version") != expected["version"]:
                reasons.add("some there were written by another version of vla_gym")
            elif meta.get("mujoco") != expected["mujoco"]:
                reasons.add(f"some there were compiled by mujoco {meta.get('mujoco')}, this is {expected['mujoco']}")
            elif meta.get("pack_digest") != expected["pack_digest"]:
                name = meta.get("pack")
                reasons.add(
                    f"some there were built from the pack {name!r} (assets={name!r} asks for those of its name)"
                )
            else:
                reasons.add(f"some there are damaged or have no model for render_quality={quality!r}")
    found = f" Of the scenes that were found: {'; '.join(sorted(reasons))}." if reasons else ""
    because = (
        "hf-libero is not installed here" if pack.has_files else f"the files of the pack {pack.name!r} are not here"
    )
    return (
        f"There are no scenes of {[task.name for task in tasks]} built from the pack {pack.name!r}, and {because} to "
        f"build them.{found} Remedy: pip install 'hf-libero>=0.1.4,<0.2', or export them where they are (vla-rl assets "
        f"export) and import them here (vla-rl assets import, or {SCENES_VARIABLE}=FOLDER)."
        f"{archives_hint(unread_archives(scene_cache()))}"
    )


@lru_cache(maxsize=1)
def _temporary_root() -> Path:
    """Folder of this process for scenes that the cache cannot take; in memory where the system has such a folder."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    _sweep_temporary(parent)
    # visible to others only once it is locked
    hidden = Path(tempfile.mkdtemp(prefix=".vla_gym-", dir=parent))
    owner = os.open(hidden / _OWNER, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)  # stays open until the process ends
    fcntl.flock(owner, fcntl.LOCK_EX)
    folder = hidden.rename(parent / hidden.name.removeprefix("."))
    atexit.register(_remove_own, folder, os.getpid())
    return folder


def _remove_own(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep_temporary(parent: Path) -> None:
    """Remove temporary folders of this user whose processes are gone: nobody holds their locks."""
    for folder in parent.glob("vla_gym-*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            with open(folder / _OWNER, "r+") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # in use, already gone, or not a folder of ours
            continue


@cache
def _physics_model(path: Path) -> mujoco.MjModel:
    return mujoco.MjModel.from_binary_path(str(path))
