"""Atomic writing, and reading of foreign files: within bounds, and verified by checksums."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

_SUMS_LINE = re.compile(r"([0-9a-f]{64})  ([\w.-]+)")
_CHUNK = 1 << 20
MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file that is read; tokenizers of large vocabularies take about 20 MB."""


@contextmanager
def write_then_rename(path: str | Path) -> Iterator[Path]:
    """
    Write a file under a temporary name and rename it at the end.

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
def named_errors(error_type: type[Exception], expected: str) -> Iterator[None]:
    """
    Turn every error of a reader into the named error of its kind of file.

    A damaged or foreign file fails wherever its content is first used: as KeyError, AttributeError, ``zlib.error`` and
    so on. An error that has this name already passes unchanged.

    :param error_type: error of the file kind
    :param expected: start of the message: the file and what was expected of it
    :raises Exception: of type ``error_type``
    """
    try:
        yield
    except error_type:
        raise
    except Exception as error:
        raise error_type(f"{expected} ({type(error).__name__}: {error}).") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """
    Hold a lock that the system releases when the process ends, even if it is killed.

    :param path: file to lock; it is made, and stays
    """
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_bounded(path: Path, limit: int) -> bytes:
    """
    Read a whole file; pipes, devices and files beyond a limit are refused.

    :param path: the file
    :param limit: largest size (bytes)
    :raises ValueError: if it is not a regular file, or larger
    :raises OSError: if it cannot be read
    """
    # opening a FIFO without a writer would block
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is not a regular file")
    with open(descriptor, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} has {max(status.st_size, len(data)):,} bytes, expected at most {limit:,}")
    return data


def is_inside(path: Path, folder: Path) -> bool:
    """
    Tell whether a file lies in a downloaded or shared folder, following symbolic links.

    A snapshot in Hugging Face's cache links to the ``blobs`` folders of its repository and of the cache, which count as
    inside.

    :param path: the file
    :param folder: the folder
    """
    roots = [folder.resolve()]
    if roots[0].parent.name == "snapshots":
        roots += [roots[0].parents[1] / "blobs", roots[0].parents[2] / "blobs"]
    return any(path.resolve().is_relative_to(root) for root in roots)


def sha256(path: Path) -> str:
    """
    Compute the checksum of a file, once per process unless the file changes.

    :param path: a regular file
    :return: 64 hexadecimal digits
    :raises ValueError: if it is no regular file
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file")
    return _sha256(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@cache
def _sha256(path: Path, *_state: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_sums(path: Path, files: Iterable[Path]) -> None:
    """
    Write the checksums of files in one folder, as ``sha256sum --check`` reads them.

    :param path: file to write, in the same folder
    :param files: what to sum up
    """
    path.write_text("".join(f"{sha256(file)}  {file.name}\n" for file in files))


def check_sums(path: Path, files: Iterable[Path]) -> None:
    """
    Compare files with their checksums.

    :param path: what ``write_sums`` wrote
    :param files: the files that it has to name
    :raises ValueError: if a checksum is missing or differs
    :raises OSError: if a file cannot be read
    """
    lines = read_bounded(path, 1 << 16).decode("ascii", errors="replace").splitlines()
    matches = [_SUMS_LINE.fullmatch(line) for line in lines]
    sums = {match[2]: match[1] for match in matches if match}
    expected = {file.name for file in files}
    if None in matches or sums.keys() != expected:
        raise ValueError(f"{path.name} does not name {', '.join(sorted(expected))}")
    for file in files:
        if sha256(file) != sums[file.name]:
            raise ValueError(f"checksum of {file.name} differs")


def check_shared_file(path: str | Path, error: type[Exception]) -> Path:
    """
    Make sure that a downloaded or shared file is a regular file, inside its folder.

    :param path: the file
    :param error: what to raise
    :return: the path
    :raises FileNotFoundError: if there is no such file
    :raises Exception: an ``error`` if it is a folder, a pipe or a device, or links to a file outside its folder
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError) as cause:
        raise error(f"{path} cannot be read ({cause}). Check the file and its permissions.") from cause
    if not stat.S_ISREG(mode):
        raise error(f"{path} is a {_kind(mode)}; expected a regular file. Save or download it again.")
    if not is_inside(path, path.parent):
        target = path.resolve()
        raise error(f"{path} is a link to {target}, which is not in its folder. Copy the file there if you trust it.")
    return path


def read_json_object(path: str | Path, error: type[Exception], max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """
    Read a JSON object from a file that somebody else may have written.

    :param path: the file
    :param error: what to raise
    :param max_bytes: a larger file is refused
    :return: its content
    :raises FileNotFoundError: if there is no such file
    :raises Exception: an ``error`` for anything but a JSON object in a regular file of its folder
    """
    path = check_shared_file(path, error)
    remedy = "Save or download it again."
    size = path.stat().st_size
    if size > max_bytes:
        raise error(f"{path} has {size:,} bytes; expected {max_bytes:,} at most. {remedy}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as cause:
        raise error(f"{path} is damaged: not valid JSON ({cause}). {remedy}") from cause
    if not isinstance(values, dict):
        raise error(f"{path} is damaged: it holds a {type(values).__name__}; expected an object. {remedy}")
    return values


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")
