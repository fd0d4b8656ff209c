"""Jobs worked off by processes, of which any may die: that costs the job it was at, and nothing else."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import cloudpickle

from vla_gym.errors import VLAGymError, WorkerError
from vla_gym.sim.egl import choose_egl_device
from vla_gym.vector.process import hidden_main_module
from vla_gym.vector.worker import end_with_parent

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
MAX_LOSSES = 5
"""Lost jobs in a row, with none done in between, that end the run."""


@dataclass(frozen=True)
class Done(Generic[Job]):
    """
    A job that is over.

    :param job: the job
    :param result: what its worker returned; None if it was lost
    :param loss: why it was lost, else empty
    """

    job: Job
    result: Any = None
    loss: str = ""


def run_jobs(
    make_worker: Callable[[], Callable[[Job], Any]], jobs: Iterable[Job], n_workers: int
) -> Iterator[Done[Job]]:
    """
    Work off jobs in processes; a worker that dies is replaced.

    Workers are forked from a server process that has imported nothing of the caller's. When the caller stops iterating,
    or is interrupted, they are killed.

    :param make_worker: called once in each process; returns what is called with each job. Sent by cloudpickle.
    :param jobs: taken one by one as workers become free
    :param n_workers: number of processes, at least 1
    :return: finished jobs, in the order in which they end
    :raises WorkerError: after ``MAX_LOSSES`` lost jobs in a row, or if ``make_worker`` raises
    :raises VLAGymError: if a worker raises one: it names a mistake in the set-up, which the next job would meet too
    """
    if n_workers < 1:
        raise ValueError(f"n_workers is {n_workers}; expected at least 1.")
    payload = cloudpickle.dumps(make_worker)
    remaining = iter(jobs)
    workers: dict[Any, _Worker[Job]] = {}
    losses = 0

    def employ(index: int) -> None:
        job = next(remaining, None)
        if job is not None:
            worker: _Worker[Job] = _Worker(index, payload)
            workers[worker.connection] = worker
            worker.give(job)

    try:
        for index in range(n_workers):
            employ(index)
        while workers:
            for connection in wait(list(workers)):
                worker = workers[connection]
                done = worker.collect()
                losses = losses + 1 if done.loss else 0
                if done.loss:
                    logger.warning("%s was lost: %s", done.job, done.loss)
                if losses >= MAX_LOSSES:
                    raise WorkerError(f"{losses} jobs were lost in a row, the last one because: {done.loss}")
                yield done
                if worker.is_alive:
                    job = next(remaining, None)
                    if job is not None:
                        worker.give(job)
                        continue
                worker.end()
                del workers[connection]
                if not worker.is_alive:
                    employ(worker.index)
    finally:
        for worker in workers.values():
            worker.kill()


class _Worker(Generic[Job]):
    """The asking side of a worker process."""

    def __init__(self, index: int, payload: bytes) -> None:
        context = multiprocessing.get_context("forkserver")
        self.index = index
        self.is_alive = True
        self.connection, far_end = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(far_end, index, payload, dict(os.environ)),
            name=f"vla-gym-job-{index}",
            daemon=True,
        )
        with hidden_main_module():
            self._process.start()
        far_end.close()

    def give(self, job: Job) -> None:
        self.job = job
        try:
            self.connection.send(job)
        except OSError:
            pass  # found out when the result is waited for

    def collect(self) -> Done[Job]:
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(1.0)
            self.is_alive = False
            return Done(self.job, loss=f"its process died with exit code {self._process.exitcode}")
        if kind == "error":
            raise value
        return Done(self.job, result=value) if kind == "result" else Done(self.job, loss=value)

    def end(self) -> None:
        """Let it go once it has nothing to do."""
        self.connection.close()
        self._process.join(1.0)
        self.kill()

    def kill(self) -> None:
        if self._process.is_alive():
            self._process.kill()
        self._process.join(1.0)
        self.connection.close()


def _serve(connection: Connection, index: int, payload: bytes, environment: Mapping[str, str]) -> None:
    # an interrupt from the keyboard is for the asking process to handle
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    # the server that workers are forked from has those of its own start
    os.environ.clear()
    os.environ.update(environment)
    choose_egl_device(index)
    try:
        worker = cloudpickle.loads(payload)()
    except Exception as error:
        is_portable = isinstance(error, VLAGymError)
        connection.send(("error", error if is_portable else WorkerError(f"{type(error).__name__}: {error}")))
        return
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        try:
            connection.send(("result", worker(job)))
        except VLAGymError as error:
            connection.send(("error", error))
        except Exception:
            connection.send(("loss", traceback.format_exc()))
