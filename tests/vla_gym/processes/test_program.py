"""Programs that hang, fail or are not read to their end leave no process and say what happened."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vla_gym.processes import program
from vla_gym.processes.program import ProgramError, run_program


def run(folder: Path, code: str, time_limit: float = 60.0) -> list[str]:
    return list(run_program([sys.executable, "-S", "-c", code], folder, os.environ, time_limit))


def test_lines_come_without_their_ends(tmp_path: Path) -> None:
    assert run(tmp_path, "import os; print('one'); print(os.getcwd()); print(os.read(0, 1))") == [
        "one",
        str(tmp_path),
        "b''",
    ]


def test_a_failure_gives_status_and_the_end_of_the_error(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="exit status 3: the reason") as failure:
        run(tmp_path, "import sys; sys.stderr.write('the reason\\n'); sys.exit(3)")
    assert (failure.value.status, failure.value.output) == (3, "the reason")


@pytest.mark.parametrize(
    "last", ["import threading; threading.Event().wait()", "import os; os.close(1); os.kill(os.getpid(), 19)"]
)
def test_a_program_that_does_not_mind_its_time_is_killed(
    last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_GRACE", 0.3)
    code = f"import os; print(os.getpid(), flush=True); {last}"
    lines = run_program([sys.executable, "-S", "-c", code], tmp_path, os.environ, 2.0)
    process = int(next(lines))
    with pytest.raises(ProgramError, match=r"Timeout \(2 s\)! The process does not react"):
        next(lines)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
