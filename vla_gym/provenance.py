"""Provenance of results and recordings: package versions, commit, peak memory."""

from __future__ import annotations

import importlib.metadata
import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from vla_gym import __version__

PACKAGES = ("vla-gym", "mujoco", "gymnasium", "numpy", "torch", "transformers", "stable-baselines3")
"""Packages that a result depends on."""
_RECORDED_WITH = ("mujoco", "numpy", "hf-libero", "robosuite")


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """
    Look up versions of installed packages.

    :param packages: their names
    :return: package -> version, or "not installed"
    """
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def recorded_with() -> dict[str, str]:
    """Describe the software behind a recording: ``version``, ``commit`` (empty outside a checkout), other packages."""
    others = versions(_RECORDED_WITH)
    return {
        "version": __version__,
        "commit": commit(),
        **{f"version_{name}": version for name, version in others.items() if version != "not installed"},
    }


def commit() -> str:
    """Return the checkout's commit, with ``-dirty`` if files were changed; empty outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # the checkout of another project may contain the installed package
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        command = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process so far, megabytes (1e6 bytes)."""
    # kibibytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
