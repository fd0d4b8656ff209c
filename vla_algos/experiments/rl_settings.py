"""Settings of a run of reinforcement learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from vla_algos.experiments.names import check_env_names, check_scheme
from vla_algos.experiments.settings import BASE_KEYS, ExperimentSettings, components
from vla_algos.experiments.value_types import check_range
from vla_gym.errors import UnknownNameError
from vla_gym.tasks.registry import N_INIT_STATES, get_suite
from vla_gym.vector import BACKENDS

_KEYS: Mapping[str, str] = MappingProxyType(
    {
        **BASE_KEYS,
        "total_timesteps": "total_timesteps",
        "task_ids": "env.tasks",
        "n_train_states": "env.train_states",
        "further_env_kwargs": "env.kwargs",
        "curriculum": "curriculum",
        "wrappers": "wrappers",
        "vec_wrappers": "vec_wrappers",
        "backend": "resources.backend",
    }
)


@dataclass(frozen=True)
class RLSettings(ExperimentSettings):
    """
    What to train, how long, and how to evaluate it; see :class:`ExperimentSettings` for the rest.

    :param task_ids: tasks of the suite; empty: all
    :param n_train_states: initial states 0..n-1 of each task are trained on
    :param total_timesteps: decisions to train on
    :param curriculum: keywords of :class:`vla_algos.curriculum.SuccessSampler`; None: starts are drawn evenly
    :param further_env_kwargs: further keywords of the environment
    :param wrappers: of each environment, in training and evaluation, from the inside out: ``{import path: keywords}``
    :param vec_wrappers: of the vector environment, in training only, in the same form; rewards are changed here
    :param backend: one of ``vla_gym.vector.BACKENDS``
    """

    keys: ClassVar[Mapping[str, str]] = _KEYS
    may_differ: ClassVar[tuple[str, ...]] = ("n_eval_states", "total_timesteps", "threads", "device", "backend")
    lists: ClassVar[tuple[str, ...]] = ("task_ids", "wrappers", "vec_wrappers")

    task_ids: tuple[int, ...] = ()
    n_train_states: int = 25
    total_timesteps: int = 10_000
    curriculum: dict[str, Any] | None = None
    further_env_kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: tuple[dict[str, Any], ...] = ()
    vec_wrappers: tuple[dict[str, Any], ...] = ()
    backend: str = "process"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("n_train_states", self.n_train_states, 1, N_INIT_STATES)
        check_range("total_timesteps", self.total_timesteps, 1)

    def check_names(self) -> None:
        """
        As of the base class, with tasks, curriculum, back end and wrappers.

        :raises UnknownNameError: for a name that does not exist
        :raises RecipeError: for a wrapper that cannot be imported
        :raises AssetsError: if the asset pack is missing
        """
        super().check_names()
        check_scheme(self.curriculum)
        check_env_names(self.env_id, self.task_ids, self.assets, self.render_quality)
        if self.backend not in BACKENDS:
            raise UnknownNameError("backend", self.backend, BACKENDS)
        for component in components((*self.wrappers, *self.vec_wrappers)):
            component.check()

    @property
    def imported(self) -> list[str]:
        """As of the base class, with wrappers."""
        return [*super().imported, *(part.path for part in components((*self.wrappers, *self.vec_wrappers)))]

    @property
    def tasks(self) -> tuple[int, ...]:
        """The tasks trained on."""
        return self.task_ids or tuple(range(len(get_suite(self.env_id).tasks)))

    @property
    def seen(self) -> dict[int, set[int]]:
        """Per task, the initial states that training draws from."""
        return {task_id: set(range(self.n_train_states)) for task_id in self.tasks}

    @property
    def policy_kwargs(self) -> dict[str, Any]:
        """Keywords of a ``VLAPolicy``."""
        own = {"vla": self.vla, **({"vla_kwargs": self.vla_kwargs} if self.vla_kwargs else {})}
        return {**own, **self.algorithm_kwargs.get("policy_kwargs", {})}

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Keywords of the environment that the policy acts in."""
        # here, as it needs torch, which settings alone do not
        from vla_algos.policies import env_kwargs

        return {
            **env_kwargs(self.vla, self.policy_kwargs.get("unnorm_key"), env_id=self.env_id, revision=self.revision),
            "task_ids": list(self.tasks),
            "assets": self.assets,
            "render_quality": self.render_quality,
            **self.further_env_kwargs,
        }
