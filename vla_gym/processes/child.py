"""
Worker processes, forked from a server that has loaded and compiled the simulator.

The kernel tells whether a worker is alive and how it ended, as the server itself may have been killed or stopped.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, process
from multiprocessing.connection import Connection, wait
from typing import Any

from vla_gym.errors import WorkerError
from vla_gym.processes.channel import Channel

logger = logging.getLogger(__name__)

_PRELOADED = ["vla_gym.vector.preload"]
"""Modules that the server loads before it forks workers; they import this one."""
_MAX_STARTS = 3
"""Attempts to start a worker, each with a new server."""
_served_by: int | None = None
"""Process id of the last server that has started a worker, which shows that it is fully loaded."""


class ChildDiedError(Exception):
    """A worker process is gone; the message says how it ended."""


class ChildProcess:
    """
    A worker process and the connection to it.

    :param target: called in the process with its end of the connection, a ``Connection``, and ``args``
    :param args: further arguments, pickled
    :param name: name of the process
    :param timeout: seconds in which a running server must start it; a server that takes longer is replaced
    :param start_timeout: the same for a server that is not running yet
    :raises WorkerError: in a daemonic process, or if no server can start it
    """

    def __init__(
        self, target: Callable[..., None], args: tuple[Any, ...], name: str, timeout: float, start_timeout: float
    ) -> None:
        if process.current_process().daemon:
            raise WorkerError(
                f"Worker processes cannot be started from a daemonic process ({process.current_process().name}: a "
                "worker of multiprocessing.Pool or of a DataLoader, for example). Use backend='thread' or "
                "backend='sync' there, or start the workers from a process that is not daemonic."
            )
        near_end, far_end = socket.socketpair()
        self.channel = Channel(near_end)
        connection = Connection(far_end.detach())
        try:
            self._process = _start(target, (connection, *args), name, timeout, start_timeout)
        except BaseException:
            self.channel.close()
            raise
        finally:
            connection.close()
        self.pid: int = self._process.pid or 0
        self._pidfd: int | None = None
        with suppress(OSError, AttributeError):  # kernels before 5.3, or a process that is gone already
            self._pidfd = os.pidfd_open(self.pid)

    def send(self, message: Any, deadline: float) -> None:
        """
        Send an object; a process that is gone or does not read is noticed in :meth:`receive`.

        :param message: what can be pickled
        :param deadline: as ``time.monotonic`` counts (s)
        """
        with suppress(OSError):
            self.channel.send(message, deadline)

    def receive(self, deadline: float) -> Any:
        """
        Receive an object; one that has arrived is returned even after the deadline.

        :param deadline: as ``time.monotonic`` counts (s)
        :return: the object
        :raises TimeoutError: if none was complete in time
        :raises ChildDiedError: if the process is gone
        """
        try:
            return self.channel.receive(deadline)
        except TimeoutError:
            raise
        except (EOFError, OSError):
            raise ChildDiedError(self.ending()) from None

    def is_alive(self) -> bool:
        """Tell whether the process exists, running or stopped."""
        if self._pidfd is None:
            return not wait([self._process.sentinel], 0) and _exists(self.pid)
        return not _is_readable(self._pidfd, 0.0)

    def join(self, timeout: float) -> None:
        """
        Wait for the end of the process.

        :param timeout: longest time (s)
        """
        if self._pidfd is not None:
            _is_readable(self._pidfd, timeout)
        else:
            wait([self._process.sentinel], timeout)

    def ending(self) -> str:
        """Describe how the process ended; waits up to a second for the server to report it."""
        wait([self._process.sentinel], 1.0)
        code = self._process.exitcode
        return "died" if code is None else f"died with exit code {code}"

    def kill(self) -> None:
        """End the process at once, stopped or not, and close the connection; a second call does nothing."""
        with suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            elif self.is_alive():
                os.kill(self.pid, signal.SIGKILL)
        self.join(1.0)
        # a stopped server never reports the exit code, and the program would wait for that at its end
        process._children.discard(self._process)  # type: ignore[attr-defined]
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        self.channel.close()


def set_up_worker(environment: Mapping[str, str]) -> None:
    """
    Set up this process as a worker: ignore interrupts, end with the parent, take over its environment variables.

    :param environment: the parent's environment variables; the server's are those of the time when it was started
    """
    # Ctrl-C goes to the whole process group; the parent handles it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)


def _end_with_parent() -> None:
    """End with the parent: a worker that is busy when its parent is killed would notice late or never."""
    parent = process.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def wait_for_end(children: list[ChildProcess], timeout: float) -> None:
    """
    Wait until all processes have ended.

    :param children: processes
    :param timeout: longest time for all of them (s)
    """
    deadline = time.monotonic() + timeout
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _is_readable(file_descriptor: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(file_descriptor, select.POLLIN)
    return bool(poll.poll(1000.0 * timeout))


def _start(
    target: Callable[..., None], args: tuple[Any, ...], name: str, timeout: float, start_timeout: float
) -> multiprocessing.context.ForkServerProcess:
    global _served_by
    context = multiprocessing.get_context("forkserver")
    # has no effect on a server that is running
    context.set_forkserver_preload(_PRELOADED)
    for attempt in range(_MAX_STARTS):
        child = context.Process(target=target, args=args, name=name, daemon=True)
        forkserver.ensure_running()
        server = _server_pid()
        allowed = timeout if server == _served_by else start_timeout
        try:
            with _hidden_main_module(), _replaced_after(allowed, server):
                child.start()
        except (EOFError, OSError) as error:
            if not _has_ended(server):
                raise
            logger.warning("The server of worker processes (process %s) is gone; a new one is started.", server)
            if attempt == _MAX_STARTS - 1:
                raise WorkerError(
                    f"No worker process could be started in {_MAX_STARTS} attempts ({type(error).__name__}: {error}). "
                    "Run the same with backend='sync' to see what happens in it; memory is the usual suspect."
                ) from error
        else:
            _served_by = server
            return child
    raise AssertionError("unreachable")


def _has_ended(server: int | None) -> bool:
    """Tell whether the server has ended, or ends within a second."""
    deadline = time.monotonic() + 1.0
    while server is not None:
        try:
            # WNOWAIT: whoever starts the next server waits for this one
            if os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                return True
        except ChildProcessError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _server_pid() -> int | None:
    pid: int | None = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return pid


@contextmanager
def _replaced_after(seconds: float, server: int | None) -> Iterator[None]:
    """Kill a server that does not answer in time: a request to it waits forever, but fails once it is gone."""

    def kill() -> None:
        if server is not None:
            with suppress(ProcessLookupError):
                os.kill(server, signal.SIGKILL)

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), kill)
    timer.daemon = True
    if not math.isinf(seconds):
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _hidden_main_module() -> Iterator[None]:
    """
    Keep a process that is being started from importing the caller's script.

    It would run a script without a ``__main__`` guard again, and import all that the script imports, such as torch.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _forget_server() -> None:
    """Forget the parent's server in a forked process, which cannot wait for it; the next worker starts a new one."""
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    server._lock = threading.Lock()
    if server._forkserver_pid is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None


os.register_at_fork(after_in_child=_forget_server)
