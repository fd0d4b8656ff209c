"""
The only thread of this process that calls OpenGL; other threads submit calls to it and wait.

Software drivers crash when several threads use them at once, even with a context each, and a context belongs to the
thread where it is current. With a single OpenGL thread, environments may be reset, stepped and closed in any thread.

OpenGL does not survive a fork: the driver's threads exist in the parent only, and a child that draws would wait for
them forever. A child gets an error instead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from vla_gym.errors import RenderingError

Result = TypeVar("Result")


class _Job:
    """A call and its result."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._function, self._args = function, args
        self._result: Any = None
        self._error: BaseException | None = None
        self._is_done = threading.Lock()
        self._is_done.acquire()

    def run(self) -> None:
        try:
            self._result = self._function(*self._args)
        except BaseException as error:
            self._error = error
        self._is_done.release()

    def wait(self) -> Any:
        self._is_done.acquire()
        if self._error is not None:
            # a local variable would form a cycle: the error's traceback refers to this frame
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error
        return self._result


class GLThread:
    """Run functions in a thread that starts with the first call and ends with ``stop``."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._is_stopped = False
        self._is_forked = False

    @property
    def is_usable(self) -> bool:
        """Whether calls are accepted: not after ``stop``, nor in a process forked from one that has rendered."""
        return not self._is_stopped and not self._is_forked

    def call(self, function: Callable[..., Result], *args: Any) -> Result:
        """
        Run a function in the thread and wait for it.

        :param function: what to run
        :param args: its arguments
        :return: its result
        :raises RenderingError: after ``stop``, and in a process forked from one that has rendered
        """
        if self._is_forked:
            raise RenderingError(
                f"This process ({os.getpid()}) was forked from one that has rendered images, and OpenGL does not "
                "survive a fork. Start the workers before the first image is rendered, or without fork:  "
                "vla_gym.make_vec(..., backend='process'), vector_kwargs={'context': 'forkserver'} for "
                "gymnasium.make_vec, start_method='forkserver' for SubprocVecEnv, multiprocessing_context='forkserver' "
                "for a DataLoader."
            )
        if self._is_stopped:
            raise RenderingError("The program is ending; no more images can be rendered.")
        if self._thread is threading.current_thread():
            return function(*args)
        if self._thread is None:
            self._start()
        job = _Job(function, args)
        self._jobs.put(job)
        return job.wait()  # type: ignore[no-any-return]

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name="vla-gym-opengl", daemon=True)
                thread.start()
                self._thread = thread

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            del job  # nothing that it refers to should live on until the next one comes

    def stop(self) -> None:
        """End the thread."""
        if self.is_usable and self._thread is not None:
            self._is_stopped = True
            self._jobs.put(None)
            self._thread.join()

    def note_fork(self) -> bool:
        """
        Refuse calls in a forked process if the parent had started its thread.

        :return: whether it had
        """
        self._is_forked = self._is_forked or self._thread is not None
        # another thread of the parent may have held the lock
        self._start_lock = threading.Lock()
        return self._is_forked
