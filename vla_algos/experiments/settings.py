"""Settings that every kind of run has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from vla_algos.errors import SettingsError
from vla_algos.experiments.components import Component, anchored, is_import_path
from vla_algos.experiments.names import ALGORITHMS, check_algorithm, check_env_names, check_policy, check_vla
from vla_algos.experiments.value_types import check_fields, check_range
from vla_gym.tasks.registry import N_INIT_STATES

BASE_KEYS: Mapping[str, str] = MappingProxyType(
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
"""Field -> where a recipe has it: section and key."""


@dataclass(frozen=True)
class ExperimentSettings:
    """
    What reinforcement learning and supervised fine-tuning have in common.

    :param vla: preset, shipped checkpoint, checkpoint folder or Hugging Face id
    :param revision: branch, tag or commit of a model on the Hugging Face Hub; None: the main branch
    :param seed: of everything
    :param env_id: the suite
    :param assets: asset pack
    :param render_quality: "fast" or "full"
    :param algorithm: one of ``vla_algos.experiments.names.ALGORITHMS``, or an import path
    :param policy: "VLAPolicy", an import path, or a name that the algorithm knows
    :param algorithm_kwargs: further keywords of the algorithm; ``"lin_1.0e-4"`` falls from there to zero
    :param n_eval_states: initial states per task and evaluation; 0: no evaluation
    :param n_envs: environments side by side
    :param threads: of torch; None: torch's own choice
    :param device: of the model: "auto", "cpu", "cuda", ...
    :raises SettingsError: for a value of the wrong type, or out of its range
    """

    keys: ClassVar[Mapping[str, str]] = BASE_KEYS
    """Field -> where a recipe has it."""
    may_differ: ClassVar[tuple[str, ...]] = ()
    """Fields that may change when a run is resumed."""
    lists: ClassVar[tuple[str, ...]] = ()
    """Fields that JSON turns from tuples into lists."""
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
        Look up every name that needs no model; torch is not imported, unless code of the user's own does it.

        :raises UnknownNameError: for an algorithm, policy, model, suite or render quality that does not exist
        :raises RecipeError: for the user's own code that cannot be imported
        :raises AssetsError: if the asset pack is missing
        """
        check_algorithm(self.algorithm)
        check_policy(self.policy)
        check_vla(self.vla)
        check_env_names(self.env_id, None, self.assets, self.render_quality)

    @property
    def imported(self) -> list[str]:
        """Import paths of code that is not this package's, which a run of these settings imports and executes."""
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


def wrapper_entries(name: str, value: Any, folder: Path) -> tuple[dict[str, Any], ...]:
    """
    Wrappers as a recipe may write them.

    :param name: of the list, for errors
    :param value: None, an import path, ``{import path: keywords}``, or a list of these
    :param folder: that the user's own files are relative to
    :return: one ``{import path: keywords}`` for each
    :raises SettingsError: for anything else
    """
    entries = value if isinstance(value, Sequence) and not isinstance(value, str) else [] if value is None else [value]
    found = []
    for entry in entries:
        pair = {entry: {}} if isinstance(entry, str) else entry
        path, kwargs = next(iter(pair.items())) if isinstance(pair, Mapping) and len(pair) == 1 else (None, None)
        if not isinstance(path, str) or not isinstance(kwargs or {}, Mapping):
            raise SettingsError(
                f"{name} has the entry {entry!r}; expected an import path, or one with keywords: "
                "- my_package.MyWrapper: {keyword: value}"
            )
        found.append({anchored(path, folder): dict(kwargs or {})})
    return tuple(found)


def components(entries: Sequence[Mapping[str, Any]]) -> list[Component]:
    """
    What wrapper entries name.

    :param entries: ``{import path: keywords}``
    """
    return [Component.from_entry(entry) for entry in entries]
