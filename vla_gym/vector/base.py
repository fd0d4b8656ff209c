"""Base class of the vector environments; a back end decides where the environments run."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

from vla_gym.errors import SnapshotError, UnknownNameError
from vla_gym.type_aliases import BoolArray, Float64Array
from vla_gym.vector.observations import ObservationSlots
from vla_gym.vector.runner import Description, Reply, Request, StepResult

AUTORESET_MODES = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)
EnvFns = Sequence[Callable[[], gym.Env[Any, Any]]]


def derive_seeds(seed: int, n: int) -> list[int]:
    """
    Derive the seeds of a run's environments, independent of those of other runs.

    With ``seed + i``, the runs with seeds 0 and 1 would share all environments but one.

    :param seed: of the run, at least 0
    :param n: number of environments
    :return: 32 bits each, from ``numpy.random.SeedSequence([seed, i])``
    """
    return [int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) for i in range(n)]


class VLAVectorEnv(VectorEnv[Any, Any, Any]):
    """
    Step N environments as one; the same seed and actions give the same bits on every back end.

    **Observations are views** of two alternating slots: the observations that ``reset`` or ``step`` returns are valid
    until the second call after it, which overwrites them. Copy them to keep them longer, or pass ``copy=True``.
    ``infos["final_obs"]`` contains copies.

    **Episodes** restart automatically. ``SAME_STEP``: in the step that ends them; the last observation and info are in
    ``infos["final_obs"]`` and ``infos["final_info"]``. ``NEXT_STEP``: in the following step, which ignores the action.

    **Partial steps**: ``step_some`` steps some environments and leaves the others alone.

    ``reset(seed=s)`` derives a seed for each environment from ``s`` (:func:`derive_seeds`); a list gives them directly.
    In ``reset(options=...)`` a list, tuple or array has one value per environment (None: that environment does not get
    the option); any other value goes to all.

    An exception in an environment is raised unchanged after all environments have answered. The results of the others
    are lost; they can be stepped or reset afterwards.

    :param env_fns: functions that make one environment each, all with the same spaces
    :param autoreset_mode: ``SAME_STEP`` or ``NEXT_STEP`` of ``gymnasium.vector.AutoresetMode``, or its value
    :param copy: return copies of observations
    :raises UnknownNameError: for any other mode
    :raises ValueError: without environments, or if they differ in their spaces
    """

    snapshot_kind = "vla_gym.vector"

    def __init__(
        self,
        env_fns: EnvFns,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        copy: bool = False,
    ) -> None:
        if len(env_fns) == 0:
            raise ValueError("The vector environment has no environments; expected at least one.")
        if autoreset_mode not in (*AUTORESET_MODES, *(mode.value for mode in AUTORESET_MODES)):
            raise UnknownNameError("autoreset_mode", autoreset_mode, [mode.value for mode in AUTORESET_MODES])
        self.env_fns = tuple(env_fns)
        self.num_envs = len(self.env_fns)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.copy = copy
        self._slots: ObservationSlots | None = None
        self._slot = 0
        self._number = 0
        self._has_reset = False
        # NEXT_STEP only: the next step starts a new episode
        self._is_over = np.zeros(self.num_envs, dtype=np.bool_)
        # the episode ended in a step without autoreset
        self._needs_reset = np.zeros(self.num_envs, dtype=np.bool_)
        self._seeds: list[int | None] = [None] * self.num_envs
        try:
            self._describe(self._start())
        except BaseException:
            self.close()
            raise

    def _describe(self, descriptions: Sequence[Description]) -> None:
        first = descriptions[0]
        for i, other in enumerate(descriptions):
            if (other.observation_space, other.action_space) != (first.observation_space, first.action_space):
                raise ValueError(
                    f"Environment {i} has spaces {other.observation_space}, {other.action_space}; expected those of "
                    f"environment 0: {first.observation_space}, {first.action_space}."
                )
        self.single_observation_space, self.single_action_space = first.observation_space, first.action_space
        self.observation_space = batch_space(first.observation_space, self.num_envs)
        self.action_space = batch_space(first.action_space, self.num_envs)
        self.metadata = {**first.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = first.render_mode

    @abstractmethod
    def _start(self) -> Sequence[Description]:
        """Make the environments and ``_slots``; on an error ``close`` is called."""

    @abstractmethod
    def _send(self, index: int, request: Request) -> None:
        """Send a request to an environment without waiting."""

    @abstractmethod
    def _receive(self, index: int, request: Request) -> Reply:
        """Wait for the reply to a request."""

    def _exchange(self, requests: Mapping[int, tuple[Any, ...]]) -> dict[int, Reply]:
        """
        Send requests to several environments and wait for all replies.

        :param requests: command and arguments by environment
        :return: replies in the same order
        """
        if self.closed:
            raise gym.error.ClosedEnvironmentError("The vector environment is closed; make a new one.")
        self._number += 1
        numbered = {i: Request(self._number, command, tuple(args)) for i, (command, *args) in requests.items()}
        for i, request in numbered.items():
            self._send(i, request)
        return {i: self._receive(i, request) for i, request in numbered.items()}

    def _values(self, replies: Mapping[int, Reply]) -> list[Any]:
        for reply in replies.values():
            if reply.error is not None:
                raise reply.error
        return [reply.value for reply in replies.values()]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """
        Start an episode in every environment.

        :param seed: seed from which those of the environments are derived, or a list of them
        :param options: options of the environments' ``reset``; lists, tuples and arrays have one value for each
        :return: observations (N, ...), infos
        :raises ValueError: if a list does not have N entries
        """
        seeds = self._split_seed(seed)
        self._seeds = [old if new is None else new for old, new in zip(self._seeds, seeds, strict=True)]
        slot = 1 - self._slot
        each = self._split_options(options)
        infos = self._values(self._exchange({i: ("reset", slot, seeds[i], each[i]) for i in range(self.num_envs)}))
        self._has_reset = True
        self._is_over[:] = self._needs_reset[:] = False
        batched: dict[str, Any] = {}
        for i, info in enumerate(infos):
            batched = self._add_info(batched, info, i)
        return self._observations(slot), batched

    def step(self, actions: Any) -> tuple[Any, Float64Array, BoolArray, BoolArray, dict[str, Any]]:
        """
        Execute one action in every environment.

        :param actions: (N, ...), element of ``action_space``
        :return: observations (N, ...), rewards (N,) float64, terminations (N,), truncations (N,), infos
        :raises ValueError: if there are not N actions
        """
        return self._step_some(range(self.num_envs), actions, autoreset=True)

    def step_some(
        self, indices: Iterable[int], actions: Any, autoreset: bool = True
    ) -> tuple[Any, Float64Array, BoolArray, BoolArray, dict[str, Any]]:
        """
        Execute one action in some of the environments and leave the others alone.

        Stepped environments give the same bits as in a step of all. The others keep their last observation, with reward
        0, no termination, no truncation and no info.

        :param indices: environments to step, K different numbers
        :param actions: (K, ...), in the order of ``indices``
        :param autoreset: restart environments whose episode ends, as ``autoreset_mode`` says. False: leave them at
            their last observation, without ``final_obs`` and ``final_info``; their next step needs ``reset()`` first
        :return: same as :meth:`step`, for all N environments
        :raises ValueError: if there are not K actions, or a number comes twice
        :raises IndexError: if a number is out of range
        """
        every = range(self.num_envs)
        chosen = [every[int(i)] for i in indices]
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"Indices {chosen} name an environment twice; a step executes one action in each.")
        return self._step_some(chosen, actions, autoreset)

    def _step_some(
        self, indices: Sequence[int], actions: Any, autoreset: bool
    ) -> tuple[Any, Float64Array, BoolArray, BoolArray, dict[str, Any]]:
        if not self._has_reset:
            raise gym.error.ResetNeeded("Call reset() before step().")
        rows = list(iterate(self.action_space, actions))
        if len(rows) != len(indices):
            raise ValueError(f"Got {len(rows)} actions for {len(indices)} environments.")
        if self._needs_reset[indices].any():
            left = [i for i in indices if self._needs_reset[i]]
            raise gym.error.ResetNeeded(
                f"The episodes of environments {left} ended in a step with autoreset=False. Call reset() first."
            )
        slot = 1 - self._slot
        for i in set(range(self.num_envs)).difference(indices):
            self.slots.repeat(slot, i)
        is_reset_at_end = autoreset and self.autoreset_mode is AutoresetMode.SAME_STEP
        replies = self._exchange(
            {
                i: ("autoreset", slot) if self._is_over[i] else ("step", slot, row, is_reset_at_end)
                for i, row in zip(indices, rows, strict=True)
            }
        )
        for i, reply in replies.items():
            if reply.error is None:
                is_over = not is_reset_at_end and (reply.value.terminated or reply.value.truncated)
                self._is_over[i] = is_over and autoreset
                self._needs_reset[i] = is_over and not autoreset
        results: list[StepResult] = self._values(replies)
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        terminations, truncations = np.zeros((2, self.num_envs), dtype=np.bool_)
        infos: dict[str, Any] = {}
        for i, result in zip(indices, results, strict=True):
            if result.final_info is not None:
                final = {"final_obs": self.slots.final(i), "final_info": result.final_info}
                infos = self._add_info(infos, final, i)
            infos = self._add_info(infos, result.info, i)
            rewards[i], terminations[i], truncations[i] = result.reward, result.terminated, result.truncated
        return self._observations(slot), rewards, terminations, truncations, infos

    def render(self) -> tuple[Any, ...]:
        """Render every environment, (H, W, 3) uint8 each, or ``None`` without a render mode."""
        return self.call("render")

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """
        Call a method, or read an attribute, of every environment.

        :param name: its name
        :param args: arguments
        :param kwargs: keyword arguments
        :return: one result per environment
        """
        return self.call_some(range(self.num_envs), name, *args, **kwargs)

    def call_some(self, indices: Iterable[int], name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """
        Call a method, or read an attribute, of some of the environments.

        :param indices: which ones
        :param name: its name
        :param args: arguments
        :param kwargs: keyword arguments
        :return: one result per index
        """
        every = range(self.num_envs)
        return tuple(self._values(self._exchange({every[i]: ("call", name, args, kwargs) for i in indices})))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """
        Read an attribute of every environment.

        :param name: its name
        :return: one value per environment
        """
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """
        Set an attribute of every environment.

        :param name: its name
        :param values: a list or tuple with one value for each, or one value for all
        :raises ValueError: if the list does not have N entries
        """
        each = self._one_each(name, values) if isinstance(values, (list, tuple)) else [values] * self.num_envs
        self._values(self._exchange({i: ("set_attr", name, value) for i, value in enumerate(each)}))

    def snapshot(self) -> dict[str, Any] | None:
        """
        Take a snapshot of all environments and their wrappers in mid-episode, for :meth:`restore` on any back end.

        :return: plain data; None if an environment does not offer ``snapshot()`` and ``restore(snapshot)``
        """
        envs = self._values(self._exchange({i: ("snapshot",) for i in range(self.num_envs)}))
        if any(env is None for env in envs):
            return None
        return {
            "envs": envs,
            "seeds": list(self._seeds),
            "has_reset": self._has_reset,
            "is_over": self._is_over.copy(),
            "needs_reset": self._needs_reset.copy(),
            "observations": copy.deepcopy(self.slots.batch(self._slot)),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> Any:
        """
        Resume from a snapshot, to the bit.

        :param snapshot: of a vector environment with the same environments
        :return: the observations of that moment, (N, ...)
        :raises SnapshotError: if it has another number of environments or other observations, or an environment refuses
            its part
        """
        observations = snapshot["observations"]
        if len(snapshot["envs"]) != self.num_envs:
            raise SnapshotError(f"The snapshot is of {len(snapshot['envs'])} environments; there are {self.num_envs}.")
        found, expected = (_layout(batch) for batch in (observations, self.slots.batch(self._slot)))
        if found != expected:
            raise SnapshotError(
                f"The snapshot has observations {found}; expected {expected}, those of this environment."
            )
        self._values(self._exchange({i: ("restore", env) for i, env in enumerate(snapshot["envs"])}))
        self._seeds = list(snapshot["seeds"])
        self._has_reset = bool(snapshot["has_reset"])
        self._is_over[:] = snapshot["is_over"]
        self._needs_reset[:] = snapshot["needs_reset"]
        slot = 1 - self._slot
        for i in range(self.num_envs):
            is_dict = isinstance(observations, Mapping)
            row = {name: array[i] for name, array in observations.items()} if is_dict else observations[i]
            self.slots.write(slot, i, row)
        return self._observations(slot)

    def class_names(self) -> tuple[tuple[str, ...], ...]:
        """List ``module.Class`` of each environment, its wrappers, and all their base classes."""
        return tuple(self._values(self._exchange({i: ("class_names",) for i in range(self.num_envs)})))

    @property
    def slots(self) -> ObservationSlots:
        """Storage of the observations."""
        if self._slots is None:
            raise gym.error.ClosedEnvironmentError("The vector environment is closed; make a new one.")
        return self._slots

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Random generator of each environment; copies, if they run in processes."""
        return self.get_attr("np_random")

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Seed of each environment's generator."""
        return self.get_attr("np_random_seed")

    def _observations(self, slot: int) -> Any:
        self._slot = slot
        batch = self.slots.batch(slot)
        return copy.deepcopy(batch) if self.copy else batch

    def _split_seed(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return list(derive_seeds(int(seed), self.num_envs))
        return [None if s is None else int(s) for s in self._one_each("seed", seed)]

    def _split_options(self, options: dict[str, Any] | None) -> list[dict[str, Any] | None]:
        if options is None:
            return [None] * self.num_envs
        each: list[dict[str, Any] | None] = []
        split = {
            name: self._one_each(f"option {name!r}", value)
            if isinstance(value, (list, tuple)) or np.ndim(value) > 0
            else [value] * self.num_envs
            for name, value in options.items()
        }
        for i in range(self.num_envs):
            each.append({name: values[i] for name, values in split.items() if values[i] is not None})
        return each

    def _one_each(self, name: str, values: Sequence[Any]) -> Sequence[Any]:
        if len(values) != self.num_envs:
            raise ValueError(f"{name} has {len(values)} values for {self.num_envs} environments; expected one each.")
        return values


def _layout(observations: Any) -> dict[str, tuple[Any, ...]]:
    """Describe shape and dtype of each array of a batch."""
    arrays = observations if isinstance(observations, Mapping) else {"": observations}
    return {name: (np.shape(array), str(np.asarray(array).dtype)) for name, array in arrays.items()}
