"""Run programs with a time limit and read their output line by line."""

from __future__ import annotations

import faulthandler
import queue
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

_GRACE = 30.0
"""Seconds that a program has to write its traceback before it is killed."""
_TAIL = 15
_TIMEOUT = "Timeout ("
"""First line that ``faulthandler`` writes when the time is over."""


class ProgramError(Exception):
    """
    A program failed or took too long.

    :param status: exit status of the process
    :param output: last lines of its standard error, or its traceback when the time was over
    """

    def __init__(self, status: int, output: str) -> None:
        super().__init__(f"exit status {status}: {output}")
        self.status = status
        self.output = output


def run_program(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], time_limit: float
) -> Iterator[str]:
    """
    Run a program without standard input and yield the lines that it prints as they come.

    A program that called :func:`restart_clock` writes its traceback when its time is over; any other is killed half a
    minute later. A program is also killed when the caller stops reading.

    :param command: program and arguments
    :param folder: existing folder that it runs in
    :param environment: its environment variables
    :param time_limit: for each line, and for the end after the last one (s)
    :raises ProgramError: if it fails or takes longer
    """
    # standard error goes to a file: a pipe that nobody reads would block the process
    with tempfile.TemporaryFile("w+", dir=folder) as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            yield from _lines(process.stdout, time_limit + _GRACE)
            status = process.wait(_GRACE)
        except (queue.Empty, subprocess.TimeoutExpired):
            status = -1
            errors.write(f"\n{_TIMEOUT}{time_limit:g} s)! The process does not react.")
        finally:
            process.kill()
            process.wait()
        if status != 0:
            errors.seek(0)
            raise ProgramError(status, _telling_lines(errors.read()))


def restart_clock(time_limit: float) -> None:
    """Let this process write its traceback and exit in that many seconds, unless the clock is restarted or stopped."""
    faulthandler.dump_traceback_later(time_limit, exit=True)


def stop_clock() -> None:
    """Stop the clock of :func:`restart_clock`."""
    faulthandler.cancel_dump_traceback_later()


def _lines(stream: IO[str], time_limit: float) -> Iterator[str]:
    """Yield the lines of a stream; ``queue.Empty`` if one takes longer than the limit (s)."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        with stream:
            for line in stream:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := lines.get(timeout=time_limit)) is not None:
        yield line.rstrip("\n")


def _telling_lines(output: str) -> str:
    """Return the end of an output, or the innermost calls if the time was over."""
    _, timeout, after = output.rpartition(_TIMEOUT)
    if timeout:
        return "\n".join((timeout + after).strip().splitlines()[:_TAIL])
    return "\n".join(output.strip().splitlines()[-_TAIL:])
