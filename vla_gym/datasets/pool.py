"""Jobs worked off by processes, of which any may die or hang: that costs the job it was at, and nothing else."""

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
from vla_gym.processes.child import ChildDiedError, ChildProcess, settle_in
from vla_gym.sim.opengl import share_out_rendering

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
MAX_LOSSES = 5
"""Lost jobs in a row, with none done in between, that end the run."""
TIMEOUT_S = 600.0
"""What a job may take (s); the slowest ones, of 520 control steps with two cameras, take seconds."""

START_TIMEOUT_S = 1800.0
"""What a worker may take to get ready (s), which may include building scenes."""


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
    make_worker: Callable[[], Callable[[Job], Any]],
    jobs: Iterable[Job],
    n_workers: int,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[Done[Job]]:
    """
    Work off jobs in processes; a worker that dies or hangs is replaced.

    Workers are forked from a server process that has imported nothing of the caller's. When the caller stops iterating,
    or is interrupted, they are killed.

    :param make_worker: called once in each process; returns what is called with each job. Sent by cloudpickle.
    :param jobs: taken one by one as workers become free
    :param n_workers: number of processes, at least 1
    :param timeout_s: a worker that takes longer for a job is killed (s); the time of ``make_worker`` does not count
    :return: finished jobs, in the order in which they end
    :raises WorkerError: after ``MAX_LOSSES`` lost jobs in a row, or if ``make_worker`` raises
    :raises VLAGymError: if a worker raises one: it names a mistake in the set-up, which the next job would meet too
    """
    if n_workers < 1:
        raise ValueError(f"n_workers is {n_workers}; expected at least 1.")
    payload = cloudpickle.dumps(make_worker)
    remaining = iter(jobs)
    workers: dict[Any, _JobWorker[Job]] = {}
    losses = 0

    def employ(index: int) -> None:
        job = next(remaining, None)
        if job is not None:
            worker: _JobWorker[Job] = _JobWorker(index, n_workers, payload, timeout_s)
            workers[worker.connection] = worker
            worker.give(job)

    try:
        for index in range(n_workers):
            employ(index)
        while workers:
            deadline = min(worker.deadline for worker in workers.values())
            wait(list(workers), max(0.0, deadline - time.monotonic()))
            for connection, worker in list(workers.items()):
                done = worker.collect()
                if done is None:
                    continue
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


class _JobWorker(Generic[Job]):
    """The asking side of a worker process."""

    def __init__(self, index: int, n_workers: int, payload: bytes, timeout_s: float) -> None:
        self.index = index
        self.is_alive = True
        self.deadline = time.monotonic() + START_TIMEOUT_S
        """When the job in progress is given up, as ``time.monotonic`` counts (s)."""
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

    def collect(self) -> Done[Job] | None:
        """What became of the job; None if it goes on."""
        try:
            kind, value = self._process.receive(0.0)
        except TimeoutError:
            if time.monotonic() < self.deadline:
                return None
            self._process.kill()
            self.is_alive = False
            timeout_s = self._timeout_s if self._is_ready else START_TIMEOUT_S
            return Done(self.job, loss=f"it took more than {timeout_s:g} s")
        except ChildDiedError as death:
            self.is_alive = False
            return Done(self.job, loss=f"its process {death}")
        if kind == "error":
            raise value
        if kind == "ready":
            self._is_ready = True
            self._start_clock()
            # the result may have arrived with it, and then nothing more comes that could be waited for
            return self.collect()
        return Done(self.job, result=value) if kind == "result" else Done(self.job, loss=value)

    def end(self) -> None:
        """Let it go once it has nothing to do."""
        self.connection.close()
        self._process.join(1.0)
        self.kill()

    def kill(self) -> None:
        self._process.kill()


def _serve(connection: Connection, index: int, n_workers: int, payload: bytes, environment: Mapping[str, str]) -> None:
    settle_in(environment)
    share_out_rendering(index, n_workers)
    try:
        worker = cloudpickle.loads(payload)()
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
            connection.send(("loss", traceback.format_exc()))
