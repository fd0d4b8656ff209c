"""Recipe files: YAML with sections for the environment, the algorithm, the evaluation and the resources."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml

from vla_algos.errors import RecipeError, SettingsError, UnknownNameError
from vla_algos.experiments.components import anchored, wrapper_entries
from vla_algos.experiments.names import ALGORITHMS, CLONING, algorithm_class
from vla_algos.experiments.settings import RLSettings, SFTSettings
from vla_algos.experiments.value_types import check_value
from vla_gym.tasks.registry import get_suite

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
_FORMER_SECTION = "run"
_FORMER_FIELDS = {"env_id": "suite", "task_ids": "tasks", "n_train_states": "train_states", "n_eval_states": "states"}
_COMPONENTS = ("wrappers", "vec_wrappers", "callbacks")
_SET_BY_THE_RUN = (
    "self", "policy", "env", "dataset", "seed", "device", "checkpoint_folder", "tensorboard_log", "_init_setup_model"
)  # fmt: skip


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yml"))


def load_recipe(
    name: str | Path, algorithm: str | None = None, base: RLSettings | SFTSettings | None = None, **changes: Any
) -> RLSettings | SFTSettings:
    """
    Read settings from a recipe.

    A recipe may list BC beside algorithms of reinforcement learning. Each of the two kinds takes the keys that it has.

    :param name: of a shipped recipe, or a YAML file
    :param algorithm: which of the recipe's algorithms; None: the first
    :param base: settings for everything that the recipe leaves open; None: the defaults
    :param changes: fields that replace those of the recipe
    :return: ``SFTSettings`` for the algorithm BC, else ``RLSettings``
    :raises UnknownNameError: if there is no such recipe, algorithm, section, key, keyword, model, suite or task
    :raises RecipeError: if the file is not YAML of that form, has a value of the wrong type, or names the
        user's own code and it cannot be imported
    :raises AssetsError: if the asset pack is missing
    """
    path = _file(name)
    content = _read(path)
    listed = _listed_algorithms(path, content.pop("algorithm", None))
    chosen = anchored(algorithm, path.parent) if algorithm else next(iter(listed))
    if chosen not in listed:
        raise UnknownNameError("algorithm of this recipe", chosen, listed)
    keywords, kind = listed[chosen], _kind(chosen)
    values = _fields(path, content, kind, {_kind(each) for each in listed})
    if "policy" in keywords:
        policy = keywords.pop("policy")
        values["policy"] = anchored(policy, path.parent) if isinstance(policy, str) else policy
    values = {**values, **changes}
    if isinstance(values.get("env_id"), str):
        values["env_id"] = get_suite(values["env_id"]).env_id
    _check_names(changes, kind.field_names(), f"field of {kind.__name__}")
    if isinstance(base, kind):
        # code comes from the recipe alone: the base may have been read from a stranger's folder
        of_code = {name: getattr(kind(), name) for name in ("policy", *_COMPONENTS) if name in kind.field_names()}
        base = dataclasses.replace(base, **of_code)
    settings = _made(path, kind, base if isinstance(base, kind) else kind(), chosen, keywords, values)
    # names that need no torch first: a mistyped one shows at once
    settings.check_names()
    _check_keywords(path, chosen, keywords)
    curriculum = values.get("curriculum")
    if curriculum is not None:
        _check_curriculum(path, curriculum)
    return settings


def recipe_algorithms(name: str | Path) -> list[str]:
    """
    Names of the algorithms that a recipe lists.

    :param name: of a shipped recipe, or a YAML file
    :return: names or import paths, in the order of the recipe
    :raises UnknownNameError: if there is no such recipe
    :raises RecipeError: if the file is not YAML of that form
    """
    path = _file(name)
    return list(_listed_algorithms(path, _read(path).get("algorithm")))


def _file(name: str | Path) -> Path:
    path = Path(name) if Path(name).suffix in (".yml", ".yaml") else FOLDER / f"{name}.yml"
    if not path.is_file():
        raise UnknownNameError("recipe", str(name), [*recipe_names(), "a .yml file"])
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must hold sections: algorithm, and any of {', '.join(_sections(RLSettings))}.")
    former = [key for key in content if key == _FORMER_SECTION or key in ALGORITHMS]
    if former:
        raise RecipeError(
            f"{path} has the section {former[0]!r}, as recipes of an earlier version had. Name the algorithm in a "
            "section 'algorithm' (name: TokenPPO, then its keywords), and divide 'run' into the sections env (suite, "
            "tasks, train_states, assets, render_quality), evaluation (states) and resources (n_envs); vla, seed, "
            "total_timesteps and curriculum stand beside them. See the recipe quickstart."
        )
    return content


def _kind(algorithm: str) -> type[RLSettings] | type[SFTSettings]:
    return SFTSettings if algorithm == CLONING else RLSettings


def _listed_algorithms(path: Path, section: Any) -> dict[str, dict[str, Any]]:
    """Keywords of each algorithm of a recipe, by its name."""
    entries = section if isinstance(section, list) else [section]
    if not section or not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries):
        raise RecipeError(
            f"{path}: algorithm is {section!r}; expected its name and keywords, such as "
            "{name: TokenPPO, n_steps: 40}, or a list of these."
        )
    names = [anchored(entry["name"], path.parent) for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(
                f"{path}: algorithm lists {name} twice. Leave one out, or make a recipe of its own of it."
            )
    keywords = [{key: value for key, value in entry.items() if key != "name"} for entry in entries]
    return dict(zip(names, keywords, strict=True))


def _sections(kind: type[RLSettings] | type[SFTSettings]) -> list[str]:
    return list(dict.fromkeys(key.split(".")[0] for key in kind.keys.values()))


def _fields(
    path: Path,
    content: dict[str, Any],
    kind: type[RLSettings] | type[SFTSettings],
    kinds: Iterable[type[RLSettings] | type[SFTSettings]],
) -> dict[str, Any]:
    """Values of one kind's fields that the sections name; keys of the other kinds in the recipe are passed over."""
    known = list(dict.fromkeys(key for each in (kind, *kinds) for key in each.keys.values()))
    _check_names(content, list(dict.fromkeys(key.split(".")[0] for key in known)), "section of a recipe")
    named: dict[str, Any] = {}
    for section, entries in content.items():
        if section in known:
            named[section] = entries
            continue
        if not isinstance(entries, dict):
            raise RecipeError(f"{path}: {section} is {entries!r}; expected keys with values.")
        valid = [key.split(".")[1] for key in known if key.startswith(f"{section}.")]
        for key in entries:
            if key in _FORMER_FIELDS:
                raise UnknownNameError(f"key of {section}", key, valid, f"It is {_FORMER_FIELDS[key]!r} now.")
        _check_names(entries, valid, f"key of {section}")
        named |= {f"{section}.{key}": value for key, value in entries.items()}
    return {name: named[key] for name, key in kind.keys.items() if key in named}


def _made(
    path: Path,
    kind: type[RLSettings] | type[SFTSettings],
    base: RLSettings | SFTSettings,
    algorithm: str,
    keywords: dict[str, Any],
    values: dict[str, Any],
) -> RLSettings | SFTSettings:
    """The settings; mistakes are named as the recipe names them."""
    if isinstance(values.get("curriculum"), str):
        expected = _listed_curriculum()
        raise RecipeError(f"{path}: curriculum is {values['curriculum']!r}; expected keywords: {expected}.")
    try:
        for name in _COMPONENTS:
            if name in values:
                values[name] = wrapper_entries(name, values[name], path.parent)
        for name in kind.lists:
            if name in values and isinstance(values[name] or [], list):
                values[name] = tuple(values[name] or ())
        return dataclasses.replace(base, algorithm=algorithm, algorithm_kwargs=keywords, **values)
    except SettingsError as error:
        name, _, rest = str(error).partition(" ")
        raise RecipeError(f"{path}: {kind.keys.get(name, name)} {rest}") from error


def _check_keywords(path: Path, algorithm: str, values: dict[str, Any]) -> None:
    """Names and types of an algorithm's keywords."""
    made = algorithm_class(algorithm)
    removed: dict[str, str] = getattr(made, "removed_keywords", {})
    for key in values:
        if key in removed:
            raise RecipeError(f"{path}: {algorithm} has no {key}: {removed[key]}")
    hints = {
        key: parameter.annotation
        for key, parameter in inspect.signature(made.__init__, eval_str=True).parameters.items()
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
