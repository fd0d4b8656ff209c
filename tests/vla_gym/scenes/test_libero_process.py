"""LIBERO's own code runs with a time limit, reports its first error, and writes nowhere by itself."""

from __future__ import annotations

import logging
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from vla_gym.processes import program
from vla_gym.processes.program import ProgramError
from vla_gym.scenes import libero_process
from vla_gym.scenes.libero_process import reset_libero, run_libero


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a piece of code as LIBERO's is run, and give the lines that it prints."""

    def run(body: str, time_limit: float = 60.0) -> list[str]:
        indented = body.replace("\n", "\n    ")
        (tmp_path / "work_of_a_test.py").write_text(
            "import argparse, os, sys, threading\n"
            "from vla_gym.scenes.libero_process import call_libero\n"
            f"def work(arguments):\n    {indented}\n    return 0\n"
            "sys.exit(call_libero(argparse.ArgumentParser(), work, sys.argv[1:]))\n"
        )
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        return list(run_libero("work_of_a_test", [], folder, time_limit))

    return run


def test_lines_come_through_and_libraries_write_into_the_folder(run: Any, tmp_path: Path) -> None:
    lines = run("print(os.getcwd())\nprint(os.environ['TMPDIR'])\nprint(os.environ['MPLCONFIGDIR'])")
    folder = tmp_path / "folder"
    assert lines == [str(folder), str(folder / "TMPDIR"), str(folder / "MPLCONFIGDIR")]


def test_code_that_hangs_is_ended_and_says_where_it_was(run: Any) -> None:
    with pytest.raises(ProgramError, match=r"Timeout \([\s\S]*work_of_a_test.py") as failure:
        run("threading.Event().wait()", time_limit=0.5)
    assert failure.value.status != 0


def test_a_process_that_is_stopped_is_ended_too(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_GRACE", 0.2)
    with pytest.raises(ProgramError, match=r"Timeout \(2 s\)! The process does not react"):
        run("import signal\nprint('before', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)", time_limit=2)


def test_the_first_of_several_errors_is_reported(run: Any) -> None:
    body = "try:\n    open('/no/such/mesh.stl')\nfinally:\n    raise KeyError('a symptom')"
    with pytest.raises(ProgramError, match=r"No such file or directory: '/no/such/mesh.stl'") as failure:
        run(body)
    assert "a symptom" not in failure.value.output


def test_a_reader_that_goes_away_ends_the_process(run: Any, tmp_path: Path) -> None:
    run("print('prepared')")
    (tmp_path / "work_of_a_test.py").write_text(
        "import os\nprint(os.getpid(), flush=True)\nos.read(0, 1)\nwhile 1: pass\n"
    )
    lines = run_libero("work_of_a_test", [], tmp_path / "folder")
    process = int(next(lines))
    lines.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_log_files_are_not_opened(tmp_path: Path) -> None:
    with libero_process._no_log_files():
        handler = logging.FileHandler(tmp_path / "robosuite.log")
        handler.setLevel("DEBUG")
        handler.setFormatter(logging.Formatter())
    assert isinstance(handler, logging.NullHandler) and not list(tmp_path.iterdir())
    assert logging.FileHandler.__name__ == "FileHandler"


class RandomizationError(Exception):
    """As robosuite has one."""


class Resetting:
    """Stands for a ``ControlEnv``; raises what it is given, one per reset."""

    def __init__(self, *errors: BaseException) -> None:
        self.env = self
        self.errors = list(errors)
        self.n_resets = 0

    def reset(self) -> None:
        self.n_resets += 1
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def robosuite_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.SimpleNamespace(RandomizationError=RandomizationError)
    monkeypatch.setitem(sys.modules, "robosuite.utils.errors", module)  # type: ignore[arg-type]


@pytest.mark.usefixtures("robosuite_errors")
@pytest.mark.parametrize("error", [FileNotFoundError("mesh.stl"), KeyboardInterrupt(), ValueError("any")])
def test_errors_of_a_reset_are_not_swallowed(error: BaseException) -> None:
    env = Resetting(error)
    with pytest.raises(type(error)):
        reset_libero(env)
    assert env.n_resets == 1


@pytest.mark.usefixtures("robosuite_errors")
def test_only_objects_that_do_not_fit_are_placed_again_and_not_for_ever() -> None:
    env = Resetting(RandomizationError(), RandomizationError())
    reset_libero(env)
    assert env.n_resets == 3
    env = Resetting(*(RandomizationError() for _ in range(1000)))
    with pytest.raises(RandomizationError):
        reset_libero(env)
    assert env.n_resets == libero_process.MAX_RESETS
