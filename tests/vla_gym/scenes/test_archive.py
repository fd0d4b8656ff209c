"""Scenes travel as one file, and what is wrong with such a file is named before anything of it is used."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vla_gym  # noqa: F401  (registers the environments)
from vla_gym.assets.resolve import AssetPack, cache_dir, resolve_assets
from vla_gym.errors import AssetsError, SceneBuildError, SceneFileError
from vla_gym.files import write_sums
from vla_gym.scenes import bundle as bundle_module
from vla_gym.scenes import store
from vla_gym.scenes.archive import MANIFEST, export_scenes, import_scenes
from vla_gym.scenes.bundle import SUMS
from vla_gym.scenes.libero_files import libero_versions
from vla_gym.scenes.store import load_bundles
from vla_gym.tasks.registry import get_suite

pytestmark = pytest.mark.usefixtures("goal_scenes")

TASKS = (get_suite("goal").task(3), get_suite("goal").task(8))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of LIBERO-Goal in one file."""
    path = tmp_path_factory.mktemp("exported") / "goal.zip"
    done = export_scenes(TASKS, resolve_assets("primitive"), "fast", path)
    assert done.tasks == TASKS and done.n_models == 2 and done.size == path.stat().st_size
    assert done.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return path


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without render models."""
    path = tmp_path_factory.mktemp("exported") / "goal.zip"
    export_scenes(TASKS, resolve_assets("primitive"), None, path)
    return path


@pytest.fixture(scope="module")
def expected(file: Path) -> list[np.ndarray]:
    """What environments return where the scenes were built."""
    return rollout(make())


@pytest.fixture(scope="module")
def built(file: Path) -> Path:
    """The cache where the scenes were built."""
    return cache_dir()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without LIBERO and with an empty cache."""
    monkeypatch.setattr(store, "libero_versions", lambda: None)
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def make() -> gym.Env:
    return gym.make("LIBERO-Goal-v0", task_ids=[3, 8], render_quality="fast", image_size=32, assets="primitive")


def rollout(env: gym.Env) -> list[np.ndarray]:
    observation, _ = env.reset(options={"task_id": 3, "init_state_id": 5})
    images = [observation["agentview"]]
    for _ in range(2):
        observation, *_ = env.step(np.full(7, 100))
        images += [observation["agentview"], observation["proprio"]]
    env.close()
    return images


@pytest.mark.parametrize("way", ["imported", "named", "unzipped"])
def test_scenes_are_used_where_libero_is_not_installed(
    way: str, file: Path, expected: list[np.ndarray], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SceneBuildError, match=r"hf-libero is not installed here.*vla-rl assets import"):
        make()
    if way == "imported":
        assert import_scenes(file).tasks == TASKS
    else:
        folder = elsewhere / "scenes"
        if way == "named":
            import_scenes(file, folder)
        else:
            with zipfile.ZipFile(file) as archive:
                archive.extractall(folder)
        monkeypatch.setenv("VLA_GYM_SCENES", str(folder))
    for before, after in zip(expected, rollout(make()), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not list(elsewhere.rglob("importing-*"))


def test_the_same_scenes_make_the_same_file(file: Path, tmp_path: Path) -> None:
    export_scenes(TASKS, resolve_assets("primitive"), "fast", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == file.read_bytes()


def test_the_cache_of_a_machine_with_libero_serves_one_without(built: Path, elsewhere: Path) -> None:
    shutil.copytree(built, elsewhere / "cache")
    assert len(load_bundles(TASKS, resolve_assets("primitive"), "fast")) == 2


def test_a_lack_is_explained_by_what_is_there(file: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_scenes(file)
    pack = resolve_assets("primitive")
    with pytest.raises(SceneBuildError, match="have no model for render_quality='full'"):
        load_bundles(TASKS, pack, "full")
    with pytest.raises(SceneBuildError, match=r"\['push_the_plate_to_the_front_of_the_stove'\].*vla-rl assets export"):
        load_bundles([get_suite("goal").task(5)], pack, "fast")
    with pytest.raises(SceneBuildError, match=r"built from the pack 'primitive' \(assets='primitive' asks"):
        load_bundles(TASKS, AssetPack("libero", elsewhere), "fast")
    monkeypatch.setattr(bundle_module.mujoco, "__version__", "3.3.0")
    with pytest.raises(SceneBuildError, match=r"compiled by mujoco 3\.3\.\d, this is 3\.3\.0"):
        load_bundles(TASKS, pack, "fast")
    monkeypatch.setattr(bundle_module, "BUNDLE_VERSION", 99)
    with pytest.raises(SceneBuildError, match="another version of vla_gym"):
        load_bundles(TASKS, pack, "fast")


def test_scenes_of_another_pack_are_asked_for_by_its_name(
    file: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_scenes(file, elsewhere / "scenes")
    pack = AssetPack("libero", elsewhere, has_files=False, digest="ab" * 32)
    for task, key in bundle_module.bundle_keys(TASKS, pack).items():
        (meta,) = (
            m for m in (elsewhere / "scenes").glob("*/meta.json") if json.loads(m.read_text())["task"] == task.name
        )
        content = json.loads(meta.read_text()) | {"pack": "libero", "pack_digest": "ab" * 32}
        meta.write_text(json.dumps(content))
        write_sums(meta.parent / SUMS, [meta, meta.parent / "arrays.npz"])
        meta.parent.rename(meta.parent.parent / f"{key}-{'0' * 16}")
    monkeypatch.setenv("VLA_GYM_SCENES", str(elsewhere / "scenes"))
    found = resolve_assets("libero")
    assert (found.name, found.has_files, found.fingerprint()) == ("libero", False, "ab" * 32)
    assert {bundle.pack for bundle in load_bundles(TASKS, found, "fast")} == {"libero"}
    with pytest.raises(SceneBuildError, match=r"files of the pack 'libero' are not here"):
        load_bundles([get_suite("goal").task(5)], found, "fast")
    with pytest.raises(AssetsError, match="'lbero', which is not a folder"):
        resolve_assets("lbero")


def test_an_archive_where_scenes_are_looked_for_is_not_passed_over_in_silence(
    small_file: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = elsewhere / "my scenes"
    folder.mkdir()
    # an archive is known by its content, not by its name
    archive = folder / "goal.scenes"
    archive.symlink_to(small_file)
    (folder / "notes.zip").write_text("no archive")
    monkeypatch.setenv("VLA_GYM_SCENES", str(folder))
    hint = rf"not read where they lie \({archive}\): run vla-rl assets import '{archive}'\."
    with pytest.raises(SceneBuildError, match=hint):
        make()
    with pytest.raises(AssetsError, match=hint):
        resolve_assets("libero")
    # where LIBERO is installed, its scenes are built instead
    monkeypatch.setattr(store, "libero_versions", libero_versions)
    monkeypatch.setattr(store, "_build_missing", lambda root, tasks, *_: {})
    with caplog.at_level(logging.WARNING), pytest.raises(SceneBuildError, match="cannot be read back"):
        make()
    assert re.search(hint, caplog.text)
    monkeypatch.setenv("VLA_GYM_SCENES", str(archive))
    with pytest.raises(AssetsError, match=rf"goal\.scenes', which is not a folder.*{hint}"):
        make()


def test_a_folder_that_is_none_is_an_error(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_GYM_SCENES", str(elsewhere / "nowhere"))
    with pytest.raises(AssetsError, match=r"VLA_GYM_SCENES names '.*nowhere', which is not a folder"):
        make()


def test_random_bytes_in_a_named_folder_are_refused_by_name(
    file: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_scenes(file, elsewhere / "scenes")
    monkeypatch.setenv("VLA_GYM_SCENES", str(elsewhere / "scenes"))
    make().close()
    for path in sorted(elsewhere.glob("scenes/*/*")):
        content = path.read_bytes()
        damaged = bytearray(content)
        rng = np.random.default_rng(len(content))
        for i in rng.choice(len(damaged), 20, replace=False):
            damaged[i] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with pytest.raises(
            SceneFileError, match=r"cannot be used: .*(checksum|SHA256SUMS|sha256).*Copy or export it again"
        ):
            make()
        path.write_bytes(content)
    make().close()


@pytest.mark.parametrize("what", ["meta.json", "models"])
def test_links_out_of_a_named_folder_are_refused(
    what: str, file: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_scenes(file, elsewhere / "scenes")
    for path in list(elsewhere.glob(f"scenes/**/{what}")):
        target = elsewhere / f"outside-{path.parent.name}"
        path.rename(target)
        path.symlink_to(target)
    monkeypatch.setenv("VLA_GYM_SCENES", str(elsewhere / "scenes"))
    with pytest.raises(SceneFileError, match=r"is a link to .*outside"):
        make()


Change = Callable[[dict[str, bytes], dict[str, Any]], None]


def rewrite(file: Path, target: Path, change: Change) -> Path:
    """Copy a file of scenes; the manifest follows the members unless the change says otherwise."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members.pop(MANIFEST))
    before = dict(members)
    change(members, manifest)
    for name, data in members.items():
        if before.get(name) != data and name in before:
            manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(MANIFEST, json.dumps(manifest))
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def add(members: dict[str, bytes], manifest: dict[str, Any], name: str, data: bytes = b"x") -> None:
    members[name] = data
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def edit_meta(members: dict[str, bytes], change: Callable[[dict[str, Any]], Any]) -> None:
    """Change all descriptions, with checksums that fit again."""
    for name in [name for name in members if name.endswith("meta.json")]:
        meta = json.loads(members[name])
        change(meta)
        members[name] = json.dumps(meta).encode()
        folder = name.partition("/")[0]
        sums = "".join(
            f"{hashlib.sha256(members[f'{folder}/{part}']).hexdigest()}  {part}\n"
            for part in ("meta.json", "arrays.npz")
        )
        members[f"{folder}/{SUMS}"] = sums.encode()


def edit_model(members: dict[str, bytes], change: Callable[[bytes], bytes]) -> None:
    """Change the models to simulate, with checksums that fit again."""
    for name in [name for name in members if name.endswith("physics.mjb")]:
        members[name] = change(members[name])
        line = f"{hashlib.sha256(members[name]).hexdigest()}  {name.partition('/')[2]}\n"
        members[f"{name}.sha256"] = line.encode()


def first(members: dict[str, bytes], end: str) -> str:
    return next(name for name in members if name.endswith(end))


def declare(position: int, size: int, value: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:position] + value.to_bytes(size, "little") + data[position + size :]


HOSTILE: dict[str, tuple[Change, str]] = {
    "name that leaves the folder": (lambda m, j: add(m, j, "../evil.mjb"), "no name of a scene's file"),
    "absolute name": (lambda m, j: add(m, j, "/tmp/evil.mjb"), "no name of a scene's file"),
    "hidden climb": (lambda m, j: add(m, j, "models/../../evil.mjb"), "no name of a scene's file"),
    "program": (lambda m, j: add(m, j, "models/run.py"), "no name of a scene's file"),
    "member that is not listed": (lambda m, j: m.update({"models/more": b"x"}), r"differ in \['models/more'\]"),
    "listed member that is missing": (lambda m, j: m.pop(first(m, "physics.mjb")), "differ in"),
    "damaged member": (
        lambda m, j: j["files"][first(m, "physics.mjb")].update(sha256="0" * 64),
        "physics.mjb is damaged: size or checksum",
    ),
    "smaller than listed": (lambda m, j: j["files"][first(m, "physics.mjb")].update(size=10**7 * 2), "is damaged"),
    "larger than listed": (lambda m, j: j["files"][first(m, "physics.mjb")].update(size=5), "larger than listed"),
    "terabytes": (lambda m, j: j["files"][first(m, "physics.mjb")].update(size=10**13), "expected a size up to"),
    "negative size": (lambda m, j: j["files"][first(m, "physics.mjb")].update(size=-1), "expected a size up to"),
    "entry that is a list": (lambda m, j: j["files"].update({first(m, "physics.mjb"): []}), "expected a size up to"),
    "manifest without files": (lambda m, j: j.update(files=3), "is not of format 1"),
    "later format": (lambda m, j: j.update(format=2), "is not of format 1"),
    "other mujoco": (lambda m, j: j.update(mujoco="3.2.7"), r"compiled by mujoco 3\.2\.7, this is"),
    "no scenes": (lambda m, j: (m.clear(), j.update(files={})), "holds no scenes"),
    "unknown suite": (lambda m, j: edit_meta(m, lambda meta: meta.update(suite="x")), "there is no task"),
    "other task": (lambda m, j: edit_meta(m, lambda meta: meta.update(task=TASKS[0].name)), "is not the folder of"),
    "scene elsewhere": (
        lambda m, j: edit_meta(m, lambda meta: meta.update(scene="../../../tmp/x")),
        "invalid 'scene'",
    ),
    "scene that is missing": (
        lambda m, j: edit_meta(m, lambda meta: meta.update(scene="0" * 16 + "-" + "0" * 8)),
        "No such file",
    ),
    "goal of another type": (lambda m, j: edit_meta(m, lambda meta: meta.update(goal={})), "invalid 'goal'"),
    "unknown body": (
        lambda m, j: edit_meta(m, lambda meta: meta["objects"].update(plate_1="ghost")),
        "does not fit.*ghost",
    ),
    "unknown joint": (
        lambda m, j: edit_meta(m, lambda meta: meta["robot"]["joints"].__setitem__(0, "ghost")),
        "does not fit.*ghost",
    ),
    "no model": (lambda m, j: edit_model(m, lambda data: b"#!/bin/sh\n" * 100), "is no compiled model"),
    "empty model": (lambda m, j: edit_model(m, lambda data: b""), "is no compiled model"),
    "model that declares terabytes": (
        lambda m, j: edit_model(m, declare(20 + 4 * 84 + 8, 8, 1 << 43)),
        "declares 8,796,093,022,208",
    ),
    "model with an endless arena": (lambda m, j: edit_model(m, declare(20 + 4 * 84, 8, 1 << 43)), "declares"),
    "model with too many joints": (lambda m, j: edit_model(m, declare(20, 4, 1 << 30)), "declares"),
    "model cut off": (lambda m, j: edit_model(m, lambda data: data[:-1000]), "does not fit|does not load"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_by_name(name: str, small_file: Path, elsewhere: Path) -> None:
    change, message = HOSTILE[name]
    hostile = rewrite(small_file, elsewhere / "hostile.zip", change)
    with pytest.raises(SceneFileError, match=rf"hostile\.zip cannot be imported: [\s\S]*({message})"):
        import_scenes(hostile)
    left = [path.name for path in (elsewhere / "cache").rglob("*") if path.is_file()]
    assert left == ["build.lock"] and not (elsewhere.parent / "evil.mjb").exists()


def test_other_things_than_archives_are_refused(small_file: Path, elsewhere: Path) -> None:
    os.mkfifo(elsewhere / "fifo")
    (elsewhere / "text").write_text("no archive")
    (elsewhere / "half").write_bytes(small_file.read_bytes()[: small_file.stat().st_size // 2])
    for name, message in {
        "fifo": "not a regular file",
        "text": "not a zip archive",
        "half": "not a zip archive",
        "nowhere": "No such file",
        ".": "not a regular file",
    }.items():
        with pytest.raises(SceneFileError, match=message):
            import_scenes(elsewhere / name)


def test_links_doubles_and_unknown_compression_are_refused(small_file: Path, elsewhere: Path) -> None:
    with zipfile.ZipFile(small_file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    victim = first(members, "physics.mjb")
    for case, message in {
        "link": "is a link or no regular file",
        "double": "some of the same name",
        "compression": "cannot be unpacked|is not supported",
    }.items():
        path = elsewhere / f"{case}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                info = zipfile.ZipInfo(name)
                if case == "link" and name == victim:
                    info.external_attr = 0o120777 << 16
                archive.writestr(info, data)
            if case == "double":
                with pytest.warns(UserWarning, match="Duplicate name"):
                    archive.writestr(victim, b"other")
        if case == "compression":
            data = bytearray(path.read_bytes())
            at = data.rfind(victim.encode()) - 46
            data[at + 10 : at + 12] = (97).to_bytes(2, "little")
            path.write_bytes(data)
        with pytest.raises(SceneFileError, match=message):
            import_scenes(path)


def test_a_checksum_that_was_told_is_compared(small_file: Path, elsewhere: Path) -> None:
    with pytest.raises(SceneFileError, match=r"its checksum is [0-9a-f]{64}, expected 0000"):
        import_scenes(small_file, checksum="0" * 64)
    digest = hashlib.sha256(small_file.read_bytes()).hexdigest()
    assert import_scenes(small_file, checksum=digest.upper()).sha256 == digest


def test_an_export_that_cannot_be_written_says_so(elsewhere: Path, small_file: Path) -> None:
    import_scenes(small_file)
    pack = resolve_assets("primitive")
    with pytest.raises(SceneFileError, match="is a folder; expected the name of a file"):
        export_scenes(TASKS, pack, None, elsewhere)
    with pytest.raises(SceneFileError, match="cannot be written"):
        export_scenes(TASKS, pack, None, small_file / "below_a_file.zip")
