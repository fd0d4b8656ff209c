"""Where commands print to, and what they say when they are interrupted."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the number of the signal."""


class LastingOutput:
    """
    A text stream whose reader may disappear: later output is discarded, and the command continues.

    :param stream: of the process, on a file descriptor
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream's."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        """As the stream's."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        """Discard buffered and future output."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def interruption_named(
    saved: Callable[[], str | None] | None = None, resuming: Callable[[], str] | None = None
) -> Iterator[None]:
    """
    At Ctrl-C say what was saved and which command resumes, instead of a traceback.

    :param saved: says what was saved, or None if nothing was; None: the interruption says it itself
    :param resuming: the command that resumes; None: this one, with ``--resume``
    :raises typer.Exit: at Ctrl-C
    """
    try:
        yield
    except KeyboardInterrupt as interruption:
        what = saved() if saved is not None else str(interruption) or None
        if what is None:
            typer.secho("Interrupted. Nothing was saved.", fg="yellow", err=True)
        else:
            command = this_command("--resume") if resuming is None else resuming()
            typer.secho(f"Interrupted. {what} Resume with:", fg="yellow", err=True)
            typer.echo(f"  {command}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def this_command(*further: str) -> str:
    """
    Write the command that is running as a line for a shell.

    :param further: arguments to add
    :return: command line
    """
    arguments = sys.argv[1:]
    return shlex.join(["vla-rl", *arguments, *(argument for argument in further if argument not in arguments)])
