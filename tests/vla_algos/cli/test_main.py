from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import vla_gym
from vla_algos.cli.main import app, main
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


def test_the_version_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"vla-rl {vla_gym.__version__}\n"


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    of_assets = group.commands["assets"].commands
    return {**group.commands, **{f"assets {name}": command for name, command in of_assets.items()}}


def test_every_command_spells_its_options_alike() -> None:
    former = {"--task-ids", "--task-id", "--env-id", "--suites", "--quality", "--workers", "--eval-states"}
    options = {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in commands().items()
    }
    assert not any(former & found for found in options.values())
    everywhere = {"--suite", "--states", "--n-envs", "--render-quality", "--device", "--seed", "--out"}
    for name in ("train", "sft", "evaluate"):
        assert everywhere | {"--revision"} <= options[name]
    assert everywhere - {"--suite"} <= options["quickstart"]
    assert {"--suite", "--tasks", "--n-envs", "--render-quality", "--seed", "--out"} <= options["collect"]
    assert {"--suite", "--tasks", "--render-quality"} <= options["assets build"]


@pytest.mark.parametrize("columns", ["60", "80"])
def test_help_shows_whole_options_in_a_narrow_terminal(columns: str) -> None:
    for name, command in commands().items():
        result = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": columns})
        assert result.exit_code == 0
        names = [max(parameter.opts, key=len) for parameter in command.params if parameter.opts[0].startswith("-")]
        assert all(option in result.output for option in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "12"], "Unknown task_id 12. Valid: 0..9."),
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
