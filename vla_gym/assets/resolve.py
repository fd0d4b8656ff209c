"""
Choose the asset pack to build scenes from, and the folder of the cache.

- An explicit argument takes precedence over ``VLA_GYM_ASSETS``, then come a downloaded pack and the built-in one.
- A pack that was requested is never silently replaced by another: a bad value is an error.
- Imported scenes can be used without their pack; ``assets="libero"`` requests those of LIBERO's.
- A pack's name tells whether results on it are results on LIBERO.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from vla_gym.assets.foreign import SCENES_VARIABLE, archives_hint, packs_of_scenes, unread_archives
from vla_gym.errors import AssetsError
from vla_gym.files import read_bounded, write_then_rename

ASSETS_VARIABLE = "VLA_GYM_ASSETS"
CACHE_VARIABLE = "VLA_GYM_CACHE"
PRIMITIVE_PACK = Path(__file__).resolve().parent / "primitives"
PACK_FOLDERS = (
    "articulated_objects",
    "scenes",
    "stable_hope_objects",
    "stable_scanned_objects",
    "textures",
    "turbosquid_objects",
)
# only LIBERO's own assets have visual meshes, in these folders
_LIBERO_MARK = Path("stable_scanned_objects", "akita_black_bowl", "visual")


@dataclass(frozen=True)
class AssetPack:
    """
    A folder of MJCF files and textures in LIBERO's layout.

    :param name: ``primitive`` (built in), ``libero`` (LIBERO's own) or ``custom:<folder name>``
    :param path: root of the pack, absolute
    :param chosen_by: reason for the choice, in words
    :param has_files: whether scenes can be built from it; else ``path`` is a folder of imported scenes
    :param digest: its fingerprint, if known
    """

    name: str
    path: Path
    chosen_by: str = field(default="", compare=False)
    has_files: bool = True
    digest: str = ""

    def fingerprint(self) -> str:
        """
        Compute a digest of the names and contents of all files, the same on every machine.

        Contents are read again only when a name, size or time stamp changes.

        :return: sha256, 64 hexadecimal digits
        """
        if self.digest:
            return self.digest
        seen = hashlib.sha256()
        files, size = sorted(p for p in self.path.rglob("*") if p.is_file()), 0
        for file in files:
            status = file.stat()
            seen.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0".encode())
            size += status.st_size
        return _content_digest(self.path, tuple(files), seen.hexdigest(), size > _READ_EVERY_TIME)


_READ_EVERY_TIME = 16 << 20
"""Size (bytes) from which a pack's digest is stored in the cache for other processes."""


@cache
def _content_digest(root: Path, files: tuple[Path, ...], seen: str, is_kept: bool) -> str:
    kept = cache_dir() / "packs" / seen
    if is_kept:
        with contextlib.suppress(OSError, ValueError):
            found = read_bounded(kept, 64).decode()
            if len(bytes.fromhex(found)) == hashlib.sha256().digest_size:
                return found
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    if is_kept:
        # without a writable cache this takes a second each time
        with contextlib.suppress(OSError), write_then_rename(kept) as temporary:
            temporary.write_text(digest.hexdigest())
    return digest.hexdigest()


def cache_dir() -> Path:
    """
    Return the folder for all that can be regenerated: scene bundles, downloaded assets.

    :return: ``VLA_GYM_CACHE`` if set, else the user's cache folder; it need not exist yet
    """
    value = os.environ.get(CACHE_VARIABLE)
    if value:
        return Path(value).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "vla_gym"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vla_gym"


def scene_cache() -> Path:
    """Return the folder of built and imported scenes; it need not exist."""
    return cache_dir() / "scenes"


def downloaded_assets_dir() -> Path:
    """Return the folder that ``vla-rl assets download`` fills; it need not exist."""
    return cache_dir() / "assets"


def resolve_assets(assets: str | os.PathLike[str] = "auto") -> AssetPack:
    """
    Find the asset pack to build scenes from.

    Search order: the argument, ``VLA_GYM_ASSETS``, a pack in ``<cache>/assets``, the built-in primitive pack.

    :param assets: folder of a pack, ``primitive`` for the built-in one, the name of a pack (``libero``) whose scenes
        were built elsewhere, or ``auto`` to search
    :return: the pack
    :raises AssetsError: if the argument or ``VLA_GYM_ASSETS`` names no complete pack
    """
    for value, source in ((os.fspath(assets), "assets="), (os.environ.get(ASSETS_VARIABLE, ""), ASSETS_VARIABLE)):
        if value == "primitive":
            return AssetPack("primitive", PRIMITIVE_PACK, f"named in {source}")
        if value not in ("", "auto"):
            return _open_pack(value, source)
    downloaded = downloaded_assets_dir()
    if not _missing_folders(downloaded):
        return AssetPack(_pack_name(downloaded), downloaded, "downloaded into the cache")
    return AssetPack("primitive", PRIMITIVE_PACK, "built in; nothing else is named or downloaded")


def _open_pack(value: str, source: str) -> AssetPack:
    path = Path(value).expanduser().absolute()
    if not path.exists():
        digests = packs_of_scenes(scene_cache()).get(value, {})
        if len(digests) == 1:
            ((digest, folder),) = digests.items()
            return AssetPack(value, folder, f"named in {source}; its scenes were built elsewhere", False, digest)
        if digests:
            folders = ", ".join(str(folder) for folder in digests.values())
            raise AssetsError(
                f"{source} names {value!r}, but the scenes of that name come from {len(digests)} different packs "
                f"({folders}). Remedy: keep those of one pack, or name a folder of scenes in {SCENES_VARIABLE}."
            )
    missing = _missing_folders(path)
    if missing:
        problem = f"lacks the folders {', '.join(missing)}" if path.is_dir() else "is not a folder"
        raise AssetsError(
            f"{source} names {value!r}, which {problem}. Expected a folder with {', '.join(PACK_FOLDERS)} (the layout "
            "of LIBERO's assets), the name of a pack whose scenes were imported, or one of the words 'primitive' and "
            "'auto'. Remedy: correct the path, run `vla-rl assets download`, or use 'primitive' for the built-in pack."
            f"{archives_hint(unread_archives(scene_cache()))}"
        )
    return AssetPack(_pack_name(path), path, f"named in {source}")


def _missing_folders(path: Path) -> list[str]:
    return [name for name in PACK_FOLDERS if not (path / name).is_dir()]


def _pack_name(path: Path) -> str:
    if path.resolve() == PRIMITIVE_PACK:
        return "primitive"
    return "libero" if (path / _LIBERO_MARK).is_dir() else f"custom:{path.resolve().name}"
