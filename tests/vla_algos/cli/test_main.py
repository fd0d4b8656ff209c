from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vla_algos.cli.main import main
from vla_gym.scenes import cache
from vla_gym.scenes.cache import FilledSuite
from vla_gym.tasks.registry import SUITES


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vla-rl", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_help_names_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    output = capsys.readouterr().out
    assert all(command in output for command in ("quickstart", "assets", "doctor", "collect"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task-id", "12"], "Unknown task_id 12. Valid: 0..9."),
        (["--assets", "/nowhere"], "/nowhere"),
    ],
)
def test_errors_of_the_library_are_messages(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "quickstart", "--smoke", *arguments) == 1
    error = capsys.readouterr().err
    assert "Error:" in error and message in error


def test_a_reader_that_goes_away_does_not_end_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def fill(suite, *_: object) -> FilledSuite:
        built.append(suite.name)
        return FilledSuite(n_tasks=1, n_scenes=1, seconds=0.0)

    monkeypatch.setattr(cache, "fill_cache", fill)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run(monkeypatch, "assets", "build", "--assets", "primitive") == 0
        # to nowhere
        print("more", file=stream, flush=True)
    assert built == [suite.name for suite in SUITES.values()]
