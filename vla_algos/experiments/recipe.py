"""Recipe files: YAML whose keys are fields of ``RLSettings`` and keywords of the algorithms."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml

from vla_algos.errors import RecipeError, SettingsError, UnknownNameError
from vla_algos.experiments.names import ALGORITHM_NAMES
from vla_algos.experiments.rl_settings import RLSettings
from vla_algos.experiments.value_types import check_value

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
RUN = "run"
_SET_BY_THE_RUN = ("self", "policy", "env", "seed", "checkpoint_folder", "_init_setup_model")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yml"))


def load_recipe(
    name: str | Path, algorithm: str | None = None, base: RLSettings | None = None, **changes: Any
) -> RLSettings:
    """
    Settings from a recipe.

    :param name: of a shipped recipe, or a YAML file
    :param algorithm: section to use; None: the first
    :param base: where what the recipe leaves open comes from; None: the defaults
    :param changes: fields of ``RLSettings`` that shall differ
    :return: the settings
    :raises UnknownNameError: if there is no such recipe, algorithm, field, keyword, model, suite or task
    :raises RecipeError: if the file is not YAML of that form, or has a value of the wrong type
    :raises AssetsError: if the asset pack is missing
    """
    path = Path(name) if Path(name).suffix in (".yml", ".yaml") else FOLDER / f"{name}.yml"
    if not path.is_file():
        raise UnknownNameError("recipe", str(name), [*recipe_names(), "a .yml file"])
    content = _read(path)
    sections = {key: section for key, section in content.items() if key != RUN}
    for key in sections:
        if key not in ALGORITHM_NAMES:
            raise UnknownNameError("section of a recipe", key, [RUN, *ALGORITHM_NAMES])
    chosen = algorithm or next(iter(sections), None)
    if chosen not in sections:
        raise UnknownNameError("algorithm of this recipe", chosen, sections)
    fields = [f.name for f in dataclasses.fields(RLSettings) if f.name not in ("algorithm", "algorithm_kwargs")]
    run = {**content.get(RUN, {}), **changes}
    _check_names(run, fields, f"field in '{RUN}'")
    if isinstance(run.get("curriculum", {}), str):
        raise RecipeError(f"{path}: curriculum is {run['curriculum']!r}; expected keywords: {_listed_curriculum()}.")
    if run.get("task_ids", ()) is None:
        run["task_ids"] = ()
    elif isinstance(run.get("task_ids"), list):
        run["task_ids"] = tuple(run["task_ids"])
    try:
        settings = dataclasses.replace(base or RLSettings(), algorithm=chosen, algorithm_kwargs=sections[chosen], **run)
    except SettingsError as error:
        raise RecipeError(f"{path}: {error}") from error
    # what needs no torch first: a mistyped name shows at once
    settings.check_names()
    _check_keywords(path, chosen, sections[chosen])
    if run.get("curriculum") is not None:
        _check_curriculum(path, run["curriculum"])
    return settings


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(section, dict) for section in content.values()):
        raise RecipeError(f"{path} must hold sections: '{RUN}' and one or more of {', '.join(ALGORITHM_NAMES)}.")
    return content


def _check_keywords(path: Path, algorithm: str, values: dict[str, Any]) -> None:
    """Names and types of an algorithm's keywords."""
    from vla_algos.experiments.rl import ALGORITHMS

    removed: dict[str, str] = getattr(ALGORITHMS[algorithm], "removed_keywords", {})
    for key in values:
        if key in removed:
            raise RecipeError(f"{path}: {algorithm} has no {key}: {removed[key]}")
    hints = {
        key: parameter.annotation
        for key, parameter in inspect.signature(ALGORITHMS[algorithm].__init__, eval_str=True).parameters.items()
        if key not in _SET_BY_THE_RUN and parameter.kind is not parameter.VAR_KEYWORD
    }
    _check_names(values, list(hints), f"keyword of {algorithm}")
    scheduled = {key: _without_functions(hint) for key, hint in hints.items() if _without_functions(hint) != hint}
    linear = _check_linear(path, values, list(scheduled))
    _check_types(path, {key: value for key, value in values.items() if key not in linear}, {**hints, **scheduled})


def _without_functions(hint: Any) -> Any:
    """Type of what a file can hold where a keyword also takes a schedule, which is a function."""
    options = get_args(hint)
    plain = tuple(option for option in options if get_origin(option) is not collections.abc.Callable)
    return hint if len(plain) == len(options) else Union[plain]  # noqa: UP007 - of a tuple


def _check_types(path: Path, values: dict[str, Any], hints: Mapping[str, Any]) -> None:
    for key, value in values.items():
        try:
            check_value(key, value, hints[key])
        except SettingsError as error:
            raise RecipeError(f"{path}: {error}") from error


def _check_curriculum(path: Path, curriculum: dict[str, Any]) -> None:
    from vla_algos.curriculum import SuccessSampler

    parameters = inspect.signature(SuccessSampler, eval_str=True).parameters
    hints = {key: parameter.annotation for key, parameter in parameters.items() if key != "starts"}
    _check_names(curriculum, list(hints), "keyword of the curriculum")
    _check_linear(path, curriculum, [])
    _check_types(path, curriculum, hints)


def _listed_curriculum() -> str:
    from vla_algos.curriculum import SuccessSampler

    return ", ".join(key for key in inspect.signature(SuccessSampler).parameters if key != "starts")


def _check_names(values: dict[str, Any], valid: list[str], kind: str) -> None:
    for key in values:
        if key not in valid:
            raise UnknownNameError(kind, key, valid)


def _check_linear(path: Path, values: dict[str, Any], scheduled: list[str]) -> list[str]:
    """Check the values that fall in a straight line; returns their keys."""
    from vla_algos.common.schedules import LINEAR_PREFIX

    linear = [key for key, value in values.items() if isinstance(value, str) and value.startswith(LINEAR_PREFIX)]
    for key in linear:
        value = values[key]
        if key not in scheduled:
            raise RecipeError(
                f"{path}: {key} is {value!r}, but only these may change: {', '.join(scheduled) or 'none'}."
            )
        try:
            is_number = math.isfinite(float(value.removeprefix(LINEAR_PREFIX)))
        except ValueError:
            is_number = False
        if not is_number:
            raise RecipeError(f"{path}: {key} is {value!r}; expected a number, as in lin_1.0e-4.")
    return linear
