"""``vla-rl collect`` records, says what became of every task, and continues after an interruption."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vla_algos.cli.main import main
from vla_gym.datasets import record
from vla_gym.datasets.hdf5 import load_episodes
from vla_gym.datasets.record import TaskReport
from vla_gym.tasks.registry import get_suite


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "argv", ["vla-rl", "collect", "--suite", "goal", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_one_demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path), "--tasks", "8", "--cameras", "none", "--assets", "primitive"]
    assert run(monkeypatch, *arguments, "--episodes", "1", "--n-envs", "1") == 0
    output = capsys.readouterr().out
    assert "1/1" in output and "8 put the bowl on the plate" in output
    (episode,) = load_episodes(tmp_path)
    assert episode.images.size == 0
    assert run(monkeypatch, *arguments, "--seed", "1") == 1
    assert "seed 0 instead of 1" in capsys.readouterr().err


def test_the_table_says_what_became_of_each_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task, other = get_suite("goal").tasks[:2]
    reports = [
        TaskReport(task, kept=41, failed={"expert": [1] * 5, "replay": [2] * 3}, lost=1),
        TaskReport(other, is_known=False),
    ]
    seen = []

    def fake(settings, folder, episodes, task_ids, workers, on_progress):
        seen.append((settings, folder, episodes, task_ids, workers))
        return reports

    monkeypatch.setattr(record, "record_demonstrations", fake)
    assert run(monkeypatch, "--out", str(tmp_path), "--cameras", "wrist", "--tasks", "0,1", "--states", "25") == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if task.instruction in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][1:] == ["41", "49", "5", "3", "1", ""]
    assert any(other.instruction in line and "unknown to the expert" in line for line in lines)
    assert any("tries them again" in line for line in lines)
    settings, folder, episodes, task_ids, workers = seen[0]
    assert (settings.cameras, folder, episodes, task_ids) == (("wrist",), tmp_path, 50, [0, 1]) and workers >= 1
    assert settings.n_init_states == 25


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (KeyboardInterrupt("3 of 5 episodes are over and kept in my demos."), "3 of 5 episodes are over"),
        (KeyboardInterrupt(), "Nothing was saved."),
    ],
)
def test_an_interruption_says_what_was_saved_and_how_to_continue(
    error: KeyboardInterrupt,
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*args: object) -> None:
        raise error

    monkeypatch.setattr(record, "record_demonstrations", interrupt)
    assert run(monkeypatch, "--out", str(tmp_path / "my demos")) == 130
    said = capsys.readouterr().err
    command = f"\n  vla-rl collect --suite goal --out '{tmp_path}/my demos'\n"
    assert f"Interrupted. {what}" in said and (command in said) is bool(str(error))
