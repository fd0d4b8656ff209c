"""
Runs LIBERO's and robosuite's own code in a separate process that cannot ask, hang, or write where it likes.

Habits of theirs that users are spared:

- LIBERO asks a question on standard input when its configuration folder is missing, and downloads assets.
- robosuite opens ``/tmp/robosuite.log`` when it is imported, which only the first user of a machine can.
- ``ControlEnv.reset`` swallows every exception, Ctrl-C included, and tries again for ever.
- Its dependencies keep caches in the user's home folder.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from unittest import mock

from vla_gym.scenes.libero_files import write_libero_config

TIME_LIMIT = 600.0
"""Seconds that LIBERO may take for one scene or one recording, some fifty times what it needs."""
MAX_RESETS = 20
"""Attempts to place the objects of a scene at random before they are given up."""
_GRACE = 30.0
"""Seconds that the process gets to say where it hangs before it is killed."""
_TAIL = 15
_TIMEOUT = "Timeout ("
"""First line of what ``faulthandler`` writes when the time is over."""


class LiberoProcessError(Exception):
    """
    LIBERO's code failed or took too long.

    :param status: exit status of the process
    :param output: last lines of its standard error, or where it was when its time was over
    """

    def __init__(self, status: int, output: str) -> None:
        super().__init__(f"exit status {status}: {output}")
        self.status = status
        self.output = output


def run_libero(
    module: str, arguments: Sequence[str], folder: Path, time_limit: float | None = None, compiles: bool = True
) -> Iterator[str]:
    """
    Run a module that calls :func:`call_libero`, and yield the lines that it prints as they come.

    :param module: dotted name
    :param arguments: of its command line; paths must be absolute
    :param folder: existing folder for everything that the process and its libraries write by themselves
    :param time_limit: for each line, and for the end after the last one (s); ``None``: ``TIME_LIMIT``
    :param compiles: whether numba compiles robosuite's functions (5 s), which pays if the simulation is stepped
    :raises LiberoProcessError: if it fails or takes longer
    """
    limit = TIME_LIMIT if time_limit is None else time_limit
    command = [sys.executable, "-m", module, "--time-limit", str(limit), *arguments]
    # standard error goes to a file: a pipe that nobody reads would block the process
    with tempfile.TemporaryFile("w+", dir=folder) as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(folder) | ({} if compiles else {"NUMBA_DISABLE_JIT": "1"}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            yield from _lines(process.stdout, limit + _GRACE)
            status = process.wait(_GRACE)
        except (queue.Empty, subprocess.TimeoutExpired):
            status = -1
            errors.write(f"\n{_TIMEOUT}{limit:g} s)! The process does not react.")
        finally:
            process.kill()
            process.wait()
        if status != 0:
            errors.seek(0)
            raise LiberoProcessError(status, _telling_lines(errors.read()))


def _environment(folder: Path) -> dict[str, str]:
    config = folder / "libero_config"
    write_libero_config(config)
    package_parent = Path(__file__).resolve().parents[2]
    python_path = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    places = {
        name: folder / name for name in ("TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "HF_HOME")
    }
    for place in places.values():
        place.mkdir(exist_ok=True)
    return {
        **os.environ,
        **{name: str(place) for name, place in places.items()},
        "LIBERO_CONFIG_PATH": str(config),
        # robosuite imports a GL back end although nothing is rendered; this one needs no GPU, display or EGL library
        "MUJOCO_GL": "glx",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(package_parent), *map(os.path.abspath, python_path)]),
    }


def _lines(stream: IO[str], time_limit: float) -> Iterator[str]:
    """Lines of a stream; ``queue.Empty`` if one takes longer than the limit (s)."""
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
    """The end of an output, or the innermost calls where time was over."""
    _, timeout, after = output.rpartition(_TIMEOUT)
    if timeout:
        return "\n".join((timeout + after).strip().splitlines()[:_TAIL])
    return "\n".join(output.strip().splitlines()[-_TAIL:])


def call_libero(parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int], argv: list[str]) -> int:
    """
    Entry point of the separate process: parse its command line and do its work, within its time limit.

    :param parser: of the work's own options
    :param work: called with the options; gives the exit status
    :param argv: command line
    :return: exit status; of several errors the first one is written on standard error
    """
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT)
    arguments = parser.parse_args(argv)
    restart_clock(arguments.time_limit)
    try:
        return work(arguments)
    except Exception as error:
        first: BaseException = error
        while cause := first.__cause__ or first.__context__:
            first = cause
        traceback.print_exception(first)
        return 1
    finally:
        faulthandler.cancel_dump_traceback_later()


def restart_clock(time_limit: float) -> None:
    """Give this process that many seconds (s) from now; then it writes where it is, and ends."""
    faulthandler.dump_traceback_later(time_limit, exit=True)


def import_libero(assets: Path) -> Any:
    """
    Import LIBERO; it reads assets from a folder of ours and opens no file to write.

    :param assets: root of the asset pack
    :return: class ``ControlEnv``
    """
    with _no_log_files():
        import libero.libero as libero_package

        libero_package._assets_path_cache = str(assets)
        from libero.libero.envs.env_wrapper import ControlEnv
    return ControlEnv


@contextmanager
def _no_log_files() -> Iterator[None]:
    with mock.patch.object(logging, "FileHandler", lambda *args, **kwargs: logging.NullHandler()):
        yield


def reset_libero(control_env: Any) -> None:
    """
    Do what ``ControlEnv.reset`` is meant to do: draw new places for the objects where the first ones did not fit.

    :param control_env: a ``ControlEnv``
    :raises RandomizationError: robosuite's, if ``MAX_RESETS`` attempts did not succeed; other errors as they come
    """
    from robosuite.utils.errors import RandomizationError

    for attempt in range(MAX_RESETS):
        try:
            control_env.env.reset()
            return
        except RandomizationError:
            if attempt == MAX_RESETS - 1:
                raise
