"""Settings of a comparison, read from one recipe without importing torch first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_algos.errors import RecipeError, SettingsError, UnknownNameError
from vla_algos.experiments.names import CLONING, check_algorithm
from vla_algos.experiments.recipe import load_recipe, recipe_algorithms
from vla_algos.experiments.settings import RLSettings, SFTSettings

START = "start"
"""Name of the checkpoint that all start from, which is evaluated without training."""


@dataclass(frozen=True)
class ComparisonSettings:
    """
    Settings of all runs of a comparison.

    :param common: tasks, budget and evaluation that all share; the untrained checkpoint is evaluated by it
    :param algorithms: settings by algorithm, :data:`START` among them if it takes part; seeds are replaced
    :param seeds: of each algorithm
    """

    common: RLSettings
    algorithms: dict[str, RLSettings | SFTSettings]
    seeds: tuple[int, ...] = (0,)


def load_comparison(
    recipe: str | Path = "compare", algorithms: Sequence[str] | None = None, seeds: Sequence[int] = (0,), **changes: Any
) -> ComparisonSettings:
    """
    Read the settings of a comparison from a recipe.

    No run evaluates the checkpoint before training, as :data:`START` does it once for all. Where ``total_timesteps``
    differs from the recipe's, BC's epochs change in proportion.

    :param recipe: name or YAML file, with a list of algorithms
    :param algorithms: some of the recipe's, or :data:`START`; None: all
    :param seeds: of each algorithm
    :param changes: fields of :class:`RLSettings` that replace those of the recipe
    :return: the settings
    :raises UnknownNameError: for an algorithm, model, suite, task or other name that does not exist
    :raises RecipeError: as :func:`load_recipe`, and if the recipe lists no algorithm of reinforcement learning
    :raises SettingsError: without a seed, for a seed or an algorithm that is named twice, without an evaluation, or
        for BC in an environment that a recipe has changed
    """
    listed = recipe_algorithms(recipe)
    acting = [name for name in listed if name != CLONING]
    if not acting:
        raise RecipeError(f"{recipe} lists no algorithm of reinforcement learning to compare {CLONING} with.")
    chosen = list(algorithms or [START, *listed])
    for name in chosen:
        if name not in (START, *listed):
            raise UnknownNameError("algorithm of this recipe", name, [START, *listed])
        if name != START:
            check_algorithm(name)
    _check_distinct("algorithms", [re.split(r"[.:]", name)[-1] for name in chosen])
    _check_distinct("seeds", seeds)
    changes["evaluate_before"] = False
    common = load_recipe(recipe, acting[0], **changes)
    assert isinstance(common, RLSettings)
    if common.n_eval_states == 0:
        raise SettingsError("n_eval_states is 0; a comparison evaluates each run on at least one initial state.")
    settings: dict[str, RLSettings | SFTSettings] = {}
    for name in chosen:
        if name == START:
            # keywords of training are none of its own, and may change without making it another
            of_policy = common.algorithm_kwargs.get("policy_kwargs", {})
            kept = {"policy_kwargs": {key: of_policy[key] for key in ("unnorm_key",) if key in of_policy}}
            settings[name] = replace(common, algorithm_kwargs=kept)
        elif name == CLONING:
            settings[name] = _cloning(recipe, acting[0], common, changes)
        else:
            settings[name] = load_recipe(recipe, name, **changes)
    return ComparisonSettings(common, settings, tuple(seeds))


def _cloning(recipe: str | Path, acting: str, common: RLSettings, changes: dict[str, Any]) -> SFTSettings:
    if common.wrappers or common.further_env_kwargs:
        raise SettingsError(
            f"{recipe} changes the environment by wrappers or env.kwargs, and {CLONING} would learn and be evaluated "
            f"without them. Leave {CLONING} out (vla-rl compare: --algorithms), or the changes."
        )
    own = {name: value for name, value in changes.items() if name in SFTSettings.field_names()}
    settings = load_recipe(recipe, CLONING, **own)
    assert isinstance(settings, SFTSettings)
    if "total_timesteps" not in changes:
        return settings
    of_recipe = load_recipe(recipe, acting)
    assert isinstance(of_recipe, RLSettings)
    return replace(settings, epochs=settings.epochs * common.total_timesteps / of_recipe.total_timesteps)


def _check_distinct(name: str, values: Sequence[Any]) -> None:
    if not values or len(set(values)) < len(values):
        raise SettingsError(f"{name} is {list(values)}; expected at least one, and none of them twice.")
