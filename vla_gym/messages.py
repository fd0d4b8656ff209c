"""Messages to people who wait for something that takes long."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger(__name__)


def announce(message: str) -> None:
    """
    Say that something takes long: on the logger, or on standard error where the script has not set up logging.

    :param message: one line
    """
    if logger.hasHandlers():
        logger.info(message)
    else:
        # logging's last resort shows warnings alone, and waiting is none
        print(message, file=sys.stderr, flush=True)
