"""Progress shown in a terminal, which a run must never fail of."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

logger = logging.getLogger(__name__)


class Tolerant:
    """Shows progress until that fails once: the reader is gone, the disk full, or another display has the terminal."""

    is_shown = True

    def attempt(self, show: Callable[[], object]) -> None:
        """
        Show something, unless an earlier attempt has failed.

        :param show: what shows it, and may raise
        """
        if not self.is_shown:
            return
        try:
            show()
        except Exception as error:
            self.is_shown = False
            logger.warning("The progress bar cannot be shown any more (%s); the run goes on without it.", error)


class TolerantStream(Tolerant):
    """
    A text stream that leaves out what cannot be written.

    tqdm holds a lock while it writes, and keeps it where that raises; so the bar itself must not see the error.

    :param stream: where to write
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """
        Write, if that is possible.

        :param text: what to write
        """
        self.attempt(lambda: self._stream.write(text))

    def flush(self) -> None:
        """Flush, if that is possible."""
        self.attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def progress_bar(**kwargs: Any) -> tqdm:
    """
    A bar of tqdm on standard error, which cannot make a run fail.

    :param kwargs: as for ``tqdm``
    :return: the bar
    """
    # the width must be asked for: tqdm does so only for what it knows to be a terminal
    return tqdm(file=TolerantStream(sys.stderr), dynamic_ncols=True, **kwargs)
