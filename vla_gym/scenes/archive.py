"""
Export scenes to one file where LIBERO is installed, and import them where it is not.

The file is a zip archive of bundles (see ``bundle.py``) and of ``scenes.json``, which lists size and checksum of every
other member. It may also be unpacked with any program; ``VLA_GYM_SCENES`` can then name the folder.

The import checks all that can be checked: the archive contains exactly the members listed, with names of a fixed form,
bounded sizes and the listed checksums; every value of a description has the right type; models load, and have all
elements that the descriptions name. Nothing is unpickled or executed. No check can tell whether a scene is the one that
it claims to be, and MuJoCo's loader of binary models was not made for hostile files. So import only from people you
trust, and compare the file's checksum with theirs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco

from vla_gym.assets.foreign import MAX_META
from vla_gym.assets.resolve import AssetPack, scene_cache
from vla_gym.errors import SceneFileError, UnknownNameError
from vla_gym.files import locked, sha256, write_then_rename
from vla_gym.scenes.bundle import SUMS, SceneBundle, bundle_keys, check_model, check_names, load_bundle, model_sums
from vla_gym.scenes.meta import MAX_ARRAYS, read_bundle_meta
from vla_gym.scenes.store import cache_lock, load_bundles, sweep_unfinished
from vla_gym.tasks.registry import RENDER_QUALITIES, TaskSpec, get_suite

MANIFEST = "scenes.json"
FORMAT = 1
_MAX_MANIFEST = 1 << 20
_MAX_MEMBERS = 2000
_LIMITS: Mapping[str, int] = {
    r"[0-9a-f]{16}-[0-9a-f]{16}/meta\.json": MAX_META,
    r"[0-9a-f]{16}-[0-9a-f]{16}/arrays\.npz": MAX_ARRAYS,
    rf"[0-9a-f]{{16}}-[0-9a-f]{{16}}/{SUMS}": 1 << 16,
    rf"models/[0-9a-f]{{16}}-[0-9a-f]{{8}}\.(?:physics|{'|'.join(RENDER_QUALITIES)})\.mjb": 1 << 30,
    rf"models/[0-9a-f]{{16}}-[0-9a-f]{{8}}\.(?:physics|{'|'.join(RENDER_QUALITIES)})\.mjb\.sha256": 1 << 16,
}
"""Pattern of a member's name -> its largest size (bytes)."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class SceneArchive:
    """
    Summary of an export or an import.

    :param path: the file written, or the folder into which scenes were imported
    :param pack: name of the asset pack
    :param tasks: their tasks
    :param n_models: compiled models
    :param size: of the file (bytes)
    :param sha256: checksum of the file, 64 hexadecimal digits
    """

    path: Path
    pack: str
    tasks: tuple[TaskSpec, ...]
    n_models: int
    size: int
    sha256: str


def export_scenes(tasks: Sequence[TaskSpec], pack: AssetPack, quality: str | None, out: Path) -> SceneArchive:
    """
    Export scenes to one file, building those that the cache lacks.

    :param tasks: of any suites
    :param pack: the assets to build with
    :param quality: of the render models, ``fast`` or ``full``; ``None``: scenes without images
    :param out: file to write
    :raises SceneBuildError: if LIBERO cannot build a scene
    :raises SceneFileError: if the file cannot be written
    """
    if out.is_dir():
        raise SceneFileError(f"{out} is a folder; expected the name of a file to write, e.g. {out / 'scenes.zip'}.")
    bundles: list[SceneBundle] = []
    for suite in dict.fromkeys(task.suite for task in tasks):
        bundles += load_bundles([task for task in tasks if task.suite == suite], pack, quality)
    members: dict[str, Path] = {}
    for bundle in bundles:
        for name in ("meta.json", "arrays.npz", SUMS):
            members[f"{bundle.folder.name}/{name}"] = bundle.folder / name
        for kind in ("physics", *([quality] if quality else [])):
            model = bundle.model_file(kind)
            for path in (model, model_sums(model)):
                members[f"models/{path.name}"] = path
    files = {name: {"size": path.stat().st_size, "sha256": sha256(path)} for name, path in members.items()}
    manifest = {"format": FORMAT, "mujoco": mujoco.__version__, "pack": pack.name, "files": files}
    try:
        with write_then_rename(out) as temporary:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                # without time stamps, so that the same scenes give the same file
                archive.writestr(_member(MANIFEST), json.dumps(manifest, indent=1))
                for name, path in members.items():
                    with archive.open(_member(name), "w") as target, open(path, "rb") as source:
                        shutil.copyfileobj(source, target, _CHUNK)
    except OSError as error:
        raise SceneFileError(f"{out} cannot be written ({error}); name another file, or free space.") from error
    n_models = sum(name.endswith(".mjb") for name in members)
    return SceneArchive(out, pack.name, tuple(tasks), n_models, out.stat().st_size, sha256(out))


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = (stat.S_IFREG | 0o644) << 16
    return member


def import_scenes(file: Path, into: Path | None = None, checksum: str | None = None) -> SceneArchive:
    """
    Check a file of scenes and import them to where environments find them.

    Neither LIBERO nor the asset pack is needed. Existing scenes are replaced.

    :param file: what ``export_scenes`` wrote
    :param into: folder to name in ``VLA_GYM_SCENES`` afterwards; ``None``: the cache
    :param checksum: sha256 that the file must have, 64 hexadecimal digits; ``None``: any
    :raises SceneFileError: if the file is damaged, unsafe or of another version; nothing is imported then
    """
    root = scene_cache() if into is None else into.absolute()
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise ValueError("not a regular file")
        if checksum is not None and sha256(file) != checksum.lower():
            raise ValueError(f"its checksum is {sha256(file)}, expected {checksum}")
        root.mkdir(parents=True, exist_ok=True)
        with locked(cache_lock(root)):
            sweep_unfinished(root)
            with tempfile.TemporaryDirectory(dir=root, prefix="importing-") as temporary:
                unpack(file, Path(temporary))
                bundles = _check_all(Path(temporary))
                n_models = _move(Path(temporary), root)
    except (OSError, ValueError) as error:
        raise SceneFileError(
            f"{file} cannot be imported: {error}. Expected a file that `vla-rl assets export` wrote with the same "
            "versions of mujoco and vla_gym; nothing of it is used."
        ) from error
    tasks = tuple(bundle.task for bundle in bundles)
    return SceneArchive(root, bundles[0].pack, tasks, n_models, file.stat().st_size, sha256(file))


def unpack(file: Path, folder: Path) -> None:
    """
    Unpack a file of scenes into a folder.

    :param file: the file
    :param folder: existing, empty
    :raises ValueError: if its members differ from its manifest, or are too large or damaged
    :raises OSError: if the folder cannot take it
    """
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # damaged archives make zipfile raise what it likes
        raise ValueError(f"not a zip archive ({type(error).__name__}: {error})") from error
    with archive:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) != len(archive.infolist()) or len(members) > _MAX_MEMBERS:
            raise ValueError(f"{len(archive.infolist())} members, some of the same name or more than {_MAX_MEMBERS}")
        files = _read_manifest(archive, members)
        if files.keys() != members.keys() - {MANIFEST}:
            differing = sorted(files.keys() ^ (members.keys() - {MANIFEST}))
            raise ValueError(f"{MANIFEST} and the archive differ in {differing[:3]}")
        total = sum(entry["size"] for entry in files.values())
        free = shutil.disk_usage(folder).free
        if total > free:
            raise ValueError(f"{total:,} bytes when unpacked, and {free:,} are free in {folder}")
        for name, entry in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            _extract(archive, members[name], path, entry["size"], entry["sha256"])


def _read_manifest(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> dict[str, dict[str, Any]]:
    """Read the manifest: member -> size (bytes) and checksum."""
    if MANIFEST not in members:
        raise ValueError(f"no {MANIFEST} in it")
    try:
        with archive.open(members[MANIFEST]) as member:
            text = member.read(_MAX_MANIFEST + 1)
        if len(text) > _MAX_MANIFEST:
            raise ValueError(f"more than {_MAX_MANIFEST:,} bytes")
        manifest = json.loads(text)
    except Exception as error:  # as above, and JSON may be nested too deeply
        raise ValueError(f"{MANIFEST} cannot be read ({type(error).__name__}: {error})") from error
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("files"), dict)
    ):
        raise ValueError(f"{MANIFEST} is not of format {FORMAT}")
    if manifest.get("mujoco") != mujoco.__version__:
        raise ValueError(f"models were compiled by mujoco {manifest.get('mujoco')}, this is {mujoco.__version__}")
    files: dict[str, dict[str, Any]] = manifest["files"]
    for name, entry in files.items():
        limit = next((limit for pattern, limit in _LIMITS.items() if re.fullmatch(pattern, name)), None)
        if limit is None:
            raise ValueError(f"{name!r} is no name of a scene's file")
        size, digest = (entry.get("size"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if type(size) is not int or not 0 <= size <= limit or not isinstance(digest, str):
            raise ValueError(f"{name} is listed with {entry!r:.80}, expected a size up to {limit:,} and a checksum")
    return files


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, size: int, expected: str) -> None:
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise ValueError(f"{member.filename} is a link or no regular file")
    digest = hashlib.sha256()
    with open(path, "wb") as target:
        try:
            with archive.open(member) as source:
                while chunk := source.read(_CHUNK):
                    size -= len(chunk)
                    if size < 0:
                        raise ValueError("larger than listed")
                    digest.update(chunk)
                    target.write(chunk)
        except OSError:
            raise
        except Exception as error:  # encryption, unknown compression and damage make zipfile raise what it likes
            raise ValueError(f"{member.filename} cannot be unpacked ({type(error).__name__}: {error})") from error
    if size != 0 or digest.hexdigest() != expected:
        raise ValueError(f"{member.filename} is damaged: size or checksum differ from those listed")


def _check_all(folder: Path) -> list[SceneBundle]:
    """Load and check all bundles of an unpacked file: their names, and that they can be simulated and rendered."""
    bundles = []
    used = set()
    for path in sorted(folder.glob("*/meta.json")):
        meta = read_bundle_meta(path)
        task = _find_task(meta["suite"], meta["task"])
        pack = AssetPack(meta["pack"], folder, has_files=False, digest=meta["pack_digest"])
        (key,) = bundle_keys([task], pack).values()
        bundle = load_bundle(folder, path.parent, task, pack, None)
        if bundle is None or path.parent.name.partition("-")[0] != key:
            raise ValueError(f"{path.parent.name} is not the folder of {task.name}")
        check_names(bundle)
        used.add(bundle.scene)
        bundles.append(bundle)
    models = sorted((folder / "models").glob("*.mjb"))
    if not bundles or {path.name.partition(".")[0] for path in models} != used:
        raise ValueError("it holds no scenes, or models of none of them")
    for model in models:
        check_model(model)
        try:
            mujoco.MjModel.from_binary_path(str(model))
        except Exception as error:  # MuJoCo's own FatalError is one
            raise ValueError(f"MuJoCo does not load {model.name} ({error})") from error
    return bundles


def _find_task(suite: str, name: str) -> TaskSpec:
    try:
        (task,) = (task for task in get_suite(suite).tasks if task.name == name)
    except (UnknownNameError, ValueError) as error:
        raise ValueError(f"there is no task {name!r} in {suite!r}") from error
    return task


def _move(source: Path, root: Path) -> int:
    """Move checked scenes to their final place, models first; return the number of models."""
    (root / "models").mkdir(exist_ok=True)
    models = sorted((source / "models").glob("*.mjb"))
    for model in models:
        target = root / "models" / model.name
        os.replace(model, target)
        os.replace(model_sums(model), model_sums(target))
    for meta in sorted(source.glob("*/meta.json")):
        target = root / meta.parent.name
        if target.exists():
            shutil.rmtree(target)
        os.replace(meta.parent, target)
    return len(models)
