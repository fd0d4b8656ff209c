"""``make_vec``: vector environments by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from vla_gym.arguments import checked_int
from vla_gym.errors import InvalidArgumentError, UnknownNameError

if TYPE_CHECKING:
    from vla_gym.vector.base import VLAVectorEnv

EnvWrapper = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]
BACKENDS = {
    "sync": "vla_gym.vector.sync:SyncVectorEnv",
    "thread": "vla_gym.vector.thread:ThreadVectorEnv",
    "process": "vla_gym.vector.process:ProcessVectorEnv",
}
"""Back end -> class. To add one, write a subclass of ``VLAVectorEnv`` and add a row here."""


def make_vec(
    id: str | EnvSpec | Callable[..., gym.Env[Any, Any]],
    n_envs: int = 1,
    backend: str = "sync",
    *,
    vector_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[EnvWrapper] | None = None,
    wrapper_class: EnvWrapper | None = None,
    wrapper_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> VLAVectorEnv:
    """
    Make several copies of an environment, stepped as one.

    Same seed and actions give the same bits on every back end. Environments that the calling script registers or
    defines work on all of them.

    :param id: Gymnasium id, specification, or a class or function that makes an environment
    :param n_envs: number of copies
    :param backend: ``sync``: one after the other; ``thread``: one thread each; ``process``: one process each
    :param vector_kwargs: keywords of the back end's class: ``autoreset_mode``, ``copy``, with processes also
        ``worker_timeout`` and ``start_timeout``
    :param wrappers: applied to each environment in this order, as in ``gymnasium.make_vec``
    :param wrapper_class: one more wrapper, applied last, as in Stable-Baselines3's ``make_vec_env``
    :param wrapper_kwargs: keywords of ``wrapper_class``
    :param kwargs: keywords of ``gymnasium.make``, or of the class or function
    :return: the vector environment
    :raises UnknownNameError: for a back end that does not exist
    :raises InvalidArgumentError: for an argument of the wrong type, or ``n_envs`` below one
    :raises gymnasium.error.Error: for an id that is not registered
    """
    n_envs = checked_int("n_envs", n_envs, 1)
    backend_class = vector_env_class(backend)
    spec = gym.spec(id) if isinstance(id, str) else id if isinstance(id, EnvSpec) else None
    if spec is None and not callable(id):
        raise InvalidArgumentError(
            f"id is {id!r}; expected the id of a registered environment, its EnvSpec, or a class or function."
        )
    layers = _wrappers(wrappers, wrapper_class, wrapper_kwargs)
    make: Any = id if spec is None else partial(gym.make, _portable(spec), disable_env_checker=True)
    env = backend_class([partial(_make_wrapped, partial(make, **kwargs), layers)] * n_envs, **(vector_kwargs or {}))
    env.spec = spec
    return env


def _make_wrapped(make: Callable[[], gym.Env[Any, Any]], wrappers: Sequence[EnvWrapper]) -> gym.Env[Any, Any]:
    env = make()
    for wrapper in wrappers:
        env = wrapper(env)
    return env


def _wrappers(
    wrappers: Sequence[EnvWrapper] | None,
    wrapper_class: EnvWrapper | None,
    wrapper_kwargs: Mapping[str, Any] | None,
) -> list[EnvWrapper]:
    if wrappers is not None and (callable(wrappers) or isinstance(wrappers, (str, bytes))):
        raise InvalidArgumentError(f"wrappers is {wrappers!r}; expected a list of wrappers, like [RescaleAction].")
    layers = list(wrappers or ())
    if wrapper_class is not None:
        layers.append(partial(wrapper_class, **wrapper_kwargs) if wrapper_kwargs else wrapper_class)
    elif wrapper_kwargs:
        raise InvalidArgumentError("wrapper_kwargs is given without wrapper_class; name the class that takes them.")
    for wrapper in layers:
        if not callable(wrapper):
            raise InvalidArgumentError(
                f"Wrapper {wrapper!r} cannot be called; expected a class, or a function of the environment."
            )
    return layers


def _portable(spec: EnvSpec) -> EnvSpec:
    """Make a specification whose entry point also resolves in a process that does not import the caller's script."""
    spec = copy.deepcopy(spec)
    if isinstance(spec.entry_point, str) and spec.entry_point.startswith("__main__:"):
        spec.entry_point = load_env_creator(spec.entry_point)  # type: ignore[assignment]
    return spec


def vector_env_class(backend: str) -> type[VLAVectorEnv]:
    """
    Look up the class of a back end, which takes functions that make environments.

    :param backend: one of ``BACKENDS``
    :return: the class
    :raises UnknownNameError: for a back end that does not exist
    """
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    module, name = BACKENDS[backend].split(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]
