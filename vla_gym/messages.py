"""Messages for users who are waiting."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger(__name__)


def announce(message: str) -> None:
    """
    Announce a slow operation: on the logger, or on standard error if the script has not set up logging.

    :param message: one line
    """
    if logger.hasHandlers():
        logger.info(message)
    else:
        # without handlers, logging shows warnings only
        print(message, file=sys.stderr, flush=True)
