"""A job whose process dies or raises fails alone; mistakes in the set-up end the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable

import cloudpickle
import pytest

from vla_gym.errors import AssetsError, WorkerError
from vla_gym.processes.jobs import MAX_FAILURES, run_jobs

# the processes cannot import this file
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def make_worker() -> Callable[[int], int]:
    def work(job: int) -> int:
        if job == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if job == 4:
            raise RuntimeError("no such bowl")
        return 10 * job

    return work


def make_hopeless() -> Callable[[int], int]:
    return lambda job: os._exit(3)


def make_without_assets() -> Callable[[int], int]:
    raise AssetsError("no folder of that name")


def make_with_bug() -> Callable[[int], int]:
    raise KeyError("bowl")


def make_refusing() -> Callable[[int], int]:
    def work(job: int) -> int:
        raise AssetsError(f"job {job} lacks a mesh")

    return work


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_failed_job_costs_no_other(n_workers: int) -> None:
    done = {item.job: item for item in run_jobs(make_worker, range(7), n_workers)}
    assert {job: item.result for job, item in done.items()} == {0: 0, 1: 10, 2: None, 3: 30, 4: None, 5: 50, 6: 60}
    assert done[2].failure == "its process died with exit code -9"
    assert "RuntimeError: no such bowl" in done[4].failure
    assert not any(item.failure for job, item in done.items() if job not in (2, 4))


def make_slow() -> Callable[[int], int]:
    time.sleep(0.5)  # does not count

    def work(job: int) -> int:
        if job == 1:
            time.sleep(3600)
        return job

    return work


def test_a_job_that_hangs_fails_alone() -> None:
    done = {item.job: item for item in run_jobs(make_slow, range(3), 1, timeout_s=2.0)}
    assert {job: item.result for job, item in done.items()} == {0: 0, 1: None, 2: 2}
    assert done[1].failure == "it took more than 2 s"


def test_jobs_are_taken_when_a_worker_is_free() -> None:
    dropped: set[int] = set()
    seen = []
    for item in run_jobs(make_worker, (job for job in (0, 1, 5, 6) if job not in dropped), 1):
        seen.append(item.job)
        dropped |= {1, 5}
    assert seen == [0, 6]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            make_hopeless,
            WorkerError,
            f"{MAX_FAILURES} jobs failed in a row, the last one because its process died with exit code 3",
        ),
        (make_without_assets, AssetsError, "no folder of that name"),
        (make_with_bug, WorkerError, "KeyError: 'bowl'"),
        (make_refusing, AssetsError, "job 0 lacks a mesh"),
    ],
)
def test_what_every_job_would_meet_ends_the_run(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(run_jobs(make, range(20), 1))


def test_no_process_outlives_the_iteration() -> None:
    jobs = run_jobs(make_worker, range(7), 2)
    next(jobs)
    assert worker_processes()
    jobs.close()
    assert not worker_processes()


def worker_processes() -> list[str]:
    return [child.name for child in multiprocessing.active_children() if child.name.startswith("vla-gym-job")]
