"""
Which asset pack a scene is built from, and where the library keeps its cache.

- An explicit argument wins over ``VLA_GYM_ASSETS``, which wins over a downloaded pack; the built-in pack needs nothing.
- A pack that was asked for by name is never silently replaced by another: a bad value is an error.
- The name of a pack says whether results on it may be called LIBERO's.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from vla_gym.errors import AssetsError

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
# only LIBERO's own assets have visual meshes, and LIBERO itself looks for them here
_LIBERO_MARK = Path("stable_scanned_objects", "akita_black_bowl", "visual")


@dataclass(frozen=True)
class AssetPack:
    """
    A folder of MJCF files and textures in LIBERO's layout.

    :param name: ``primitive`` (built in), ``libero`` (LIBERO's own) or ``custom:<folder name>``
    :param path: root of the pack, absolute
    :param chosen_by: what decided for this pack, in words
    """

    name: str
    path: Path
    chosen_by: str = field(default="", compare=False)

    def fingerprint(self) -> str:
        """
        Digest that changes whenever a file of the pack does; textures and meshes count by size and time stamp alone.

        :return: sha256, 64 hexadecimal digits
        """
        digest = hashlib.sha256()
        for file in sorted(p for p in self.path.rglob("*") if p.is_file()):
            status = file.stat()
            digest.update(f"{file.relative_to(self.path).as_posix()}\0{status.st_size}\0".encode())
            digest.update(file.read_bytes() if file.suffix == ".xml" else str(status.st_mtime_ns).encode())
        return digest.hexdigest()


def cache_dir() -> Path:
    """
    Folder for everything the library can make again: scene bundles, downloaded assets.

    :return: ``VLA_GYM_CACHE`` if set, else the user's cache folder; it need not exist yet
    """
    value = os.environ.get(CACHE_VARIABLE)
    return Path(value).expanduser().absolute() if value else Path(platformdirs.user_cache_dir("vla_gym"))


def downloaded_assets_dir() -> Path:
    """Folder that ``vla-rl assets download`` fills; it need not exist."""
    return cache_dir() / "assets"


def resolve_assets(assets: str | os.PathLike[str] = "auto") -> AssetPack:
    """
    Find the asset pack to build scenes from.

    Search order: the argument, ``VLA_GYM_ASSETS``, a pack in ``<cache>/assets``, the built-in primitive pack.

    :param assets: folder of a pack, ``primitive`` for the built-in one, or ``auto`` to search
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
    missing = _missing_folders(path)
    if missing:
        problem = f"lacks the folders {', '.join(missing)}" if path.is_dir() else "is not a folder"
        raise AssetsError(
            f"{source} names {value!r}, which {problem}. Expected a folder with {', '.join(PACK_FOLDERS)} (the layout "
            "of LIBERO's assets), or one of the words 'primitive' and 'auto'. Remedy: correct the path, run "
            "`vla-rl assets download`, or use 'primitive' for the built-in pack."
        )
    return AssetPack(_pack_name(path), path, f"named in {source}")


def _missing_folders(path: Path) -> list[str]:
    return [name for name in PACK_FOLDERS if not (path / name).is_dir()]


def _pack_name(path: Path) -> str:
    if path.resolve() == PRIMITIVE_PACK:
        return "primitive"
    return "libero" if (path / _LIBERO_MARK).is_dir() else f"custom:{path.resolve().name}"
