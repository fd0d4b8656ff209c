"""
Find scene bundles: in a folder named by the user, in the cache, or, if the cache cannot be written, in memory.

One process builds missing bundles while the others wait. A damaged file in the cache is rebuilt; in the folder that
``VLA_GYM_SCENES`` names it is an error.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from vla_gym.assets.foreign import SCENES_VARIABLE, archives_hint, named_scenes, read_meta, unread_archives
from vla_gym.assets.resolve import AssetPack, scene_cache
from vla_gym.errors import SceneBuildError, SceneFileError
from vla_gym.files import locked, sha256
from vla_gym.scenes.bundle import SUMS, SceneBundle, bundle_keys, check_names, facts, load_bundle
from vla_gym.scenes.libero_files import libero_versions, task_files
from vla_gym.tasks.registry import TaskSpec

logger = logging.getLogger(__name__)

_UNFINISHED = ("building-*", "importing-*")
"""Folders in the cache that only the holder of its lock writes to."""
_OWNER = "owner.lock"


def load_bundles(tasks: Sequence[TaskSpec], pack: AssetPack, quality: str | None = None) -> list[SceneBundle]:
    """
    Load bundles of tasks of one suite from ``VLA_GYM_SCENES`` or the cache, and build missing ones.

    Any number of processes may call this at once: one builds, the others wait. If the cache cannot be written (full
    disk, read-only folder), scenes are built into a temporary folder that is removed when the process ends.

    :param tasks: tasks of one suite
    :param pack: the assets to build with
    :param quality: render model that is needed too: ``full`` or ``fast``
    :return: one bundle per task, in order
    :raises SceneBuildError: if LIBERO cannot build a scene, or is needed but not installed
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


def sweep_unfinished(root: Path) -> None:
    """Remove half-built scenes of killed processes; the caller holds the lock, so none of these is alive."""
    for pattern in _UNFINISHED:
        for folder in root.glob(pattern):
            logger.info("Removing %s, which a process that was killed has left.", folder)
            shutil.rmtree(folder, ignore_errors=True)


def cache_lock(root: Path) -> Path:
    """Return the lock file for writing to a folder of scenes."""
    return root / "build.lock"


_checked: set[tuple[Path, str]] = set()
"""Bundles in ``VLA_GYM_SCENES`` that this process has checked."""


def _load_named(
    tasks: Sequence[TaskSpec], keys: Mapping[TaskSpec, str], pack: AssetPack, quality: str | None
) -> dict[TaskSpec, SceneBundle]:
    """Load the bundles in ``VLA_GYM_SCENES``, built by any version of LIBERO."""
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


def _cached_folder(root: Path, key: str, task: TaskSpec, pack: AssetPack) -> Path:
    """Return a task's folder, existing or not; without LIBERO, the newest that exists."""
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
    """Load cached bundles; those that are missing, damaged (which is logged) or lack the render model are left out."""
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
    # imported here because environments with existing scenes do not need it
    from vla_gym.scenes.build import build_bundles

    root.mkdir(parents=True, exist_ok=True)
    with locked(cache_lock(root)):
        sweep_unfinished(root)
        # another process may have built some meanwhile
        bundles = _load_all(root, folders, pack, quality)
        missing = [task for task in tasks if task not in bundles]
        if missing:
            build_bundles(root, missing, folders, pack, quality)
            bundles = _load_all(root, folders, pack, quality)
    return bundles


def _why_not_there(tasks: Sequence[TaskSpec], pack: AssetPack, quality: str | None) -> str:
    """Explain why scenes neither exist nor can be built here, and what similar ones lack."""
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
        f"build them.{found} Remedy: pip install 'vla-gym[scenes]', or export them where they are (vla-rl assets "
        f"export) and import them here (vla-rl assets import, or {SCENES_VARIABLE}=FOLDER)."
        f"{archives_hint(unread_archives(scene_cache()))}"
    )


@lru_cache(maxsize=1)
def _temporary_root() -> Path:
    """Create this process's folder for scenes that the cache cannot take, in memory if the system has such a folder."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    _sweep_temporary(parent)
    # hidden from others until it is locked
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
    """Remove this user's temporary folders whose processes are gone, as nobody holds their locks."""
    for folder in parent.glob("vla_gym-*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            with open(folder / _OWNER, "r+") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # in use, already gone, or not a folder of ours
            continue
