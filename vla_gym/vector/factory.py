"""``make_vec``: vector environments by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from vla_gym.errors import UnknownNameError

if TYPE_CHECKING:
    from vla_gym.vector.base import VLAVectorEnv

BACKENDS = {
    "sync": "vla_gym.vector.sync:SyncVectorEnv",
    "thread": "vla_gym.vector.thread:ThreadVectorEnv",
    "process": "vla_gym.vector.process:ProcessVectorEnv",
}
"""Where each back end is; a further one is a row here and a file with a subclass of ``VLAVectorEnv``."""


def make_vec(
    id: str,
    n_envs: int = 1,
    backend: str = "sync",
    *,
    vector_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> VLAVectorEnv:
    """
    Several copies of an environment, stepped as one.

    Same seed and actions give the same bits on every back end.

    :param id: Gymnasium id of the environment
    :param n_envs: number of copies
    :param backend: ``sync``: one after the other; ``thread``: one thread each; ``process``: one process each
    :param vector_kwargs: keywords of the back end's class: ``autoreset_mode``, ``copy``, with processes also
        ``worker_timeout`` and ``start_timeout``
    :param kwargs: keywords of ``gymnasium.make``
    :return: the vector environment
    :raises UnknownNameError: for a back end that does not exist
    :raises ValueError: if ``n_envs`` is below one
    """
    if n_envs < 1:
        raise ValueError(f"n_envs is {n_envs}; expected at least 1.")
    env_fn = partial(gym.make, id, **{"disable_env_checker": True, **kwargs})
    env = vector_env_class(backend)([env_fn] * n_envs, **(vector_kwargs or {}))
    env.spec = gym.spec(id)
    return env


def vector_env_class(backend: str) -> type[VLAVectorEnv]:
    """
    Class of a back end, to be called with makers of environments.

    :param backend: one of ``BACKENDS``
    :return: the class
    :raises UnknownNameError: for a back end that does not exist
    """
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    module, name = BACKENDS[backend].split(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]
