"""Exclusive ownership of folders and files: one process writes, others are refused."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from vla_gym.errors import FolderInUseError, FolderNotWritableError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
OWNER_FILE = ".owner.json"
"""Lies beside the lock while it is held: process and machine of its owner."""
_TEMPORARY = re.compile(r"\..+?-(?P<pid>\d+)(-\w+)?(\.(zip|json|jsonl|png|mp4|md|hdf5))?")
"""Names of temporary files of :func:`vla_gym.files.write_then_rename`, and of temporary folders."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@dataclass
class _Held:
    """A lock of this process; the thread that holds it may acquire it again, others may not."""

    lock: FileLock
    thread_id: int
    n_holders: int = 1


_held: dict[Path, _Held] = {}
_held_guard = threading.Lock()
# a forked child does not own its parent's folders
os.register_at_fork(after_in_child=_held.clear)


@contextmanager
def own_folder(folder: str | Path) -> Iterator[Path]:
    """
    Own a folder for the duration of a block; other processes and threads are refused.

    Missing folders are made, and removed at the end if they are still empty. Temporary files of dead processes are
    removed at the start. On a file system without locks the folder is not locked, with a warning.

    :param folder: to write to
    :return: the folder
    :raises FolderInUseError: if another process, or another thread of this one, owns it
    :raises FolderNotWritableError: if it cannot be made or written
    """
    folder = Path(folder)
    made = _make_writable(folder)
    key = folder.resolve()
    with _held_guard:
        held = _held.get(key)
        if held is not None and held.thread_id == threading.get_ident():
            held.n_holders += 1
        elif held is not None:
            raise FolderInUseError(_in_use(folder, f"another thread of this process ({os.getpid()})"))
        else:
            held = _held[key] = _Held(_acquire(folder, folder / LOCK_FILE, folder / OWNER_FILE), threading.get_ident())
            _sweep(folder)
    try:
        yield folder
    finally:
        with _held_guard:
            held.n_holders -= 1
            if not held.n_holders:
                del _held[key]
                _give_up(folder, held.lock, made)


@contextmanager
def own_file(path: str | Path) -> Iterator[Path]:
    """
    Own a file for the duration of a block, like :func:`own_folder`; others may write other files of its folder.

    :param path: to write to
    :return: the path
    :raises FolderInUseError: if another process owns it
    :raises FolderNotWritableError: if its folder cannot be made or written
    """
    path = Path(path)
    _make_writable(path.parent)
    lock = path.with_name(f".{path.name}{LOCK_FILE}")
    owner = path.with_name(f".{path.name}{OWNER_FILE}")
    held = _acquire(path, lock, owner)
    try:
        yield path
    finally:
        owner.unlink(missing_ok=True)
        # removed while it is held, so that nobody acquires a lock that is about to disappear
        lock.unlink(missing_ok=True)
        held.release()


def _make_writable(folder: Path) -> list[Path]:
    """Make a folder and test that it can be written; return the folders that were missing, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    probe = folder / f".probe-{os.getpid()}-{threading.get_ident()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(4096))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        _remove_empty(missing)
        raise FolderNotWritableError(
            f"{folder} cannot be written: {error.strerror or error}. Correct its permissions or free space, or name "
            "another folder."
        ) from error
    return missing


def _acquire(what: Path, lock_file: Path, owner_file: Path) -> FileLock:
    lock = FileLock(str(lock_file), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUseError(_in_use(what, _owner(owner_file))) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise FolderNotWritableError(
                f"{what} cannot be locked: {error}. Correct the permissions of {lock_file}, or name another place."
            ) from error
        logger.warning("%s is on a file system without locks (%s): see that nobody else writes it.", what, error)
    owner = {"pid": os.getpid(), "host": socket.gethostname()}
    # for messages only
    with suppress(OSError):
        owner_file.write_text(json.dumps(owner) + "\n", encoding="utf-8")
    return lock


def _owner(owner_file: Path) -> str:
    try:
        owner = json.loads(owner_file.read_text(encoding="utf-8"))
        return f"process {int(owner['pid'])} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        # it has the lock, but has not written its name yet
        return "another process"


def _in_use(what: Path, owner: str) -> str:
    kind = "folder" if what.is_dir() else "file"
    return f"{what} is being written by {owner}. Wait until it has ended, or name another {kind}."


def _give_up(folder: Path, lock: FileLock, made: list[Path]) -> None:
    (folder / OWNER_FILE).unlink(missing_ok=True)
    lock.release()
    if made and folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK_FILE}:
        (folder / LOCK_FILE).unlink(missing_ok=True)
        _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _sweep(folder: Path) -> None:
    """Remove temporary files of dead processes; as the folder is locked, none of them lives on another machine."""
    for path in folder.glob(".*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or _is_alive(int(match["pid"])):
            continue
        logger.info("%s was left behind by a process that is gone; it is removed.", path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        # another user's process, or not a process number
        return True
    return True
