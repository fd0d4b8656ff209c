from __future__ import annotations

import os
import re
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

ROOT = Path(__file__).resolve().parents[3]


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
    found = dict(group.commands)
    for part in ("assets", "reward"):
        found |= {f"{part} {name}": command for name, command in group.commands[part].commands.items()}
    return found


SPELLINGS = {
    "suite": "--suite",
    "tasks of a suite": "--tasks",
    "initial states": "--states",
    "model": "--vla",
    "version of a model on the Hub": "--revision",
    "environments, or processes with one each": "--n-envs",
    "images": "--render-quality",
    "asset pack": "--assets",
    "device": "--device",
    "seed": "--seed",
    "where results go": "--out",
    "decisions to train on": "--timesteps",
    "recipe": "--recipe",
    "continue": "--resume",
}
"""One spelling for each idea, in commands and in scripts."""
FORMER = (
    "--suites --env-id --task-id --task-ids --eval-states --n-states --preset --checkpoint --workers --n-workers "
    "--quality --output --total-timesteps"
).split()
_OF_ENVIRONMENTS = "--suite --tasks --states --n-envs --render-quality --assets --out --seed"
TAKEN = {
    "train": f"{_OF_ENVIRONMENTS} --recipe --vla --revision --device --timesteps --resume",
    "compare": f"{_OF_ENVIRONMENTS} --recipe --vla --revision --device --timesteps --resume".replace(
        "--seed", "--seeds"
    ),
    # its demonstrations decide the tasks
    "sft": f"{_OF_ENVIRONMENTS} --recipe --vla --revision --device --resume".replace("--tasks ", ""),
    # the model is an argument
    "evaluate": f"{_OF_ENVIRONMENTS} --revision --device --resume",
    # of one suite
    "quickstart": f"{_OF_ENVIRONMENTS} --device --resume".replace("--suite ", ""),
    # the expert needs no device, and the same command continues
    "collect": _OF_ENVIRONMENTS,
    "reward train": "--vla --revision --device --out --seed --resume",
    "reward audit": "--out",
    "reward labels": "--tasks --out",
    "reward data": f"{_OF_ENVIRONMENTS} --vla --device",
    "assets build": "--suite --tasks --render-quality --assets",
    "doctor": "--assets",
}


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts if option.startswith("--")}


def test_every_command_spells_its_options_alike() -> None:
    for name, command in commands().items():
        assert not options_of(command) & set(FORMER), name
        assert set(TAKEN.get(name, "").split()) <= options_of(command), name
    assert {option.rstrip("s") for taken in TAKEN.values() for option in taken.split()} == {
        option.rstrip("s") for option in SPELLINGS.values()
    }


def test_every_option_says_what_it_does() -> None:
    for name, command in commands().items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help and parameter.help.endswith("."), (name, parameter.name)


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "tools", "docs"])
def test_scripts_spell_their_options_as_commands_do(folder: str) -> None:
    for file in (ROOT / folder).glob("*.py"):
        found = re.findall(r'add_argument\(\s*"(--[a-z-]+)"', file.read_text(encoding="utf-8"))
        assert not set(found) & set(FORMER), file


PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(
        path
        for folder in ("docs", "benchmarks", "vla_algos/models/checkpoints")
        for path in (ROOT / folder).rglob("*.md")
    ),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_documentation_have_these_options(page: Path) -> None:
    names = "|".join(sorted(commands(), key=len, reverse=True))
    for name, rest in re.findall(rf"vla-rl ({names})\b([^`\n]*)", page.read_text(encoding="utf-8")):
        unknown = set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest)) - options_of(commands()[name]) - {"--help"}
        assert not unknown, f"vla-rl {name} has no {', '.join(sorted(unknown))}"


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
