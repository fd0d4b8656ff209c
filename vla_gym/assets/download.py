"""
Download LIBERO's assets from the Hugging Face Hub.

- The repository is that of hf-libero, which does not pin a revision, so none is pinned here.
- Only data is downloaded: MJCF, meshes and pictures, by their endings. Nothing in a pack is executed or unpickled.
- Files are collected in a folder beside the target, which is renamed once every file that the tasks read has arrived.
  After a broken connection the folder is kept, and the next attempt continues from it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from vla_gym.assets.completeness import check_pack
from vla_gym.assets.resolve import ASSETS_VARIABLE, PACK_FOLDERS, downloaded_assets_dir
from vla_gym.errors import AssetsError, MissingPackageError

REPOSITORY = "lerobot/libero-assets"
URL = f"https://huggingface.co/datasets/{REPOSITORY}"
ENDINGS = ("xml", "msh", "stl", "obj", "png", "jpg", "jpeg")
_ALTERNATIVE = f"Or get a copy of LIBERO's assets folder in another way and name it in {ASSETS_VARIABLE}."
_MAX_LISTED = 5


def download_assets(force: bool = False) -> Path:
    """
    Download LIBERO's assets into the cache, where ``resolve_assets`` finds them, unless they exist.

    :param force: download them again
    :return: folder of the pack
    :raises MissingPackageError: if huggingface_hub is not installed
    :raises AssetsError: if the download fails or lacks files that the tasks need
    """
    target = downloaded_assets_dir()
    if not force and target.is_dir() and check_pack(target).is_complete:
        return target
    fetch = _snapshot_download()
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{partial}.lock"):
            _fetch_into(partial, fetch)
            _check(partial)
            _replace(target, partial)
    except OSError as error:
        if isinstance(error, AssetsError):
            raise
        raise AssetsError(f"The assets cannot be stored in {target} ({error}). {_ALTERNATIVE}") from error
    return target


def _snapshot_download() -> Callable[..., Any]:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingPackageError(
            f"Downloading needs huggingface_hub: pip install 'vla-gym[hub]'. {_ALTERNATIVE}"
        ) from error
    return snapshot_download


def hub_errors() -> tuple[type[Exception], ...]:
    """
    List the exceptions of the Hub's client and its HTTP library for problems outside this program.

    Needs huggingface_hub.
    """
    import httpx
    from huggingface_hub import errors

    own = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)]
    # its downloader for large files raises RuntimeError
    return (OSError, ValueError, RuntimeError, httpx.HTTPError, httpx.InvalidURL, *own)


def _fetch_into(folder: Path, fetch: Callable[..., Any]) -> None:
    # one pattern per folder, so that nothing else is downloaded
    patterns = [f"{name}/*.{ending}" for name in PACK_FOLDERS for ending in ENDINGS]
    try:
        fetch(repo_id=REPOSITORY, repo_type="dataset", local_dir=folder, allow_patterns=patterns)
    except hub_errors() as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise AssetsError(
            f"{URL} could not be downloaded ({reason}). Check the connection and try again; what has arrived is kept. "
            f"{_ALTERNATIVE}"
        ) from error


def _check(folder: Path) -> None:
    problems = check_pack(folder).problems
    if problems:
        shutil.rmtree(folder)
        listed = "; ".join(problems[:_MAX_LISTED]) + ("; ..." if len(problems) > _MAX_LISTED else "")
        raise AssetsError(
            f"The download of {URL} was discarded: {len(problems)} file(s) that the tasks need are missing or damaged "
            f"({listed}). {_ALTERNATIVE}"
        )


def _replace(target: Path, partial: Path) -> None:
    # the client's notes on its downloads are not part of the pack
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)
