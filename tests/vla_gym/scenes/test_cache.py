"""The cache is described as it is, and filled only with what it lacks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vla_gym.assets.resolve import resolve_assets
from vla_gym.errors import SceneBuildError, UnknownNameError
from vla_gym.scenes import build, cache
from vla_gym.scenes.cache import cache_usage, fill_cache
from vla_gym.tasks.registry import get_suite

SUITE = get_suite("spatial")


def test_a_cache_that_does_not_exist_is_empty_and_stays_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "a" / "cache"))
    usage = cache_usage()
    assert (usage.n_scenes, usage.n_models, usage.size, usage.is_writable) == (0, 0, 0, True)
    assert usage.path == tmp_path / "a" / "cache" and usage.free > 0
    assert not (tmp_path / "a").exists()


def test_scenes_models_and_bytes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path))
    for name, size in (
        ("k1/meta.json", 3),
        ("k2/meta.json", 5),
        ("models/a.physics.mjb", 7),
        ("models/a.fast.mjb", 11),
    ):
        (tmp_path / "scenes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scenes" / name).write_bytes(bytes(size))
    usage = cache_usage()
    assert (usage.n_scenes, usage.n_models, usage.size) == (2, 2, 26)


def test_a_cache_below_a_file_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "file" / "cache"))
    assert not cache_usage().is_writable


def test_filling_builds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = resolve_assets("primitive")
    assert fill_cache(SUITE, [5], pack, "fast").n_tasks == 1
    assert cache_usage().n_scenes > 0
    monkeypatch.setattr(build, "build_bundles", lambda root, tasks, *_: pytest.fail(f"{tasks} were built again"))
    filled = fill_cache(SUITE, [5, 5], pack, "fast")
    assert (filled.n_tasks, filled.n_scenes) == (2, 1)


def test_unknown_tasks_are_errors() -> None:
    with pytest.raises(UnknownNameError, match="task_id of LIBERO-Spatial-v0 10"):
        fill_cache(SUITE, [10], resolve_assets("primitive"), None)


def test_scenes_that_would_be_lost_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = cache.load_bundles
    monkeypatch.setattr(
        cache, "load_bundles", lambda *args: [dataclasses.replace(b, models=tmp_path / "models") for b in load(*args)]
    )
    with pytest.raises(SceneBuildError, match=r"cannot be written.*VLA_GYM_CACHE"):
        fill_cache(SUITE, [5], resolve_assets("primitive"), "fast")
