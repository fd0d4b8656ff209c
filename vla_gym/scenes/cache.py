"""Inspect the scene cache, and fill it ahead of time."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vla_gym.assets.resolve import CACHE_VARIABLE, AssetPack, cache_dir
from vla_gym.errors import SceneBuildError
from vla_gym.scenes.store import load_bundles
from vla_gym.tasks.registry import SuiteSpec


@dataclass(frozen=True)
class CacheUsage:
    """
    State of the cache folder.

    :param path: the folder; it need not exist
    :param is_writable: whether a file can be made there
    :param n_scenes: tasks whose scene is stored, whatever pack they were built with
    :param n_models: compiled models to simulate or render
    :param size: of all files (bytes)
    :param free: left on the disk (bytes)
    """

    path: Path
    is_writable: bool
    n_scenes: int
    n_models: int
    size: int
    free: int


@dataclass(frozen=True)
class FilledSuite:
    """
    Result of ``fill_cache`` for a suite.

    :param n_tasks: tasks that are now in the cache
    :param n_scenes: different scenes among them
    :param seconds: time it took; almost none if all were there
    """

    n_tasks: int
    n_scenes: int
    seconds: float


def cache_usage() -> CacheUsage:
    """Inspect the cache folder without creating it."""
    path = cache_dir()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return CacheUsage(
        path=path,
        is_writable=_is_writable(existing),
        n_scenes=sum(1 for _ in (path / "scenes").glob("*/meta.json")),
        n_models=sum(1 for _ in (path / "scenes" / "models").glob("*.mjb")),
        size=sum(_size(file) for file in path.rglob("*")),
        free=shutil.disk_usage(existing).free,
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:  # another process is building
        return 0


def _is_writable(folder: Path) -> bool:
    # permission bits mean nothing on a read-only file system or to the superuser
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def fill_cache(suite: SuiteSpec, task_ids: Iterable[int] | None, pack: AssetPack, quality: str | None) -> FilledSuite:
    """
    Build the scenes of a suite that the cache lacks.

    :param suite: the suite
    :param task_ids: some of its tasks, or None for all
    :param pack: the assets to build with
    :param quality: render model that is wanted too, ``fast`` or ``full``
    :raises UnknownNameError: if the suite has no such task
    :raises SceneBuildError: if LIBERO cannot build a scene, or the cache cannot take it
    """
    start = time.perf_counter()
    tasks = suite.tasks if task_ids is None else [suite.task(task_id) for task_id in task_ids]
    bundles = load_bundles(tasks, pack, quality)
    if any(cache_dir() not in bundle.models.parents for bundle in bundles):
        raise SceneBuildError(
            f"The cache {cache_dir()} cannot be written, so the scenes would be lost with this process. Remedy: free "
            f"space or correct its permissions, or name another folder in {CACHE_VARIABLE}."
        )
    return FilledSuite(len(tasks), len({bundle.scene for bundle in bundles}), time.perf_counter() - start)
