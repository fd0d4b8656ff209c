"""One thread per environment, in the caller's process."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import gymnasium as gym

from vla_gym.vector.base import VLAVectorEnv
from vla_gym.vector.observations import ObservationSlots
from vla_gym.vector.runner import Description, EnvRunner, Reply, Request

_CLOSING_TIME = 0.5
"""Seconds that threads get to finish when the vector environment is closed."""
_running: weakref.WeakSet[_EnvThread] = weakref.WeakSet()
_guard: threading.Thread | None = None


class ThreadVectorEnv(VLAVectorEnv):
    """
    Run every environment in its own thread, in which it is made, stepped and closed.

    Threads run in parallel while the simulation has released Python's interpreter lock, and share the scenes. A step
    that hangs cannot be interrupted: ``close`` does not wait for it, but its thread ends only with the process. Images
    are rendered on the process's own EGL device. Parameters: see :class:`VLAVectorEnv`.
    """

    def _start(self) -> Sequence[Description]:
        self._threads: list[_EnvThread] = []
        self._finalizer = weakref.finalize(self, _close_threads, self._threads)
        for i, env_fn in enumerate(self.env_fns):
            self._threads.append(_EnvThread(env_fn, i))
        made = Request(0, "made")
        descriptions: list[Description] = self._values({i: self._receive(i, made) for i in range(self.num_envs)})
        self._slots = ObservationSlots(descriptions[0].observation_space, self.num_envs)
        self._values(self._exchange({i: ("attach", self._slots) for i in range(self.num_envs)}))
        return descriptions

    def _send(self, index: int, request: Request) -> None:
        self._threads[index].requests.put(request)

    def _receive(self, index: int, request: Request) -> Reply:
        # replies to an interrupted call may still arrive
        while (reply := self._threads[index].replies.get()).number != request.number:
            pass
        return reply

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments, each in its thread, and end the threads."""
        self._finalizer()
        self._slots = None


class _EnvThread:
    """A thread that makes an environment and serves requests until it is told to close."""

    def __init__(self, env_fn: Callable[[], gym.Env[Any, Any]], index: int) -> None:
        self.requests: SimpleQueue[Request | None] = SimpleQueue()
        self.replies: SimpleQueue[Reply] = SimpleQueue()
        arguments = (env_fn, index, self.requests, self.replies)
        self.thread = threading.Thread(target=_serve, args=arguments, name=f"vla-gym-env-{index}", daemon=True)
        self.thread.start()
        _running.add(self)
        _watch_main_thread()


def _serve(
    env_fn: Callable[[], gym.Env[Any, Any]],
    index: int,
    requests: SimpleQueue[Request | None],
    replies: SimpleQueue[Reply],
) -> None:
    try:
        runner = EnvRunner(env_fn, index)
        replies.put(Reply(0, runner.describe()))
    except Exception as error:
        replies.put(Reply(0, error=error))
        return
    while (request := requests.get()) is not None:
        replies.put(runner.answer(request))
    runner.close()


def _close_threads(threads: Sequence[_EnvThread]) -> None:
    for thread in threads:
        thread.requests.put(None)
    deadline = time.monotonic() + _CLOSING_TIME
    for thread in threads:
        thread.thread.join(max(0.0, deadline - time.monotonic()))
        _running.discard(thread)


def _watch_main_thread() -> None:
    """
    Close environments in their own threads when the program ends.

    Exit handlers would be too late: they run in the main thread, and those of renderers use the OpenGL contexts.
    """
    global _guard
    if _guard is None:
        _guard = threading.Thread(target=_close_when_main_ends, name="vla-gym-exit", daemon=False)
        _guard.start()


def _close_when_main_ends() -> None:
    threading.main_thread().join()
    _close_threads(list(_running))
