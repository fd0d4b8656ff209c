"""The process of one environment; it does not import the caller's script."""

from __future__ import annotations

import mmap
import os
import pickle
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

from vla_gym.errors import WorkerError
from vla_gym.processes.child import set_up_worker
from vla_gym.sim.opengl import share_out_rendering
from vla_gym.vector.observations import ObservationSlots
from vla_gym.vector.runner import EnvRunner, Reply, Request


def run_worker(connection: Connection, index: int, env_fn: bytes, n_envs: int, environment: Mapping[str, str]) -> None:
    """
    Make an environment and serve requests until told to close, or until the other side is gone.

    Protocol: the first reply is the description. The first request is ``attach``, followed by the file descriptor of
    the shared memory. Then every request gets one reply.

    :param connection: to the requesting process
    :param index: number of the environment
    :param env_fn: pickled function that makes the environment
    :param n_envs: number of environments that share the memory
    :param environment: environment variables of the requesting process
    """
    set_up_worker(environment)
    share_out_rendering(index, n_envs)
    try:
        runner = EnvRunner(pickle.loads(env_fn), index)
        description = runner.describe()
    except Exception as error:
        _send(connection, Reply(0, error=error))
        return
    _send(connection, Reply(0, description))
    try:
        _serve(connection, runner, n_envs)
    except (EOFError, ConnectionError):
        pass
    finally:
        runner.close()


def _serve(connection: Connection, runner: EnvRunner, n_envs: int) -> None:
    while True:
        request: Request = connection.recv()
        if request.command == "close":
            return
        if request.command == "attach":
            memory = _map_memory(recv_handle(connection))
            runner.attach(ObservationSlots(runner.env.observation_space, n_envs, memory))
            reply = Reply(request.number)
        else:
            reply = runner.answer(request)
        _send(connection, reply)


def _map_memory(file_descriptor: int) -> mmap.mmap:
    # the mapping has its own descriptor
    memory = mmap.mmap(file_descriptor, 0)
    os.close(file_descriptor)
    return memory


def _send(connection: Connection, reply: Reply) -> None:
    if reply.error is not None:
        trace = "".join(traceback.format_exception(reply.error))
        reply = reply._replace(error=_portable(reply.error), trace=trace)
    try:
        connection.send(reply)
    except ConnectionError:
        raise
    except Exception as error:  # a result that cannot be pickled
        message = f"The result of an environment's method cannot be sent to the asking process: {error}"
        connection.send(Reply(reply.number, error=WorkerError(message)))


def _portable(error: Exception) -> Exception:
    """Return the exception if it can be pickled, else a :class:`WorkerError` with its type and message."""
    try:
        twin = pickle.loads(pickle.dumps(error))
        if type(twin) is type(error) and str(twin) == str(error):
            return error
    except Exception:  # exception classes fail in any way they like when rebuilt from their arguments
        pass
    return WorkerError(f"{type(error).__name__}: {error}")
