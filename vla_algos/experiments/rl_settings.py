"""Settings of a run of reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from vla_algos.experiments.names import check_algorithm, check_env_names, check_scheme, check_vla
from vla_algos.experiments.value_types import check_fields, check_range
from vla_gym.tasks.registry import N_INIT_STATES, get_suite


@dataclass(frozen=True)
class RLSettings:
    """
    What to train, how long, and how to judge it.

    :param algorithm: one of ``vla_algos.experiments.names.ALGORITHM_NAMES``
    :param vla: preset, shipped checkpoint, checkpoint folder or Hugging Face id
    :param env_id: the suite
    :param task_ids: its tasks; empty: all
    :param n_train_states: initial states 0..n-1 of each task are trained on
    :param n_envs: environments side by side, a process each
    :param total_timesteps: decisions to train on
    :param curriculum: keywords of :class:`vla_algos.curriculum.SuccessSampler`; None: starts are drawn evenly
    :param algorithm_kwargs: keywords of the algorithm; ``"lin_1.0e-4"`` falls from there to zero
    :param seed: of everything
    :param assets: asset pack
    :param render_quality: "fast" or "full"
    :param n_eval_states: initial states per task and evaluation; 0: no evaluation
    :raises SettingsError: for a value of the wrong type, or out of its range
    """

    may_differ: ClassVar[tuple[str, ...]] = ("n_eval_states", "total_timesteps")
    """Fields that may change when a run is resumed."""
    lists: ClassVar[tuple[str, ...]] = ("task_ids",)
    """Fields that JSON turns from tuples into lists."""
    seen_states: ClassVar[str] = "trained on"
    """Name of the initial states that training saw."""

    algorithm: str = "TokenPPO"
    vla: str = "compact-libero-goal"
    env_id: str = "LIBERO-Goal-v0"
    task_ids: tuple[int, ...] = ()
    n_train_states: int = 25
    n_envs: int = 16
    total_timesteps: int = 10_000
    curriculum: dict[str, Any] | None = None
    algorithm_kwargs: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    assets: str = "auto"
    render_quality: str = "fast"
    n_eval_states: int = 50

    def __post_init__(self) -> None:
        check_fields(self)
        for name, lowest, highest in (
            ("n_train_states", 1, N_INIT_STATES),
            ("n_envs", 1, None),
            ("total_timesteps", 1, None),
            ("seed", 0, None),
            ("n_eval_states", 0, N_INIT_STATES),
        ):
            check_range(name, getattr(self, name), lowest, highest)

    def check_names(self) -> None:
        """
        Look up every name that needs no model; torch is not imported.

        :raises UnknownNameError: for an algorithm, model, suite, task or render quality that does not exist
        :raises AssetsError: if the asset pack is missing
        """
        check_algorithm(self.algorithm)
        check_vla(self.vla)
        check_scheme(self.curriculum)
        check_env_names(self.env_id, self.task_ids, self.assets, self.render_quality)

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
        """Keywords of the policy."""
        return {"vla": self.vla, **self.algorithm_kwargs.get("policy_kwargs", {})}

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Keywords of the environment that the policy acts in."""
        # here, as it needs torch, which settings alone do not
        from vla_algos.policies import env_kwargs

        return {
            **env_kwargs(self.vla, self.policy_kwargs.get("unnorm_key")),
            "task_ids": list(self.tasks),
            "assets": self.assets,
            "render_quality": self.render_quality,
        }
