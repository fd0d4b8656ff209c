"""
Find scenes that were built elsewhere, and the packs that they come from.

They are in ``VLA_GYM_SCENES``, a folder that is only read, or in the cache. Both have the layout that
``vla_gym/scenes/bundle.py`` describes.
"""

from __future__ import annotations

import json
import os
import shlex
import zipfile
from collections import defaultdict
from pathlib import Path

from vla_gym.errors import AssetsError
from vla_gym.files import read_bounded

SCENES_VARIABLE = "VLA_GYM_SCENES"
MAX_META = 1 << 20
"""Largest size of ``meta.json`` (bytes); those of the 130 tasks have about 4,000."""


def named_scenes() -> Path | None:
    """
    Return the folder named in ``VLA_GYM_SCENES``, if it is set.

    :raises AssetsError: if there is no such folder
    """
    value = os.environ.get(SCENES_VARIABLE)
    if not value:
        return None
    folder = Path(value).expanduser().absolute()
    if not folder.is_dir():
        raise AssetsError(
            f"{SCENES_VARIABLE} names {value!r}, which is not a folder. Expected one that `vla-rl assets import FILE "
            "--into FOLDER` made of a file of `vla-rl assets export`."
            f"{archives_hint([folder] if folder.is_file() and zipfile.is_zipfile(folder) else [])}"
        )
    return folder


def unread_archives(cached: Path) -> list[Path]:
    """
    List zip files in folders of scenes; they must be imported to be used.

    :param cached: folder of the cached scenes
    """
    roots = [root for root in (named_scenes(), cached) if root is not None and root.is_dir()]
    # opening a pipe would block
    return [path for root in roots for path in sorted(root.iterdir()) if path.is_file() and zipfile.is_zipfile(path)]


def archives_hint(archives: list[Path]) -> str:
    """
    Explain how to use archives; empty if there are none.

    :param archives: of :func:`unread_archives`
    """
    if not archives:
        return ""
    names = ", ".join(map(str, archives[:3])) + (", ..." if len(archives) > 3 else "")
    return f" Archives are not read where they lie ({names}): run vla-rl assets import {shlex.quote(str(archives[0]))}."


def tasks_of_scenes(cached: Path, digest: str) -> list[tuple[str, str]]:
    """
    List the tasks with scenes, (suite, name), in the order of their folders, those of ``VLA_GYM_SCENES`` first.

    :param cached: folder of the cached scenes
    :param digest: fingerprint of the pack that they were built from
    """
    found = []
    for root in filter(None, (named_scenes(), cached)):
        for path in sorted(root.glob("*/meta.json")):
            try:
                meta = read_meta(path)
            except (OSError, ValueError):
                continue  # as below
            if meta.get("pack_digest") == digest:
                found.append((str(meta.get("suite")), str(meta.get("task"))))
    return found


def read_meta(path: Path) -> dict[str, object]:
    """
    Read a ``meta.json`` without checking its values.

    :raises ValueError: if it is not a JSON object, or too large
    :raises OSError: if it cannot be read
    """
    try:
        meta = json.loads(read_bounded(path, MAX_META))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{path} holds {type(meta).__name__}, expected an object")
    return meta


def packs_of_scenes(cached: Path) -> dict[str, dict[str, Path]]:
    """
    List the packs that scenes were built from: name -> fingerprint -> folder of the scenes.

    If ``VLA_GYM_SCENES`` contains scenes of a pack's name, those in the cache do not count.

    :param cached: folder of the cached scenes
    """
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for root in filter(None, (named_scenes(), cached)):
        here: dict[str, dict[str, Path]] = defaultdict(dict)
        for path in sorted(root.glob("*/meta.json")):
            try:
                meta = read_meta(path)
            except (OSError, ValueError):
                continue  # whoever loads the scene says so
            name, digest = meta.get("pack"), meta.get("pack_digest")
            if isinstance(name, str) and isinstance(digest, str):
                here[name][digest] = root
        for name, digests in here.items():
            found.setdefault(name, digests)
    return found
