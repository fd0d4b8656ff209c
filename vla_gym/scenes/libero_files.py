"""Find files of the installed LIBERO without importing it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from functools import lru_cache
from pathlib import Path

from vla_gym.tasks.registry import TaskSpec


def libero_root() -> Path:
    """
    Find the folder of the installed ``libero.libero`` package.

    :raises ModuleNotFoundError: if hf-libero is not installed
    """
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("Building scenes needs LIBERO: pip install 'vla-gym[scenes]'")
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


@lru_cache(maxsize=1)
def libero_versions() -> dict[str, str] | None:
    """Return the versions of LIBERO and its scene-building dependencies; ``None`` if one is not installed."""
    try:
        libero_root()
        return {name: importlib.metadata.version(name) for name in ("hf-libero", "robosuite", "bddl")}
    except (ModuleNotFoundError, importlib.metadata.PackageNotFoundError):
        return None


def task_files(task: TaskSpec) -> tuple[Path, Path]:
    """Return the BDDL file and the initial-state file of a task in the installed LIBERO."""
    root = libero_root()
    return (
        root / "bddl_files" / task.suite / f"{task.name}.bddl",
        root / "init_files" / task.suite / f"{task.name}.pruned_init",
    )


def write_libero_config(folder: Path) -> None:
    """Write ``config.yaml``; without it LIBERO would ask questions on standard input."""
    root = libero_root()
    entries = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": folder / "datasets",
        "assets": root / "assets",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("".join(f"{key}: {json.dumps(str(value))}\n" for key, value in entries.items()))
