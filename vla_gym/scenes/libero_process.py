"""
Run LIBERO's and robosuite's own code in a separate process that cannot ask questions, hang, or write anywhere.

This protects users from their habits:

- LIBERO asks a question on standard input when its configuration folder is missing, and downloads assets.
- robosuite opens ``/tmp/robosuite.log`` when it is imported, which fails for all but the first user of a machine.
- ``ControlEnv.reset`` swallows every exception, even Ctrl-C, and retries forever.
- Their dependencies write caches into the user's home folder.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from vla_gym.processes.program import restart_clock, run_program, stop_clock
from vla_gym.scenes.libero_files import write_libero_config

TIME_LIMIT = 600.0
"""Seconds that LIBERO may take for one scene or one recording, about fifty times what it needs."""
MAX_RESETS = 20
"""Attempts to place the objects of a scene at random."""


def run_libero(
    module: str, arguments: Sequence[str], folder: Path, time_limit: float | None = None, compiles: bool = True
) -> Iterator[str]:
    """
    Run a module that calls :func:`call_libero`, and yield the lines that it prints as they come.

    :param module: dotted name
    :param arguments: of its command line; paths must be absolute
    :param folder: existing folder for all that the process and its libraries write on their own
    :param time_limit: for each line, and for the end after the last one (s); ``None``: ``TIME_LIMIT``
    :param compiles: whether numba compiles robosuite's functions (5 s), which pays if the simulation is stepped
    :raises ProgramError: if it fails or takes longer
    """
    limit = TIME_LIMIT if time_limit is None else time_limit
    command = [sys.executable, "-m", module, "--time-limit", str(limit), *arguments]
    yield from run_program(
        command, folder, _environment(folder) | ({} if compiles else {"NUMBA_DISABLE_JIT": "1"}), limit
    )


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
        # robosuite imports a GL back end even without rendering; this one needs no GPU, display or EGL library
        "MUJOCO_GL": "glx",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(package_parent), *map(os.path.abspath, python_path)]),
    }


def call_libero(parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int], argv: list[str]) -> int:
    """
    Entry point of the separate process: parse the command line and do the work within the time limit.

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
        stop_clock()


def import_libero(assets: Path) -> Any:
    """
    Import LIBERO so that it reads assets from a given folder and writes no files.

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
    Do what ``ControlEnv.reset`` is meant to do: place the objects, and try again if they did not fit.

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
