"""Run jobs in worker processes; one that dies or hangs fails its current job only."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import cloudpickle

from vla_gym.errors import VLAGymError, WorkerError
from vla_gym.processes.child import ChildDiedError, ChildProcess, set_up_worker

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
MAX_FAILURES = 5
"""Failed jobs in a row that end the run."""
TIMEOUT_S = 600.0
"""Time limit of a job (s); recording an episode of 520 control steps with two cameras takes seconds."""
START_TIMEOUT_S = 1800.0
"""Time limit for a worker to get ready (s), which may include building scenes."""


@dataclass(frozen=True)
class FinishedJob(Generic[Job]):
    """
    A job that is over.

    :param job: the job
    :param result: result of the worker; None if the job failed
    :param failure: why it failed, else empty
    """

    job: Job
    result: Any = None
    failure: str = ""


def run_jobs(
    make_worker: Callable[[], Callable[[Job], Any]],
    jobs: Iterable[Job],
    n_workers: int,
    timeout_s: float = TIMEOUT_S,
    set_up: Callable[[int, int], None] | None = None,
) -> Iterator[FinishedJob[Job]]:
    """
    Run jobs in worker processes; a worker that dies or hangs is replaced.

    Workers are forked from a server process that has imported none of the caller's modules. They are killed when the
    caller stops iterating or is interrupted.

    :param make_worker: called once in each process; returns the function that is called with each job. Sent by
        cloudpickle.
    :param jobs: taken one by one as workers become free
    :param n_workers: number of processes, at least 1
    :param timeout_s: a worker that takes longer for a job is killed (s); the time of ``make_worker`` does not count
    :param set_up: called first in each process, with its number and the number of processes; a function of a module
    :return: finished jobs, in the order in which they end
    :raises WorkerError: after ``MAX_FAILURES`` failed jobs in a row, or if ``make_worker`` raises
    :raises VLAGymError: if a worker raises one, as it names a mistake that the other jobs would run into as well
    """
    if n_workers < 1:
        raise ValueError(f"n_workers is {n_workers}; expected at least 1.")
    payload = cloudpickle.dumps((make_worker, set_up))
    remaining = iter(jobs)
    workers: dict[Any, _JobWorker[Job]] = {}
    n_failures = 0

    def start_worker(index: int) -> None:
        job = next(remaining, None)
        if job is not None:
            worker: _JobWorker[Job] = _JobWorker(index, n_workers, payload, timeout_s)
            workers[worker.connection] = worker
            worker.give(job)

    try:
        for index in range(n_workers):
            start_worker(index)
        while workers:
            deadline = min(worker.deadline for worker in workers.values())
            wait(list(workers), max(0.0, deadline - time.monotonic()))
            for connection, worker in list(workers.items()):
                finished = worker.collect()
                if finished is None:
                    continue
                n_failures = n_failures + 1 if finished.failure else 0
                if finished.failure:
                    logger.warning("Job %s failed: %s", finished.job, finished.failure)
                if n_failures >= MAX_FAILURES:
                    raise WorkerError(f"{n_failures} jobs failed in a row, the last one because {finished.failure}")
                yield finished
                if worker.is_alive:
                    job = next(remaining, None)
                    if job is not None:
                        worker.give(job)
                        continue
                worker.end()
                del workers[connection]
                if not worker.is_alive:
                    start_worker(worker.index)
    finally:
        for worker in workers.values():
            worker.kill()


class _JobWorker(Generic[Job]):
    """A worker process, seen from the process that gives it jobs."""

    def __init__(self, index: int, n_workers: int, payload: bytes, timeout_s: float) -> None:
        self.index = index
        self.is_alive = True
        self.deadline = time.monotonic() + START_TIMEOUT_S
        """When the current job counts as hanging, as ``time.monotonic`` counts (s)."""
        self._is_ready = False
        self._timeout_s = timeout_s
        args = (index, n_workers, payload, dict(os.environ))
        self._process = ChildProcess(_serve, args, f"vla-gym-job-{index}", timeout_s, START_TIMEOUT_S)
        self.connection = self._process.channel

    def give(self, job: Job) -> None:
        self.job = job
        self._start_clock()
        self._process.send(job, self.deadline)

    def _start_clock(self) -> None:
        if self._is_ready:
            self.deadline = time.monotonic() + self._timeout_s

    def collect(self) -> FinishedJob[Job] | None:
        """Return the job if it is over, else None."""
        try:
            kind, value = self._process.receive(0.0)
        except TimeoutError:
            if time.monotonic() < self.deadline:
                return None
            self._process.kill()
            self.is_alive = False
            timeout_s = self._timeout_s if self._is_ready else START_TIMEOUT_S
            return FinishedJob(self.job, failure=f"it took more than {timeout_s:g} s")
        except ChildDiedError as death:
            self.is_alive = False
            return FinishedJob(self.job, failure=f"its process {death}")
        if kind == "error":
            raise value
        if kind == "ready":
            self._is_ready = True
            self._start_clock()
            # the result may have arrived together with this message, and then waiting for more would hang
            return self.collect()
        if kind == "result":
            return FinishedJob(self.job, result=value)
        return FinishedJob(self.job, failure=value)

    def end(self) -> None:
        """End the process, which has nothing to do."""
        self.connection.close()
        self._process.join(1.0)
        self.kill()

    def kill(self) -> None:
        self._process.kill()


def _serve(connection: Connection, index: int, n_workers: int, payload: bytes, environment: Mapping[str, str]) -> None:
    set_up_worker(environment)
    try:
        make_worker, set_up = cloudpickle.loads(payload)
        if set_up is not None:
            set_up(index, n_workers)
        worker = make_worker()
    except Exception as error:
        is_portable = isinstance(error, VLAGymError)
        connection.send(("error", error if is_portable else WorkerError(f"{type(error).__name__}: {error}")))
        return
    connection.send(("ready", None))
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
            connection.send(("failure", traceback.format_exc()))
