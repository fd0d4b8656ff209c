"""Where data come from: versions of what shaped them, the commit if there is one, and what files say of themselves."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

from vla_gym import __version__
from vla_gym.datasets.hdf5 import DemonstrationFile, demonstration_files
from vla_gym.errors import DemonstrationFileError
from vla_gym.files import named_errors

_PACKAGES = ("mujoco", "numpy", "hf-libero", "robosuite")


def provenance() -> dict[str, str]:
    """Name -> text: ``version`` and ``commit`` (empty outside a checkout) of this library, and versions of others."""
    found = {"version": __version__, "commit": commit()}
    for package in _PACKAGES:
        try:
            found[f"version_{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe_demonstrations(path: str | Path) -> dict[str, Any]:
    """
    What the recorded files of a folder have in common, and where they differ.

    :param path: a file, or a folder that is searched with its subfolders
    :return: ``kept`` and ``attempted`` episodes; then, of what the recorder noted (``assets``, ``seed``,
        ``action_noise``, ``commit``, ...), the value, or a list of the distinct ones. Files of other recorders count as
        kept and add nothing else
    :raises DemonstrationFileError: if there are no files, or one of them is damaged
    """
    kept, attempted = 0, 0
    found: dict[str, list[Any]] = defaultdict(list)
    for file_path in demonstration_files(path):
        with (
            DemonstrationFile(file_path) as file,
            named_errors(DemonstrationFileError, f"{file_path}: expected notes of vla-rl collect in its attributes"),
        ):
            kept += len(file)
            attempted += int(file.metadata.get("attempted", len(file)))
            noted = json.loads(str(file.metadata.get("settings", "{}")))
            noted |= {name: str(file.metadata[name]) for name in ("version", "commit") if name in file.metadata}
        for name, value in noted.items():
            if value not in found[name]:
                found[name].append(value)
    distinct = {name: values[0] if len(values) == 1 else values for name, values in found.items()}
    return {"kept": kept, "attempted": attempted, **distinct}


def commit() -> str:
    """Commit of the checkout, with ``-dirty`` if files were changed; empty outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # an installed package may lie below somebody else's checkout, where git does not know the file
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        command = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
