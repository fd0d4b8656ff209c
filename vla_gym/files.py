"""Files that exist whole or not at all, and files of others that are not trusted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vla_gym.errors import VLAGymError


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


@contextmanager
def named_errors(error_type: type[VLAGymError], expected: str) -> Iterator[None]:
    """
    Turn every error of a reader into the named error of its kind of file.

    A damaged or foreign file fails wherever its content is first used: as KeyError, AttributeError, ``zlib.error`` and
    so on. An error that has this name already passes unchanged.

    :param error_type: error of the file kind
    :param expected: start of the message: the file and what was expected of it
    :raises VLAGymError: of type ``error_type``
    """
    try:
        yield
    except error_type:
        raise
    except Exception as error:
        raise error_type(f"{expected} ({type(error).__name__}: {error}).") from error


def read_bounded(path: Path, limit: int) -> bytes:
    """
    Read a small file whole; a pipe or a device is refused, because reading it may never end.

    :param path: the file
    :param limit: largest size, bytes
    :return: its content
    :raises ValueError: if it is larger
    :raises OSError: if it is missing, no regular file, or unreadable
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path} has more than {limit} bytes")
    return content


def is_inside(path: Path, folder: Path) -> bool:
    """
    Whether a file named by a downloaded or shared folder lies in that folder, symbolic links followed.

    A snapshot in Hugging Face's cache links to the ``blobs`` folder of its repository, which counts as inside.

    :param path: the file
    :param folder: the folder
    """
    roots = [folder.resolve()]
    if roots[0].parent.name == "snapshots":
        roots.append(roots[0].parent.parent / "blobs")
    return any(path.resolve().is_relative_to(root) for root in roots)
