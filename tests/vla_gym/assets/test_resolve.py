"""Search order, names, errors and fingerprints of asset packs."""

import os
import shutil
from pathlib import Path

import pytest

from vla_gym.assets import resolve
from vla_gym.assets.resolve import PACK_FOLDERS, PRIMITIVE_PACK, AssetPack, cache_dir, resolve_assets
from vla_gym.errors import AssetsError


def make_pack(root: Path, without: str = "", visual: bool = False) -> Path:
    for name in PACK_FOLDERS:
        if name != without:
            (root / name).mkdir(parents=True)
    if visual:
        (root / "stable_scanned_objects/akita_black_bowl/visual").mkdir(parents=True)
    return root


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("VLA_GYM_ASSETS", raising=False)
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "cache"))


def test_nothing_set_gives_built_in_pack():
    assert resolve_assets() == AssetPack("primitive", PRIMITIVE_PACK)
    assert all((PRIMITIVE_PACK / name).is_dir() for name in PACK_FOLDERS)


def test_search_order(monkeypatch, tmp_path):
    downloaded = make_pack(tmp_path / "cache/assets", visual=True)
    from_variable = make_pack(tmp_path / "variable")
    argument = make_pack(tmp_path / "argument")
    assert resolve_assets() == AssetPack("libero", downloaded)
    monkeypatch.setenv("VLA_GYM_ASSETS", str(from_variable))
    assert resolve_assets("auto") == AssetPack("custom:variable", from_variable)
    assert resolve_assets(argument) == AssetPack("custom:argument", argument)
    assert resolve_assets("primitive").name == "primitive"


def test_the_reason_is_kept(monkeypatch, tmp_path):
    assert resolve_assets().chosen_by.startswith("built in")
    make_pack(tmp_path / "cache/assets")
    assert resolve_assets().chosen_by == "downloaded into the cache"
    monkeypatch.setenv("VLA_GYM_ASSETS", str(make_pack(tmp_path / "variable")))
    assert resolve_assets().chosen_by == "named in VLA_GYM_ASSETS"
    assert resolve_assets("primitive").chosen_by == "named in assets="


def test_variable_takes_the_same_words(monkeypatch, tmp_path):
    downloaded = make_pack(tmp_path / "cache/assets")
    monkeypatch.setenv("VLA_GYM_ASSETS", "auto")
    assert resolve_assets().path == downloaded
    monkeypatch.setenv("VLA_GYM_ASSETS", "primitive")
    assert resolve_assets().name == "primitive"


def test_incomplete_download_is_ignored(tmp_path):
    make_pack(tmp_path / "cache/assets", without="scenes")
    assert resolve_assets().name == "primitive"


def test_libero_is_known_by_its_visual_meshes(tmp_path):
    assert resolve_assets(make_pack(tmp_path / "a", visual=True)).name == "libero"
    assert resolve_assets(make_pack(tmp_path / "b")).name == "custom:b"
    assert resolve_assets(str(PRIMITIVE_PACK)).name == "primitive"


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(AssetsError, match=r"assets= names '.*nowhere', which is not a folder.*'primitive'"):
        resolve_assets(tmp_path / "nowhere")


def test_incomplete_folder_is_an_error_that_names_the_source(monkeypatch, tmp_path):
    monkeypatch.setenv("VLA_GYM_ASSETS", str(make_pack(tmp_path / "half", without="articulated_objects")))
    with pytest.raises(AssetsError, match=r"VLA_GYM_ASSETS names .* lacks the folders articulated_objects\."):
        resolve_assets()


def test_cache_dir(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("VLA_GYM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg/vla_gym"


def test_fingerprint_follows_the_files(tmp_path):
    root = make_pack(tmp_path / "pack")
    xml, png = root / "scenes/a.xml", root / "textures/a.png"
    xml.write_text("<mujoco/>")
    png.write_bytes(b"123")
    first = AssetPack("x", root).fingerprint()
    assert len(first) == 64 and AssetPack("y", root).fingerprint() == first
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    assert AssetPack("x", copy).fingerprint() == first
    # files count by their contents, not by their time stamps
    os.utime(xml, ns=(1, 1))
    os.utime(png, ns=(1, 1))
    assert AssetPack("x", root).fingerprint() == first
    xml.write_text("<mujocO/>")
    second = AssetPack("x", root).fingerprint()
    assert second != first
    png.write_bytes(b"124")
    third = AssetPack("x", root).fingerprint()
    assert third not in (first, second)
    png.rename(root / "textures/b.png")
    assert AssetPack("x", root).fingerprint() != third


def test_the_fingerprint_of_a_large_pack_is_kept_for_other_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(resolve, "_READ_EVERY_TIME", 2)
    root = make_pack(tmp_path / "pack")
    (root / "textures/a.png").write_bytes(b"123")
    first = AssetPack("x", root).fingerprint()
    (kept,) = (cache_dir() / "packs").iterdir()
    assert kept.read_text() == first
    resolve._content_digest.cache_clear()
    monkeypatch.setattr(Path, "read_bytes", None)
    assert AssetPack("x", root).fingerprint() == first
    monkeypatch.undo()
    monkeypatch.setattr(resolve, "_READ_EVERY_TIME", 2)
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "cache"))
    for damaged in ("zz" * 32, "ab", ""):
        kept.write_text(damaged)
        resolve._content_digest.cache_clear()
        assert AssetPack("x", root).fingerprint() == first
        assert kept.read_text() == first
