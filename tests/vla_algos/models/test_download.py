"""Models of the Hub, without a network: what is asked for, and what is said."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vla_algos.errors import CheckpointError, UnknownNameError
from vla_algos.models import OpenVLA, load_vla, save_vla
from vla_algos.models.download import is_hub_id
from vla_algos.models.loading import load_info
from vla_algos.policies import env_kwargs_for

huggingface_hub = pytest.importorskip("huggingface_hub")
httpx = pytest.importorskip("httpx")
SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Stands for the Hub: one model with a list of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = ["config.json", "model.safetensors"]
        self.asked: list[tuple[str, str | None]] = []
        self.downloaded: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def model_info(self, name: str, revision: str | None = None, **kwargs: Any) -> SimpleNamespace:
        self.asked.append((name, revision))
        if self.error is not None:
            raise self.error
        return SimpleNamespace(sha=SHA, siblings=[SimpleNamespace(rfilename=file) for file in self.files])

    def snapshot_download(self, name: str, **kwargs: Any) -> str:
        self.downloaded.append(kwargs)
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, lively_nano: OpenVLA, monkeypatch: pytest.MonkeyPatch) -> Hub:
    save_vla(lively_nano, tmp_path / "snapshot")
    hub = Hub(tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return hub


@pytest.mark.parametrize("revision", [None, "v1.0"])
def test_every_fetch_is_said_aloud_with_id_and_revision(
    hub: Hub, caplog: pytest.LogCaptureFixture, revision: str | None
) -> None:
    load_vla("someone/model", revision=revision)
    assert hub.asked == [("someone/model", revision)]
    assert hub.downloaded[0]["revision"] == SHA, "the files that were looked at, not what came later"
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert any(f"someone/model, revision {revision or 'main'}" in text for text in said)
    assert any(f'commit {SHA}; revision="{SHA}" pins it' in text for text in said)


def test_a_revision_reaches_the_hub_from_everywhere(hub: Hub) -> None:
    load_info("someone/model", revision="a")
    env_kwargs_for("someone/model", revision="b")
    assert [revision for _, revision in hub.asked] == ["a", "b"]


@pytest.mark.parametrize("name", ["runs/train", "runs/sft/model", "runs/train/"])
def test_a_path_whose_first_part_is_a_folder_here_is_a_missing_folder(hub: Hub, name: str) -> None:
    Path("runs/other").mkdir(parents=True)
    with pytest.raises(UnknownNameError, match=r"no such checkpoint folder: .*runs has only other"):
        load_vla(name)
    assert not hub.asked
    # whoever means the Hub says so
    load_vla("runs/train", revision="main")
    assert hub.asked == [("runs/train", "main")]


@pytest.mark.parametrize(
    "name", [Path("someone/model"), "./someone/model", "/someone/model", "someone/../model", "a/b/c"]
)
def test_what_is_written_as_a_path_is_one(hub: Hub, name: str | Path) -> None:
    with pytest.raises(UnknownNameError):
        load_vla(name)
    assert not hub.asked


def test_ids_have_two_parts() -> None:
    assert is_hub_id("openvla/openvla-7b") and is_hub_id("moojink/openvla_7b.v1")
    assert not any(is_hub_id(name) for name in ("a", "a/b/c", "a/.b", "../b", "a/..", "a/b..c", "a/", "a b/c", "~/b"))


@pytest.mark.parametrize("name", ["nano", "compact-libero-goal", "folder"])
def test_a_revision_of_what_is_not_on_the_hub_is_refused(hub: Hub, name: str) -> None:
    Path("folder").mkdir()
    with pytest.raises(CheckpointError, match=r"revision='main' is for models on the Hugging Face Hub"):
        load_vla(name, revision="main")


@pytest.mark.parametrize("file", ["action_head--150000_checkpoint.pt", "proprio_projector--latest_checkpoint.pt"])
def test_a_list_of_files_is_enough_to_refuse(hub: Hub, file: str) -> None:
    hub.files.append(file)
    with pytest.raises(CheckpointError, match=rf"someone/model has {file}: this is OpenVLA-OFT"):
        load_vla("someone/model")
    assert not hub.downloaded


@pytest.mark.parametrize(
    "kind",
    [
        ConnectionError,
        TimeoutError,
        ValueError,
        httpx.ConnectError,
        httpx.ReadTimeout,
        httpx.InvalidURL,
        huggingface_hub.errors.OfflineModeIsEnabled,
        huggingface_hub.errors.CorruptedCacheException,
    ],
)
def test_without_a_network_the_cache_is_taken_and_that_is_said(
    kind: type[Exception], hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.error = kind("no network")
    load_vla("someone/model", revision="v1")
    assert hub.downloaded == [{**hub.downloaded[0], "local_files_only": True, "revision": "v1"}]
    assert "cannot be asked (no network)" in caplog.text


def test_a_mistake_of_a_program_is_not_taken_for_a_lost_connection(hub: Hub) -> None:
    hub.error = TypeError("unexpected keyword")
    with pytest.raises(TypeError, match="unexpected keyword"):
        load_vla("someone/model")
    assert not hub.downloaded


def test_a_model_that_is_not_there_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise FileNotFoundError("not cached")

    hub.error = ValueError("404: no such repository")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"Could not get 'someone/model', revision main.*404"):
        load_vla("someone/model")
    hub.error = None
    with pytest.raises(CheckpointError, match=rf"Could not download 'someone/model', revision {SHA}: not cached"):
        load_vla("someone/model")
