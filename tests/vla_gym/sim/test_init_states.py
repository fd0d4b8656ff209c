from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vla_gym.errors import InitStatesError
from vla_gym.sim.init_states import read_init_states
from vla_gym.sim.libero_files import task_files
from vla_gym.tasks.registry import get_suite


def archive(path: Path, payload: object) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(payload, protocol=2))
    return path


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch should_not_exist",)


def test_reads_what_libero_ships() -> None:
    states = read_init_states(task_files(get_suite("goal").task(0))[1])
    assert states.shape == (50, 79) and states.dtype == np.float64
    assert len(np.unique(states, axis=0)) == 50


def test_round_trip(tmp_path: Path) -> None:
    expected = np.random.default_rng(0).normal(size=(3, 5))
    np.testing.assert_array_equal(read_init_states(archive(tmp_path / "a", expected)), expected)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InitStatesError, match="refused to load"):
        read_init_states(archive(tmp_path / "evil", Malicious()))
    assert not (tmp_path / "should_not_exist").exists()


def test_damaged_or_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not an archive")
    with pytest.raises(InitStatesError, match="text"):
        read_init_states(tmp_path / "text")
    with pytest.raises(InitStatesError, match="missing"):
        read_init_states(tmp_path / "missing")
    with pytest.raises(InitStatesError, match="two-dimensional"):
        read_init_states(archive(tmp_path / "flat", np.zeros(3)))
    with pytest.raises(InitStatesError, match="not finite"):
        read_init_states(archive(tmp_path / "nan", np.full((2, 2), np.nan)))
    whole = archive(tmp_path / "whole", np.zeros((50, 79))).read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InitStatesError, match="cut"):
        read_init_states(tmp_path / "cut")
