"""Ctrl-C at a moment when everything is consistent."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """
    Note Ctrl-C instead of raising at once; a second one raises ``KeyboardInterrupt`` as usual.

    Outside the main thread, where signals cannot be caught, nothing changes.

    :return: function that says whether Ctrl-C was pressed
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def note(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        logger.warning("Stopping after what is in progress, and saving it. Press Ctrl-C again to stop at once.")

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
