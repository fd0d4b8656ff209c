"""Only checked data takes the place of the downloaded pack, whatever the hub or the disk does."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects

from vla_gym.assets.completeness import check_pack
from vla_gym.assets.download import URL, download_assets
from vla_gym.assets.resolve import resolve_assets
from vla_gym.errors import AssetsError, MissingPackageError

STRANGERS = ("setup.py", "scenes/make.py", "stable_hope_objects/states.pkl", "textures/run.sh", "other/picture.png")


class FakeHub:
    """Copies a folder, with the hub's own selection of files, in place of a download."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.error: Exception | None = None
        self.calls: list[tuple[str, str]] = []

    def __call__(self, repo_id: str, repo_type: str, local_dir: Path, allow_patterns: list[str]) -> str:
        self.calls.append((repo_id, repo_type))
        notes = local_dir / ".cache" / "huggingface" / "download"
        notes.mkdir(parents=True, exist_ok=True)
        (notes / "picture.png.metadata").write_text("etag")
        names = [path.relative_to(self.source).as_posix() for path in self.source.rglob("*") if path.is_file()]
        for name in filter_repo_objects(sorted(names), allow_patterns=allow_patterns):
            (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.source / name, local_dir / name)
            if self.error:
                raise self.error
        return str(local_dir)


@pytest.fixture
def hub(complete_pack: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(complete_pack)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    return fake


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_download_is_found_and_holds_data_alone(hub: FakeHub, cache: Path) -> None:
    expected = names(hub.source)
    for name in STRANGERS:
        (hub.source / name).parent.mkdir(exist_ok=True)
        (hub.source / name).write_text("x")
    folder = download_assets()
    assert folder == cache / "assets"
    assert names(folder) == expected
    assert hub.calls == [("lerobot/libero-assets", "dataset")]
    pack = resolve_assets()
    assert (pack.name, pack.path, pack.chosen_by) == ("libero", folder, "downloaded into the cache")
    assert not [path for path in cache.iterdir() if path.is_dir() and path != folder]


def test_what_is_there_is_fetched_again_only_by_force(hub: FakeHub, cache: Path) -> None:
    folder = download_assets()
    (folder / "left_over.xml").write_text("<mujoco/>")
    assert download_assets() == folder
    assert len(hub.calls) == 1 and (folder / "left_over.xml").exists()
    assert download_assets(force=True) == folder
    assert len(hub.calls) == 2 and not (folder / "left_over.xml").exists()


def test_a_damaged_pack_is_fetched_again(hub: FakeHub, cache: Path) -> None:
    folder = download_assets()
    (folder / "articulated_objects" / "microwave.xml").unlink()
    assert check_pack(download_assets()).is_complete


def test_an_incomplete_download_is_discarded_and_the_old_pack_kept(hub: FakeHub, cache: Path) -> None:
    folder = download_assets()
    (hub.source / "articulated_objects" / "microwave.xml").unlink()
    with pytest.raises(AssetsError, match=r"1 file\(s\).*articulated_objects/microwave.xml: missing.*VLA_GYM_ASSETS"):
        download_assets(force=True)
    assert check_pack(folder).is_complete
    assert not (cache / "assets.partial").exists()


@pytest.mark.parametrize("error", [OSError("no route\nto host"), RuntimeError("the hub is offline")])
def test_a_broken_connection_is_named_and_what_arrived_is_kept(hub: FakeHub, cache: Path, error: Exception) -> None:
    hub.error = error
    with pytest.raises(AssetsError) as caught:
        download_assets()
    message = str(caught.value)
    assert URL in message and "VLA_GYM_ASSETS" in message and " ".join(str(error).split()) in message
    assert not (cache / "assets").exists()
    assert resolve_assets().name == "primitive"
    assert any(name.endswith(".xml") for name in names(cache / "assets.partial"))
    hub.error = None
    assert check_pack(download_assets()).is_complete


def test_a_missing_package_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'vla-gym\[hub\]'.*VLA_GYM_ASSETS"):
        download_assets()


def test_a_disk_that_takes_nothing_is_an_error_of_the_library(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetsError, match="cannot be stored"):
        download_assets()


def test_the_real_client_takes_these_arguments(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AssetsError, match=URL) as caught:
        download_assets()
    assert not isinstance(caught.value.__cause__, TypeError)
