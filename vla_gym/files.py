"""Files that exist whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_then_rename(path: str | Path) -> Iterator[Path]:
    """
    Write a file under a temporary name and give it its own at the end.

    A crash or an error inside the block leaves an earlier file of that name untouched. Missing folders are made.

    :param path: the file to write or replace
    :return: temporary path in the same folder, with the same suffix, to write to
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
