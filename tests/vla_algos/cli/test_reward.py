"""``vla-rl reward``: films in, a model, its audit and figures of labels out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vla_algos.cli.main import app
from vla_algos.errors import CheckpointError, FilmError, UnknownNameError, VLAAlgosError
from vla_algos.rewards.films import Film, save_films
from vla_gym.envs.privileged import PRIVILEGED_NAMES
from vla_gym.errors import VLAGymError
from vla_gym.tasks.registry import get_suite


def film(task_id: int, state: int, is_success: bool, source: str) -> Film:
    """A square that brightens from step to step, all the way in a success."""
    rng = np.random.default_rng(100 * task_id + 2 * state + is_success)
    n = 4
    done = np.linspace(0, 1.0 if is_success else 0.4, n)
    privileged = np.zeros((n, len(PRIVILEGED_NAMES)), np.float32)
    for name, values in (("exists", 1), ("is_turnon", 1), ("joint_distance", 1 - done), ("satisfied", done >= 1)):
        privileged[:, PRIVILEGED_NAMES.index(f"atom0/{name}")] = values
    frames = (rng.integers(0, 60, (n, 32, 32, 3)) + 190 * done[:, None, None, None]).astype(np.uint8)
    steps = np.arange(n) * 8
    trace = np.zeros((steps[-1], 8), np.float32)
    trace[:, 0] = np.cumsum(0.01 * np.abs(np.sin(np.arange(len(trace)) / 4)))
    proprio = np.append(trace, trace[-1:], axis=0)[steps]
    text = get_suite("goal").task(task_id).instruction
    return Film(frames, steps, proprio, text, task_id, state, is_success, source, privileged, trace)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for source in ("one", "two"):
        films = [film(t, k, ok, source) for t in (1, 7) for k in range(3) for ok in (False, True)]
        save_films(folder / f"{source}.hdf5", films, {"seed": 0})
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["reward", *map(str, arguments)], env={"COLUMNS": "100"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_model_is_trained_resumed_and_audited(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "run"
    told = run("train", "--data", data, "--out", out, "--vla", "nano", "--epochs", 2, "--held-out-states", 1)
    assert "16 films to learn from, 8 held out" in told and "vla-rl reward audit" in told
    card = (out / "best" / "README.md").read_text()
    assert "16 films, 8 of them successes" in card and "initial states 2" in card
    assert "16 films to learn from" in run("train", "--out", out, "--resume")
    with pytest.raises(CheckpointError, match="holds a training already"):
        run("train", "--data", data, "--out", out, "--vla", "nano")
    told = run("audit", out, "--out", tmp_path / "audit", "--mode", "sum", "--weight", 1)
    assert "8 films judged, 16 teach the controls" in told and "control: proprioception" in told
    written = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert written["films"] == {"one": 4, "two": 4} and written["shaping"]["mode"] == "sum"
    assert {path.name for path in (tmp_path / "audit").iterdir()} == {
        f"audit.{e}" for e in ("md", "png", "html", "json")
    }


def test_policies_and_tasks_can_be_held_out(tmp_path: Path, data: Path) -> None:
    told = run(
        "audit", "true-progress", "--data", data, "--out", tmp_path, "--held-out-states", 0, "--held-out-source", "two"
    )
    assert "12 films judged, 12 teach the controls" in told
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written["figures"]["truth"] == pytest.approx(1.0) and written["films"] == {"two": 12}
    with pytest.raises(FilmError, match="No film is of 'three'; expected one of one, two"):
        run("audit", "true-progress", "--data", data, "--out", tmp_path, "--held-out-source", "three")
    with pytest.raises(FilmError, match="no folder of a training"):
        run("audit", "true-progress", "--out", tmp_path)
    with pytest.raises(UnknownNameError, match="true-progress"):
        run("audit", tmp_path / "nothing", "--data", data, "--out", tmp_path)


def test_labels_are_drawn_for_a_film_of_each_task_and_source(tmp_path: Path, data: Path) -> None:
    assert "4 figures are in" in run("labels", "--data", data, "--out", tmp_path)
    assert len(list(tmp_path.glob("film_*.png"))) == 4 and (tmp_path / "overview.png").is_file()
    assert "6 figures" in run("labels", "--data", data / "one.hdf5", "--out", tmp_path, "--tasks", 7, "--films", 9)


def test_a_name_that_does_not_exist_leaves_nothing(tmp_path: Path, data: Path) -> None:
    for option, value, message in (
        ("--backend", tmp_path / "missing", "missing"),
        ("--vla", "compact-libero-gaol", "compact-libero-goal"),
        ("--targets", "true", "truth"),
        ("--held-out-source", "three", "one, two"),
    ):
        with pytest.raises((VLAAlgosError, VLAGymError), match=message):
            run("train", "--data", data, "--out", tmp_path / "run", option, value)
        assert not (tmp_path / "run").exists(), option
