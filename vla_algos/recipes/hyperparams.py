"""Recipe files: YAML whose keys are fields of ``RLSettings`` and keywords of the algorithms."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import yaml

from vla_algos.common.schedules import LINEAR_PREFIX
from vla_algos.curriculum import SuccessSampler
from vla_algos.errors import RecipeError, UnknownNameError
from vla_algos.recipes.rl import ALGORITHMS
from vla_algos.recipes.rl_settings import RLSettings

FOLDER = Path(__file__).resolve().parents[1] / "hyperparams"
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
    :raises UnknownNameError: if there is no such recipe, algorithm, field or keyword
    :raises RecipeError: if the file is not YAML of that form
    """
    path = Path(name) if Path(name).suffix in (".yml", ".yaml") else FOLDER / f"{name}.yml"
    if not path.is_file():
        raise UnknownNameError("recipe", str(name), [*recipe_names(), "a .yml file"])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(section, dict) for section in content.values()):
        raise RecipeError(f"{path} must hold sections: '{RUN}' and one or more of {', '.join(ALGORITHMS)}.")
    sections = {key: section for key, section in content.items() if key != RUN}
    for key in sections:
        if key not in ALGORITHMS:
            raise UnknownNameError("section of a recipe", key, [RUN, *ALGORITHMS])
    chosen = algorithm or next(iter(sections), None)
    if chosen not in sections:
        raise UnknownNameError("algorithm of this recipe", chosen, sections)
    fields = [f.name for f in dataclasses.fields(RLSettings) if f.name not in ("algorithm", "algorithm_kwargs")]
    run = {**content.get(RUN, {}), **changes}
    _check_names(run, fields, f"field in '{RUN}'")
    signature = inspect.signature(ALGORITHMS[chosen].__init__)
    keywords = [
        key
        for key, parameter in signature.parameters.items()
        if key not in _SET_BY_THE_RUN and parameter.kind is not parameter.VAR_KEYWORD
    ]
    removed: dict[str, str] = getattr(ALGORITHMS[chosen], "removed_keywords", {})
    for key in sections[chosen]:
        if key in removed:
            raise RecipeError(f"{path}: {chosen} has no {key}: {removed[key]}")
    _check_names(sections[chosen], keywords, f"keyword of {chosen}")
    scheduled = [key for key in keywords if "Schedule" in str(signature.parameters[key].annotation)]
    _check_numbers(path, sections[chosen], scheduled)
    if "task_ids" in run:
        run["task_ids"] = tuple(run["task_ids"] or ())
    if run.get("curriculum") is not None:
        _check_curriculum(path, run["curriculum"])
    return dataclasses.replace(base or RLSettings(), algorithm=chosen, algorithm_kwargs=sections[chosen], **run)


def _check_curriculum(path: Path, curriculum: Any) -> None:
    keywords = [key for key in inspect.signature(SuccessSampler).parameters if key != "starts"]
    if not isinstance(curriculum, dict):
        raise RecipeError(f"{path}: curriculum is {curriculum!r}; expected keywords: {', '.join(keywords)}.")
    _check_names(curriculum, keywords, "keyword of the curriculum")
    _check_numbers(path, curriculum, [])


def _check_names(values: dict[str, Any], valid: list[str], kind: str) -> None:
    for key in values:
        if key not in valid:
            raise UnknownNameError(kind, key, valid)


def _check_numbers(path: Path, values: dict[str, Any], scheduled: list[str]) -> None:
    """YAML reads 1e-4 as text."""
    for key, value in values.items():
        if not isinstance(value, str):
            continue
        is_linear = value.startswith(LINEAR_PREFIX)
        if is_linear and key not in scheduled:
            raise RecipeError(
                f"{path}: {key} is {value!r}, but only these may change: {', '.join(scheduled) or 'none'}."
            )
        try:
            number = float(value.removeprefix(LINEAR_PREFIX))
        except ValueError:
            if is_linear:
                raise RecipeError(f"{path}: {key} is {value!r}; expected a number, as in lin_1.0e-4.") from None
        else:
            if not is_linear:
                raise RecipeError(f"{path}: {key} is the text {value!r}. Write the number with a point: {number:.1e}.")
