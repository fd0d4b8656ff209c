from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vla_algos.cli.main import main


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
