"""Vector environments of ``vla_gym`` as Stable-Baselines3 wants them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from vla_gym.vector.base import derive_seeds


class SB3VecEnv(VecEnv):
    """
    A vector environment of ``vla_gym.make_vec`` behind SB3's interface.

    Observations are handed on without a copy: a batch holds until the next but one step. That is what SB3's algorithms
    need, which store a batch right after the step that followed it, and copy it then. Code that keeps batches longer
    makes its vector environment with ``copy=True``.

    ``info["TimeLimit.truncated"]``, by which SB3 bootstraps, is not set where an episode is broken (:func:`is_broken`).

    :param venv: vector environment that resets in the step that ends an episode, wrappers around it included
    :raises TypeError: if it was not made by ``vla_gym``
    :raises ValueError: if it resets otherwise
    """

    def __init__(self, venv: VectorEnv) -> None:
        if not isinstance(venv, VectorEnv) or not hasattr(venv.unwrapped, "call_some"):
            raise TypeError(f"Expected a vector environment of vla_gym.make_vec, got {venv}. Make it with make_vec.")
        mode = venv.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f"The vector environment has autoreset_mode={mode}; SB3 needs {AutoresetMode.SAME_STEP}: leave "
                "autoreset_mode out of make_vec's vector_kwargs."
            )
        self.venv = venv
        self._actions: Any = None
        self._step_only: list[int] | None = None
        self._last_infos: list[dict[str, Any]] = [{}] * venv.num_envs
        super().__init__(venv.num_envs, venv.single_observation_space, venv.single_action_space)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        Seed the environments, from the next reset on.

        :param seed: of all; None: drawn from NumPy's generator
        :return: what each of them gets, see ``vla_gym.vector.base.derive_seeds``
        """
        if seed is None:
            seed = int(np.random.randint(0, np.iinfo(np.uint32).max, dtype=np.uint32))
        self._seeds = list(derive_seeds(seed, self.num_envs))
        return self._seeds

    def reset(self) -> VecEnvObs:
        """
        Start an episode everywhere, with what ``seed`` and ``set_options`` left for it.

        :return: observations, (N, ...)
        """
        names = {name for options in self._options for name in options}
        options = {name: [each.get(name) for each in self._options] for name in names}
        observations, infos = self.venv.reset(seed=self._seeds, options=options or None)  # type: ignore[arg-type]
        self.reset_infos = [info_of(infos, i) for i in range(self.num_envs)]
        self._last_infos = list(self.reset_infos)
        self._step_only = None
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """
        Note the actions of the step.

        :param actions: (N, ...)
        """
        self._actions = actions

    def step_only(self, indices: Sequence[int] | np.ndarray) -> None:
        """
        Leave all other environments out of the next step, and do not restart those whose episode ends in it.

        The batch keeps its size, so wrappers around this environment work as ever. Environments left out keep their
        last observation; their reward is 0, they are not done, and their info is the last one, with ``is_idle`` set
        and no ``executed_steps``. An environment whose episode ended needs ``reset()`` before its next step.

        Gymnasium vector wrappers below this environment step all environments: then this call changes nothing.

        :param indices: environments to step
        """
        if self.venv.unwrapped is self.venv and hasattr(self.venv, "step_some"):
            self._step_only = [int(i) for i in indices]

    def step_wait(self) -> VecEnvStepReturn:
        """Observations (N, ...), rewards (N,) float32, dones (N,) and the info of each environment."""
        stepped, self._step_only = self._step_only, None
        if stepped is None:
            observations, rewards, terminations, truncations, batched = self.venv.step(self._actions)
        else:
            step_some = self.venv.step_some  # type: ignore[attr-defined]
            observations, rewards, terminations, truncations, batched = step_some(
                stepped, self._actions[stepped], autoreset=False
            )
        dones = np.logical_or(terminations, truncations)
        infos = []
        for i in range(self.num_envs):
            if stepped is not None and i not in stepped:
                infos.append(self._idle_info(i))
                continue
            info = info_of(batched, i)
            if dones[i] and stepped is not None:
                info["terminal_observation"] = _row(observations, i)
            elif dones[i]:
                ended = {**info.pop("final_info"), "terminal_observation": info.pop("final_obs")}
                if "episode" in info:  # figures of the episode that ended, from Gymnasium's RecordEpisodeStatistics
                    ended["episode"] = info.pop("episode")
                self.reset_infos[i], info = info, ended
            # a broken episode ends in a state that no policy was in, whose value says nothing
            is_at_limit = truncations[i] and not terminations[i] and not is_broken(info)
            info["TimeLimit.truncated"] = bool(is_at_limit)
            infos.append(info)
        self._last_infos = infos
        return observations, rewards.astype(np.float32), dones, infos

    def _idle_info(self, index: int) -> dict[str, Any]:
        """Last info of an environment that was left out, without what would be counted again."""
        info = {key: value for key, value in self._last_infos[index].items() if key != "terminal_observation"}
        if "executed_steps" in info:
            info["executed_steps"] = 0
        return {**info, "TimeLimit.truncated": False, "is_idle": True}

    def close(self) -> None:
        """Close the environments."""
        self.venv.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The image of each environment, (H, W, 3) uint8."""
        if self.render_mode != "rgb_array":
            warnings.warn(f"render_mode is {self.render_mode!r}; images need 'rgb_array'.", stacklevel=2)
            return [None] * self.num_envs
        return [np.asarray(image) for image in self.venv.render() or ()]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        Read an attribute.

        :param attr_name: its name
        :param indices: environments; None: all
        :return: one value each
        """
        return self.env_method("get_wrapper_attr", attr_name, indices=indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute to the same value everywhere.

        :param attr_name: its name
        :param value: its value
        :param indices: environments; None: all
        """
        self.env_method("set_wrapper_attr", attr_name, value, indices=indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list:
        """
        Call a method.

        :param method_name: its name
        :param method_args: arguments
        :param indices: environments; None: all
        :param method_kwargs: keyword arguments
        :return: one result each
        """
        call = self.venv.unwrapped.call_some  # type: ignore[attr-defined]
        return list(call(self._get_indices(indices), method_name, *method_args, **method_kwargs))

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        Whether environments are wrapped.

        :param wrapper_class: class of the wrapper
        :param indices: environments; None: all
        :return: one answer each
        """
        # compared by name: workers need not import what the class is made of
        wanted = f"{wrapper_class.__module__}.{wrapper_class.__qualname__}"
        names = self.venv.unwrapped.class_names()  # type: ignore[attr-defined]
        return [wanted in names[i] for i in self._get_indices(indices)]


def seed_environments(env: VecEnv, seed: int) -> None:
    """
    Seed any vector environment of SB3 as :class:`SB3VecEnv` does, instead of by counting on from the seed.

    :param env: the environment, wrappers around it included; one with a ``seed`` of its own is left to that
    :param seed: of all its environments
    """
    env.seed(seed)
    innermost = env.unwrapped
    if type(innermost).seed is VecEnv.seed:
        innermost._seeds = list(derive_seeds(seed, innermost.num_envs))


def announce_training(env: VecEnv, gamma: float, is_limit_end: bool) -> None:
    """
    Tell wrappers what will learn from their rewards. Those with a method ``check_training`` are told, and may refuse.

    :param env: environment to train in; each such wrapper gets it, to see what is around itself
    :param gamma: discount of the algorithm, per decision
    :param is_limit_end: whether a time limit is worth nothing, like an end of the task; False: it is bootstrapped
    """
    layer = env
    while isinstance(layer, VecEnvWrapper):
        # by the class, as a wrapper forwards attributes of those below it
        if hasattr(type(layer), "check_training"):
            layer.check_training(env, gamma, is_limit_end)
        layer = layer.venv


def as_vec_env(env: Any) -> Any:
    """
    Present a Gymnasium vector environment to SB3, with the figures of finished episodes; leave anything else alone.

    :param env: environment of any kind
    :return: ``VecMonitor(SB3VecEnv(env))`` for a vector environment, else ``env`` itself
    """
    return VecMonitor(SB3VecEnv(env)) if isinstance(env, VectorEnv) else env


def is_broken(info: Mapping[str, Any]) -> bool:
    """
    Tell whether an episode broke off: its physics diverged, or its worker had to be restarted. No policy did that.

    Such an end is neither a failure nor a time limit.

    :param info: of the step that ended the episode
    """
    return bool(info.get("unstable") or info.get("worker_restarted"))


def info_of(infos: dict[str, Any], index: int) -> dict[str, Any]:
    """
    One environment's part of Gymnasium's batched infos.

    :param infos: arrays (N, ...) or dictionaries of them, mostly with a mask (N,) under its name with ``_`` in front
    :param index: the environment
    :return: its info
    """
    info = {}
    for name, values in infos.items():
        is_mask = name.startswith("_") and name[1:] in infos
        mask = infos.get(f"_{name}")
        if not is_mask and (mask is None or mask[index]):
            info[name] = info_of(values, index) if isinstance(values, dict) else values[index]
    return info


def _row(observations: Any, index: int) -> Any:
    """A copy of one environment's observation."""
    if isinstance(observations, dict):
        return {name: array[index].copy() for name, array in observations.items()}
    return observations[index].copy()
