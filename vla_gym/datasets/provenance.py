"""Where data come from: versions of what shaped them, and the commit if there is one."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

from vla_gym import __version__

_PACKAGES = ("mujoco", "numpy", "hf-libero", "robosuite")


def provenance() -> dict[str, str]:
    """Name -> text: ``version`` and ``commit`` (empty outside a checkout) of this library, and versions of others."""
    found = {"version": __version__, "commit": _commit(Path(__file__).parent)}
    for package in _PACKAGES:
        try:
            found[f"version_{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit(folder: Path) -> str:
    try:
        # an installed package may lie below somebody else's checkout, where git does not know the file
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        return _git(folder, "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
