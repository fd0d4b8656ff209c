"""Requests of a vector environment to one environment, answered in the same way on every back end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium import spaces

from vla_gym.snapshots import restore_snapshot, take_snapshot
from vla_gym.vector.observations import ObservationSlots


class Description(NamedTuple):
    """Spaces, metadata and render mode of an environment."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    metadata: dict[str, Any]
    render_mode: str | None


class Request(NamedTuple):
    """A method of ``EnvRunner`` and its arguments; replies are matched to requests by ``number``."""

    number: int
    command: str
    args: tuple[Any, ...] = ()


class Reply(NamedTuple):
    """Reply to the request with the same number: a value or an exception, with its traceback from another process."""

    number: int
    value: Any = None
    error: Exception | None = None
    trace: str = ""


class StepResult(NamedTuple):
    """Result of a step; ``final_info`` is that of the episode that ended, if the environment was reset at once."""

    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    final_info: dict[str, Any] | None


class EnvRunner:
    """
    Run one environment and write its observations to the batch.

    :param env_fn: function that makes the environment
    :param index: its number in the batch
    """

    def __init__(self, env_fn: Callable[[], gym.Env[Any, Any]], index: int) -> None:
        self.env = env_fn()
        self._index = index
        self._slots: ObservationSlots | None = None

    def describe(self) -> Description:
        """Return spaces, metadata and render mode."""
        env = self.env
        return Description(env.observation_space, env.action_space, dict(env.metadata), env.render_mode)

    def attach(self, slots: ObservationSlots) -> None:
        """
        Set where observations are written.

        :param slots: storage of the batch
        """
        self._slots = slots

    @property
    def slots(self) -> ObservationSlots:
        """Storage of the batch."""
        if self._slots is None:
            raise RuntimeError("The environment has nowhere to write its observations yet; call attach() first.")
        return self._slots

    def answer(self, request: Request) -> Reply:
        """
        Carry out a request.

        :param request: names one of the methods below
        :return: its result, or the exception that it raised
        """
        try:
            return Reply(request.number, getattr(self, request.command)(*request.args))
        except Exception as error:
            return Reply(request.number, error=error)

    def reset(self, slot: int, seed: int | None, options: dict[str, Any] | None) -> dict[str, Any]:
        """
        Start an episode.

        :param slot: where the observation goes
        :param seed: seed of the environment
        :param options: options of the environment's ``reset``
        :return: info
        """
        observation, info = self.env.reset(seed=seed, options=options)
        self.slots.write(slot, self._index, observation)
        return info

    def autoreset(self, slot: int) -> StepResult:
        """
        Start the next episode in place of a step.

        :param slot: where the observation goes
        :return: a step without reward
        """
        return StepResult(0.0, False, False, self.reset(slot, None, None), None)

    def step(self, slot: int, action: Any, is_reset_at_end: bool) -> StepResult:
        """
        Execute an action.

        :param slot: where the observation goes
        :param action: element of the environment's action space
        :param is_reset_at_end: whether to start the next episode at once when this one ends
        :return: the step
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        final_info = None
        if is_reset_at_end and (terminated or truncated):
            self.slots.write_final(self._index, observation)
            final_info = info
            observation, info = self.env.reset()
        self.slots.write(slot, self._index, observation)
        return StepResult(float(reward), bool(terminated), bool(truncated), info, final_info)

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """
        Call a method, or read an attribute, of the environment or of a wrapper around it.

        :param name: its name
        :param args: arguments
        :param kwargs: keyword arguments
        :return: the result
        """
        attribute = self.env.get_wrapper_attr(name)
        return attribute(*args, **kwargs) if callable(attribute) else attribute

    def set_attr(self, name: str, value: Any) -> None:
        """
        Set an attribute of the environment, or of the wrapper that has it.

        :param name: its name
        :param value: its value
        """
        self.env.set_wrapper_attr(name, value)

    def snapshot(self) -> list[dict[str, Any]] | None:
        """Take a snapshot of the environment and its wrappers; None if it does not offer one."""
        return take_snapshot(self.env)

    def restore(self, snapshot: list[dict[str, Any]]) -> None:
        """
        Restore a snapshot.

        :param snapshot: of an environment with the same wrappers
        """
        restore_snapshot(self.env, snapshot)

    def class_names(self) -> tuple[str, ...]:
        """List ``module.Class`` of the environment, its wrappers, and all their base classes."""
        layers: list[Any] = [self.env]
        while isinstance(layers[-1], gym.Wrapper):
            layers.append(layers[-1].env)
        return tuple(f"{cls.__module__}.{cls.__qualname__}" for layer in layers for cls in type(layer).__mro__)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
