"""Settings of a run, read from a recipe and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, get_type_hints

from vla_algos.errors import SettingsError, SpaceError, UnknownNameError
from vla_algos.experiments.components import Component, components, is_import_path
from vla_algos.experiments.names import (
    ALGORITHMS,
    PRESET_NAMES,
    check_algorithm,
    check_env_names,
    check_policy,
    check_scheme,
    check_vla,
)
from vla_algos.experiments.value_types import check_fields, check_range, check_value
from vla_gym.datasets.conventions import Conventions
from vla_gym.spec import AGENTVIEW
from vla_gym.tasks.registry import N_INIT_STATES, get_suite
from vla_gym.vector import BACKENDS

PRESET_CHUNK_SIZE = 8
"""Commands per decision of a model that starts from fresh weights, unless another number is asked for."""
WEIGHTS_DTYPES = ("float32", "bfloat16")

_BASE_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "vla": "vla",
        "revision": "revision",
        "seed": "seed",
        "env_id": "env.suite",
        "assets": "env.assets",
        "render_quality": "env.render_quality",
        "policy": "algorithm.policy",
        "n_eval_states": "evaluation.states",
        "n_envs": "resources.n_envs",
        "threads": "resources.threads",
        "device": "resources.device",
    }
)
_RL_KEYS: Mapping[str, str] = MappingProxyType(
    {
        **_BASE_KEYS,
        "total_timesteps": "total_timesteps",
        "task_ids": "env.tasks",
        "n_train_states": "env.train_states",
        "further_env_kwargs": "env.kwargs",
        "train_env_kwargs": "env.train_kwargs",
        "curriculum": "curriculum",
        "evaluate_before": "evaluation.before",
        "wrappers": "wrappers",
        "vec_wrappers": "vec_wrappers",
        "callbacks": "callbacks",
        "backend": "resources.backend",
    }
)
_SFT_KEYS: Mapping[str, str] = MappingProxyType(
    {
        **_BASE_KEYS,
        "epochs": "epochs",
        "chunk_size": "model.chunk_size",
        "image_size": "model.image_size",
        "cameras": "model.cameras",
        "use_proprio": "model.use_proprio",
        "lora": "model.lora",
        "keep_action_statistics": "model.keep_action_statistics",
        "weights_dtype": "model.weights_dtype",
        "frames_on_disk": "resources.frames_on_disk",
        "conventions": "conventions",
    }
)
"""Field -> where a recipe has it: section and key."""


@dataclass(frozen=True)
class ExperimentSettings:
    """
    Settings that reinforcement learning and supervised fine-tuning have in common.

    :param vla: preset, shipped checkpoint, checkpoint folder or Hugging Face id
    :param revision: branch, tag or commit of a model on the Hugging Face Hub; None: the main branch
    :param seed: of everything
    :param env_id: the suite
    :param assets: asset pack
    :param render_quality: "fast" or "full"
    :param algorithm: one of ``vla_algos.experiments.names.ALGORITHMS``, or an import path
    :param policy: "VLAPolicy", an import path, or a name that the algorithm knows
    :param algorithm_kwargs: further keywords of the algorithm; ``"lin_1.0e-4"`` is a rate that falls linearly to zero
    :param n_eval_states: initial states per task and evaluation; 0: no evaluation
    :param n_envs: environments side by side
    :param threads: number of torch's threads; None: torch's default
    :param device: of the model: "auto", "cpu", "cuda", ...
    :raises SettingsError: for a value of the wrong type, or out of its range
    """

    keys: ClassVar[Mapping[str, str]] = _BASE_KEYS
    """Field -> where a recipe has it."""
    may_differ: ClassVar[tuple[str, ...]] = ()
    """Fields that may change when a run is resumed."""
    lists: ClassVar[tuple[str, ...]] = ()
    """Fields that JSON turns from tuples into lists."""
    command: ClassVar[str] = "vla-rl train"
    """Command that runs these settings."""
    seen_states: ClassVar[str] = "trained on"
    """Name of the initial states that training saw."""

    vla: str = "compact-libero-goal"
    revision: str | None = None
    seed: int = 0
    env_id: str = "LIBERO-Goal-v0"
    assets: str = "auto"
    render_quality: str = "fast"
    algorithm: str = "TokenPPO"
    policy: str = "VLAPolicy"
    algorithm_kwargs: dict[str, Any] = field(default_factory=dict)
    n_eval_states: int = 50
    n_envs: int = 16
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        for name, lowest, highest in (("seed", 0, None), ("n_eval_states", 0, N_INIT_STATES), ("n_envs", 1, None)):
            check_range(name, getattr(self, name), lowest, highest)
        if self.threads is not None:
            check_range("threads", self.threads, 1)

    def check_names(self) -> None:
        """
        Look up every name that needs no model; torch is not imported, unless the user's own code imports it.

        :raises UnknownNameError: for an algorithm, policy, model, suite or render quality that does not exist
        :raises RecipeError: if the user's own code cannot be imported
        :raises AssetsError: if the asset pack is missing
        """
        check_algorithm(self.algorithm)
        check_policy(self.policy)
        check_vla(self.vla)
        check_env_names(self.env_id, None, self.assets, self.render_quality)

    @property
    def imported(self) -> list[str]:
        """Import paths of foreign code that a run of these settings imports and executes."""
        named = (self.algorithm, self.policy)
        return [path for path in named if path not in ALGORITHMS and is_import_path(path)]

    @property
    def vla_kwargs(self) -> dict[str, Any]:
        """Keywords of ``load_vla``."""
        return {} if self.revision is None else {"revision": self.revision}

    @classmethod
    def field_names(cls) -> list[str]:
        """Names of the fields."""
        return [each.name for each in dataclasses.fields(cls)]


@dataclass(frozen=True)
class RLSettings(ExperimentSettings):
    """
    What to train, how long, and how to evaluate it; see :class:`ExperimentSettings` for the rest.

    :param task_ids: tasks of the suite; empty: all
    :param n_train_states: initial states 0..n-1 of each task are trained on
    :param total_timesteps: decisions to train on
    :param curriculum: keywords of :class:`vla_algos.curriculum.SuccessSampler`; None: starts are drawn evenly
    :param evaluate_before: whether the checkpoint is evaluated before training, too
    :param further_env_kwargs: further keywords of the environment
    :param train_env_kwargs: more of them, in training only: observations that rewards or a critic read
    :param wrappers: of each environment, in training and evaluation, from the inside out: ``{import path: keywords}``
    :param vec_wrappers: of the vector environment, in training only, in the same form; rewards are changed here
    :param callbacks: of Stable-Baselines3, called in training, in the same form
    :param backend: one of ``vla_gym.vector.BACKENDS``
    """

    keys: ClassVar[Mapping[str, str]] = _RL_KEYS
    may_differ: ClassVar[tuple[str, ...]] = ("n_eval_states", "total_timesteps", "threads", "device", "backend")
    lists: ClassVar[tuple[str, ...]] = ("task_ids", "wrappers", "vec_wrappers", "callbacks")

    task_ids: tuple[int, ...] = ()
    n_train_states: int = 25
    total_timesteps: int = 10_000
    curriculum: dict[str, Any] | None = None
    evaluate_before: bool = True
    further_env_kwargs: dict[str, Any] = field(default_factory=dict)
    train_env_kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: tuple[dict[str, Any], ...] = ()
    vec_wrappers: tuple[dict[str, Any], ...] = ()
    callbacks: tuple[dict[str, Any], ...] = ()
    backend: str = "process"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("n_train_states", self.n_train_states, 1, N_INIT_STATES)
        check_range("total_timesteps", self.total_timesteps, 1)

    def check_names(self) -> None:
        """
        Check the names of the base class, and those of tasks, curriculum, back end, wrappers and callbacks.

        :raises UnknownNameError: for a name that does not exist
        :raises RecipeError: for a wrapper or callback that cannot be imported
        :raises AssetsError: if the asset pack is missing
        """
        super().check_names()
        check_scheme(self.curriculum)
        check_env_names(self.env_id, self.task_ids, self.assets, self.render_quality)
        if self.backend not in BACKENDS:
            raise UnknownNameError("backend", self.backend, BACKENDS)
        for component in self._components:
            component.check()

    @property
    def imported(self) -> list[str]:
        """Import paths of the base class, and those of wrappers and callbacks."""
        return [*super().imported, *(part.path for part in self._components)]

    @property
    def _components(self) -> list[Component]:
        return components((*self.wrappers, *self.vec_wrappers, *self.callbacks))

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
        from vla_algos.policies import env_kwargs_for

        return {
            **env_kwargs_for(
                self.vla, self.policy_kwargs.get("unnorm_key"), env_id=self.env_id, revision=self.revision
            ),
            "task_ids": list(self.tasks),
            "assets": self.assets,
            "render_quality": self.render_quality,
            **self.further_env_kwargs,
        }


@dataclass(frozen=True)
class SFTSettings(ExperimentSettings):
    """
    What to train, how long, and how to evaluate it; see :class:`ExperimentSettings` for the rest.

    ``env_id``, ``assets`` and ``render_quality`` should be those of the demonstrations.

    :param chunk_size: commands per decision; None: a checkpoint's own, ``PRESET_CHUNK_SIZE`` for a preset
    :param image_size: of a preset's images (px); frames are kept at this size, while a checkpoint resizes by itself
    :param cameras: of a preset; a checkpoint has its own
    :param use_proprio: whether a preset gets proprioception
    :param epochs: passes over the demonstrations
    :param lora: train adapters: keywords of :func:`vla_algos.models.lora.add_lora`; None: train all weights
    :param keep_action_statistics: keep the bins of the checkpoint; False: the action statistics of the demonstrations
        decide what the bins mean
    :param frames_on_disk: keep frames in a file instead of in memory
    :param conventions: of foreign demonstrations: keywords of :class:`vla_gym.datasets.conventions.Conventions`
    :param weights_dtype: type of the weights that are saved and evaluated: "float32" or "bfloat16"
    """

    keys: ClassVar[Mapping[str, str]] = _SFT_KEYS
    may_differ: ClassVar[tuple[str, ...]] = (
        "frames_on_disk",
        "weights_dtype",
        "assets",
        "render_quality",
        "n_eval_states",
        "n_envs",
        "threads",
        "device",
    )
    lists: ClassVar[tuple[str, ...]] = ("cameras",)
    command: ClassVar[str] = "vla-rl sft"
    seen_states: ClassVar[str] = "demonstrated"

    vla: str = "compact"
    algorithm: str = "BC"
    n_envs: int = 8
    chunk_size: int | None = None
    image_size: int = 96
    cameras: tuple[str, ...] = (AGENTVIEW,)
    use_proprio: bool = True
    epochs: float = 5.0
    lora: dict[str, Any] | None = None
    keep_action_statistics: bool = False
    frames_on_disk: bool = False
    weights_dtype: str = "float32"
    conventions: dict[str, Any] = field(default_factory=dict)

    def check_names(self) -> None:
        """
        Check the names of the base class, the type of the weights and the conventions.

        :raises UnknownNameError: for a name that does not exist
        :raises SettingsError: for a convention of the wrong type
        :raises AssetsError: if the asset pack is missing
        """
        super().check_names()
        if self.weights_dtype not in WEIGHTS_DTYPES:
            raise UnknownNameError("weights_dtype", self.weights_dtype, WEIGHTS_DTYPES)
        hints = get_type_hints(Conventions)
        for key, value in self.conventions.items():
            if key not in hints:
                raise UnknownNameError("convention", key, hints)
            check_value(f"conventions.{key}", value, hints[key])
        Conventions(**self.conventions)

    @property
    def is_preset(self) -> bool:
        """Whether training starts from fresh weights."""
        return self.vla in PRESET_NAMES

    @property
    def policy_kwargs(self) -> dict[str, Any]:
        """Keywords of the policy."""
        kwargs: dict[str, Any] = {"vla": self.vla, "lora": self.lora}
        if self.is_preset:
            changes: dict[str, Any] = {"image_size": self.image_size, "cameras": list(self.cameras)}
            if not self.use_proprio:
                changes["proprio_dim"] = 0
            kwargs["vla_kwargs"] = {"config_changes": changes}
        elif self.vla_kwargs:
            kwargs["vla_kwargs"] = self.vla_kwargs
        return kwargs

    def resolved(self) -> SFTSettings:
        """
        Fill in everything that the model decides.

        :return: settings with a ``chunk_size``, and for a checkpoint with its ``image_size``, ``cameras`` and
            ``use_proprio``
        :raises SettingsError: if a preset, which has no action statistics, is told to keep them
        :raises SpaceError: if a checkpoint has another ``chunk_size`` than these settings
        :raises UnknownNameError: if there is no such model
        :raises CheckpointError: if the checkpoint is missing, damaged or of another architecture
        """
        if self.is_preset:
            if self.keep_action_statistics:
                raise SettingsError(
                    f"keep_action_statistics is true, but {self.vla} starts from fresh weights and has none. "
                    "Leave it out, or name a checkpoint."
                )
            return replace(self, chunk_size=PRESET_CHUNK_SIZE if self.chunk_size is None else self.chunk_size)
        # here, as it needs torch, which settings alone do not
        from vla_algos.models.loading import load_info

        config = load_info(self.vla, self.revision).config
        if self.chunk_size not in (None, config.chunk_size):
            raise SpaceError(
                f"{self.vla} chooses {config.chunk_size} commands per decision, and cannot be trained with "
                f"chunk_size={self.chunk_size}. Leave chunk_size out."
            )
        return replace(
            self,
            chunk_size=config.chunk_size,
            image_size=config.image_size,
            cameras=tuple(config.cameras),
            use_proprio=config.proprio_dim > 0,
        )
