"""LeRobot's format: what goes out comes back, and other datasets are refused by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_gym.datasets.episode import Episode
from vla_gym.datasets.lerobot import export, export_lerobot, load_lerobot
from vla_gym.errors import DemonstrationFileError, MissingPackageError

pytest.importorskip("pyarrow", reason="needs the lerobot extra: pip install 'vla-gym[lerobot]'")


def make_episode(n_steps: int, seed: int, size: int = 32, instruction: str = "put the bowl on the plate") -> Episode:
    """A coloured square that moves over a gradient; noise would be no fair test of a video."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(40, 200, size).astype(np.uint8)
    images = np.repeat(np.broadcast_to(ramp[:, None, None], (size, size, 3))[None], n_steps, axis=0).copy()
    color = rng.integers(0, 256, 3)
    for t in range(n_steps):
        images[t, 4:12, 2 * t : 2 * t + 8] = color
    return Episode(
        images=images,
        proprio=rng.normal(size=(n_steps, 8)).astype(np.float32),
        commands=rng.uniform(-1, 1, (n_steps, 7)).astype(np.float32).astype(np.float64),
        instruction=instruction,
        task_id=seed,
        init_state_id=seed + 10,
        success=True,
        wrist_images=images[:, ::-1].copy(),
    )


def assert_alike(one: Episode, other: Episode) -> None:
    for name in ("proprio", "commands"):
        assert getattr(one, name).dtype == getattr(other, name).dtype
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("instruction", "task_id", "init_state_id", "success"):
        assert getattr(one, name) == getattr(other, name)
    for first, second in ((one.images, other.images), (one.wrist_images, other.wrist_images)):
        assert first.shape == second.shape and first.dtype == second.dtype
        assert np.abs(first.astype(int) - second.astype(int)).mean(axis=(1, 2, 3)).max() < 4


@pytest.mark.parametrize("frames_per_file", [20_000, 12])
def test_what_goes_out_comes_back(frames_per_file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "FRAMES_PER_FILE", frames_per_file)
    episodes = [make_episode(8 + i, i, instruction="open the drawer" if i == 1 else "put it down") for i in range(4)]
    folder = export_lerobot(iter(episodes), tmp_path / "set")
    assert len(list(folder.glob("data/*/*.parquet"))) == (1 if frames_per_file > 100 else 2)
    back = list(load_lerobot(folder))
    assert len(back) == 4
    for one, other in zip(episodes, back, strict=True):
        assert_alike(one, other)
        distance = np.abs(one.images[:, None].astype(int) - other.images[None].astype(int)).mean(axis=(2, 3, 4))
        assert distance.argmin(axis=0).tolist() == list(range(len(one))), "no frame comes too early or too late"


def test_meta_says_what_is_where(tmp_path: Path) -> None:
    episodes = [make_episode(9, 0), make_episode(5, 1)]
    folder = export_lerobot(episodes, tmp_path / "set")
    info = json.loads((folder / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 20, 14)
    assert info["features"]["observation.images.image"]["shape"] == [32, 32, 3]
    statistics = json.loads((folder / "meta" / "stats.json").read_text())
    actions = np.concatenate([episode.commands for episode in episodes])
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(statistics["action"][name], getattr(actions, name)(0), atol=1e-6)
    assert statistics["action"]["count"] == [14]
    assert np.shape(statistics["observation.images.image2"]["mean"]) == (3, 1, 1)
    assert 0 < statistics["observation.images.image2"]["mean"][0][0][0] < 1


def test_without_images_there_are_no_videos(tmp_path: Path) -> None:
    blind = replace(make_episode(6, 0), images=np.zeros((6, 0, 0, 3), dtype=np.uint8), wrist_images=None)
    (back,) = load_lerobot(export_lerobot([blind], tmp_path / "set"))
    assert back.images.shape == (6, 0, 0, 3) and back.wrist_images is None
    assert not (tmp_path / "set" / "videos").exists()


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Episode]:
        yield make_episode(5, 0)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        export_lerobot(broken(), tmp_path / "set")
    with pytest.raises(ValueError, match="no episodes to export"):
        export_lerobot([], tmp_path / "set")
    with pytest.raises(ValueError, match=r"Episode 1 has images .*\(16, 16, 3\)"):
        export_lerobot([make_episode(5, 0), make_episode(5, 0, size=16)], tmp_path / "set")
    with pytest.raises(ValueError, match="33 x 33 pixels; video needs even numbers"):
        export_lerobot([make_episode(5, 0, size=33)], tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_other_datasets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DemonstrationFileError, match="nothing is no LeRobot dataset"):
        load_lerobot(tmp_path / "nothing")
    folder = export_lerobot([make_episode(9, 0)], tmp_path / "set")
    with pytest.raises(DemonstrationFileError, match="set exists already"):
        export_lerobot([make_episode(5, 0)], folder)
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text())
    for change, message in (
        ({"codebase_version": "v2.1"}, "has format 'v2.1'; expected 'v3.0'"),
        ({"features": {**info["features"], "action": {"shape": [14]}}}, r"'action' has shape \[14\]; expected \[7\]"),
        ({"total_episodes": 2}, "says that it has 2 episodes but lists 1"),
    ):
        path.write_text(json.dumps({**info, **change}))
        with pytest.raises(DemonstrationFileError, match=message):
            list(load_lerobot(folder))
    path.write_text(json.dumps(info))
    (video,) = folder.glob("videos/observation.images.image/*/*.mp4")
    video.unlink()
    with pytest.raises(DemonstrationFileError, match=r"file-000\.mp4 is missing"):
        list(load_lerobot(folder))


def test_without_pyarrow_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for call in (lambda: export_lerobot([], tmp_path / "set"), lambda: load_lerobot(tmp_path)):
        with pytest.raises(MissingPackageError, match=r"pip install 'vla-gym\[lerobot\]'"):
            call()
