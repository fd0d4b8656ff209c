"""One process per environment, with observations in shared memory."""

from __future__ import annotations

import logging
import mmap
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import send_handle
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
from gymnasium.vector import AutoresetMode

from vla_gym.errors import WorkerError
from vla_gym.processes.child import ChildDiedError, ChildProcess, wait_for_end
from vla_gym.snapshots import plain_part
from vla_gym.vector.base import EnvFns, VLAVectorEnv
from vla_gym.vector.observations import ObservationSlots
from vla_gym.vector.runner import Description, Reply, Request, StepResult
from vla_gym.vector.worker import run_worker

logger = logging.getLogger(__name__)

_CLOSING_TIME = 0.5
"""Seconds that workers have to close their environments before they are killed."""
_MAX_DEATHS = 3
"""Deaths of a worker without an answer in between after which it is not restarted."""
_RESTARTED = {"worker_restarted": True}


class WorkerTracebackError(Exception):
    """Traceback in the worker, as the cause of an exception that was raised there."""


class _WorkerDiedError(Exception):
    """The worker is dead or does not answer; the message says which."""


class _Restart(NamedTuple):
    """An episode that ended because its worker died, and the next one, in the new worker."""

    last_observation: Any
    last_info: dict[str, Any]
    observation: Any
    info: dict[str, Any]
    is_reported: bool = False


class ProcessVectorEnv(VLAVectorEnv):
    """
    Run every environment in its own process, which writes observations to shared memory.

    Workers are forked from a server process that has loaded and compiled the simulator and nothing else. They do not
    import the caller's script, so the script needs no ``__main__`` guard, and its imports are not loaded. Functions
    that workers cannot import (of the script, lambdas) are sent by value. The shared memory has no name, so the system
    frees it with the last process that maps it, even a killed one; arrays handed out stay valid after ``close``.

    **A worker that dies or hangs** is replaced, with a warning in the log. Its episode is reported as truncated, with
    reward 0, the last known observation and ``info["worker_restarted"] = True``; the next episode starts as
    ``autoreset_mode`` says. Its seed is derived from the environment's last seed and the number of restarts. The new
    environment gets the attributes that ``set_attr`` has set; effects of ``call`` are lost. Three deaths without an
    answer in between are an error.

    **EGL devices**: environment i renders on device i modulo their number, see ``vla_gym.sim.egl``.

    :param env_fns: functions that make one environment each
    :param autoreset_mode: see :class:`VLAVectorEnv`
    :param copy: see :class:`VLAVectorEnv`
    :param worker_timeout: seconds within which a worker must answer a request
    :param start_timeout: seconds within which it must make its environment, which may include building scenes
    :raises WorkerError: if a worker cannot be kept alive
    """

    def __init__(
        self,
        env_fns: EnvFns,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        copy: bool = False,
        worker_timeout: float = 120.0,
        start_timeout: float = 1800.0,
    ) -> None:
        self.worker_timeout = worker_timeout
        self.start_timeout = start_timeout
        n_envs = len(env_fns)
        self._memory = _SharedMemory()
        self._workers: list[_EnvWorker] = []
        # runs when the object is collected or the program ends, unless close() was called
        self._finalizer = weakref.finalize(self, _shut_down, self._workers, self._memory, os.getpid())
        self._deaths = [0] * n_envs
        self._restarts = [0] * n_envs
        self._pending: list[_Restart | None] = [None] * n_envs
        self._last_infos: list[dict[str, Any]] = [{}] * n_envs
        self._attributes: list[dict[str, Any]] = [{} for _ in env_fns]
        super().__init__(env_fns, autoreset_mode, copy)

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of the workers."""
        return tuple(worker.pid for worker in self._workers)

    def snapshot(self) -> dict[str, Any] | None:
        """Same as in :class:`VLAVectorEnv`; also None while a worker's restart has not been reported by a step yet."""
        snapshot = super().snapshot()
        # after the exchange, in which the worker may have died
        if snapshot is None or any(pending is not None for pending in self._pending):
            return None
        return {**snapshot, "last_infos": [plain_part(info) for info in self._last_infos]}

    def restore(self, snapshot: Mapping[str, Any]) -> Any:
        """
        Same as in :class:`VLAVectorEnv`.

        :param snapshot: of any back end
        :return: the observations of that moment, (N, ...)
        :raises SnapshotError: same as there
        """
        observations = super().restore(snapshot)
        self._pending = [None] * self.num_envs
        self._last_infos = [dict(info) for info in snapshot.get("last_infos", [{}] * self.num_envs)]
        return observations

    def _start(self) -> Sequence[Description]:
        for i in range(self.num_envs):
            self._workers.append(self._launch(i))
        return [self._bring_up(i)[0] for i in range(self.num_envs)]

    def _launch(self, index: int) -> _EnvWorker:
        env_fn = cloudpickle.dumps(self.env_fns[index])
        return _EnvWorker(index, env_fn, self.num_envs, self.worker_timeout, self.start_timeout)

    def _bring_up(self, index: int) -> tuple[Description, dict[str, Any]]:
        """
        Wait until a new worker is ready for requests; launch it again if it dies.

        :return: its description, and the info of its first episode if the others are running already
        """
        while True:
            try:
                return self._connect(index)
            except _WorkerDiedError as death:
                self._bury(index, death)
                self._workers[index] = self._launch(index)

    def _bury(self, index: int, death: _WorkerDiedError) -> None:
        self._workers[index].kill()
        self._deaths[index] += 1
        if self._deaths[index] >= _MAX_DEATHS:
            raise WorkerError(
                f"Worker {index} {death}; that is {_MAX_DEATHS} deaths without an answer in between. Run the same with "
                "backend='sync' to see what happens in it; memory is the usual suspect."
            ) from death
        logger.warning("Worker %d %s; it is restarted.", index, str(death))

    def _connect(self, index: int) -> tuple[Description, dict[str, Any]]:
        worker = self._workers[index]
        description = self._value(worker.receive(0, self.start_timeout))
        if self._slots is None:
            space = description.observation_space
            memory = self._memory.create(ObservationSlots.size(space, self.num_envs))
            self._slots = ObservationSlots(space, self.num_envs, memory)
        self._number += 1
        worker.attach(self._number, self._memory.file_descriptor)
        self._value(worker.receive(self._number, self.worker_timeout))
        requests: list[tuple[str, tuple[Any, ...]]] = [("set_attr", item) for item in self._attributes[index].items()]
        if self._has_reset:
            requests.append(("reset", (1 - self._slot, self._derived_seed(index), None)))
        info = {}
        for command, args in requests:
            self._number += 1
            worker.send(Request(self._number, command, args))
            info = self._value(worker.receive(self._number, self.worker_timeout))
        return description, info

    def _derived_seed(self, index: int) -> int | None:
        seed = self._seeds[index]
        if seed is None:
            return None
        return int(np.random.SeedSequence((seed, self._restarts[index])).generate_state(1)[0])

    def _send(self, index: int, request: Request) -> None:
        if not self._is_answered_here(index, request):
            self._workers[index].send(request)

    def _receive(self, index: int, request: Request) -> Reply:
        while not self._is_answered_here(index, request):
            try:
                reply = self._workers[index].receive(request.number, self.worker_timeout)
            except _WorkerDiedError as death:
                self._restart(index, death)
                if not self._is_answered_here(index, request):
                    self._workers[index].send(request)
            else:
                self._deaths[index] = 0
                return self._note(index, request, reply)
        return self._report_restart(index, request)

    def _is_answered_here(self, index: int, request: Request) -> bool:
        return request.command in ("step", "autoreset") and self._pending[index] is not None

    def _value(self, reply: Reply) -> Any:
        if reply.error is not None:
            raise _with_cause(reply).error  # type: ignore[misc]
        return reply.value

    def _note(self, index: int, request: Request, reply: Reply) -> Reply:
        """Remember what a restart needs."""
        if reply.error is not None:
            return _with_cause(reply)
        if request.command == "set_attr":
            name, value = request.args
            self._attributes[index][name] = value
        elif request.command == "reset":
            pending, self._pending[index] = self._pending[index], None
            if pending is not None and not pending.is_reported:
                reply.value.update(_RESTARTED)
            self._last_infos[index] = reply.value
        elif request.command in ("step", "autoreset"):
            self._last_infos[index] = reply.value.info
        return reply

    def _restart(self, index: int, death: _WorkerDiedError) -> None:
        """Replace a dead worker and start an episode in the new one, for the next step to report."""
        self._bury(index, death)
        self._restarts[index] += 1
        self._workers[index] = self._launch(index)
        _, info = self._bring_up(index)
        if self._has_reset:
            last_info = {**self._last_infos[index], **_RESTARTED}
            if "executed_steps" in last_info:
                last_info["executed_steps"] = 0
            last_seen, first = (self.slots.row(slot, index) for slot in (self._slot, 1 - self._slot))
            # an earlier restart that no step has reported yet knows what the caller saw last
            pending = self._pending[index] or _Restart(last_seen, last_info, first, info)
            self._pending[index] = pending._replace(observation=first, info=info)

    def _report_restart(self, index: int, request: Request) -> Reply:
        """Answer a step on behalf of the worker that died."""
        restart, slot = self._pending[index], request.args[0]
        assert restart is not None
        self._last_infos[index] = restart.info
        if request.command == "autoreset":
            info = restart.info if restart.is_reported else {**restart.info, **_RESTARTED}
            self.slots.write(slot, index, restart.observation)
            self._pending[index] = None
            result = StepResult(0.0, False, False, info, None)
        elif request.args[2]:  # reset at the end of the episode
            self.slots.write_final(index, restart.last_observation)
            self.slots.write(slot, index, restart.observation)
            self._pending[index] = None
            result = StepResult(0.0, False, True, {**restart.info, **_RESTARTED}, restart.last_info)
        else:
            self.slots.write(slot, index, restart.last_observation)
            self._pending[index] = restart._replace(is_reported=True)
            result = StepResult(0.0, False, True, restart.last_info, None)
        return Reply(request.number, result)

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers; those that do not close their environments in time are killed."""
        self._finalizer()
        self._slots = None


class _SharedMemory:
    """Unnamed memory that other processes map through its file descriptor."""

    def __init__(self) -> None:
        self.file_descriptor = -1

    def create(self, size: int) -> mmap.mmap:
        self.file_descriptor = os.memfd_create("vla-gym-observations")
        os.ftruncate(self.file_descriptor, size)
        return mmap.mmap(self.file_descriptor, size)

    def close(self) -> None:
        """Close the descriptor; the memory exists as long as it is mapped."""
        if self.file_descriptor >= 0:
            os.close(self.file_descriptor)
            self.file_descriptor = -1


class _EnvWorker:
    """A worker process, seen from the process that sends requests."""

    def __init__(self, index: int, env_fn: bytes, n_envs: int, timeout: float, start_timeout: float) -> None:
        args = (index, env_fn, n_envs, dict(os.environ))
        self.process = ChildProcess(run_worker, args, f"vla-gym-env-{index}", timeout, start_timeout)
        self.pid = self.process.pid
        self._timeout = timeout
        self._sent_at = time.monotonic()

    def send(self, request: Request, timeout: float | None = None) -> None:
        self._sent_at = time.monotonic()
        self.process.send(request, self._sent_at + (self._timeout if timeout is None else timeout))

    def attach(self, number: int, memory: int) -> None:
        self.send(Request(number, "attach"))
        try:
            send_handle(self.process.channel, memory, self.pid)  # type: ignore[arg-type]
        except OSError:
            pass

    def receive(self, number: int, timeout: float) -> Reply:
        """Receive the reply to a request; late replies to interrupted calls are dropped."""
        while True:
            try:
                reply: Reply = self.process.receive(self._sent_at + timeout)
            except TimeoutError:
                raise _WorkerDiedError(f"(process {self.pid}) did not answer within {timeout:g} s") from None
            except ChildDiedError as death:
                raise _WorkerDiedError(f"(process {self.pid}) {death}") from None
            if reply.number == number:
                return reply

    def kill(self) -> None:
        self.process.kill()


def _with_cause(reply: Reply) -> Reply:
    if reply.error is not None and reply.trace:
        reply.error.__cause__ = WorkerTracebackError(f"\n{reply.trace}")
    return reply


def _shut_down(workers: list[_EnvWorker], memory: _SharedMemory, owner: int) -> None:
    """End all workers, unless this process was forked from their owner."""
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.send(Request(-1, "close"), timeout=0.0)
    wait_for_end([worker.process for worker in workers], _CLOSING_TIME)
    for worker in workers:
        worker.kill()
    workers.clear()
    memory.close()
