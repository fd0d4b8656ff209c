"""Recipes name fields and keywords that exist, and say what is wrong with those that do not."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

import vla_algos
from vla_algos.common.schedules import as_schedule
from vla_algos.errors import RecipeError, UnknownNameError
from vla_algos.recipes.hyperparams import FOLDER, load_recipe, recipe_names
from vla_algos.recipes.quickstart import quickstart_settings
from vla_algos.recipes.rl_settings import RLSettings


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yml"
    path.write_text(text)
    return path


def sections() -> list[tuple[str, str]]:
    files = {name: yaml.safe_load((FOLDER / f"{name}.yml").read_text()) for name in recipe_names()}
    return [(name, section) for name, content in files.items() for section in content if section != "run"]


@pytest.mark.parametrize(("name", "algorithm"), sections())
def test_shipped_recipes_are_keywords_of_their_algorithm(name: str, algorithm: str) -> None:
    settings = load_recipe(name, algorithm)
    signature = inspect.signature(getattr(vla_algos, settings.algorithm).__init__)
    signature.bind_partial(None, **settings.algorithm_kwargs)
    assert settings.policy_kwargs["vla"] == settings.vla
    assert settings.env_kwargs["task_ids"] == list(settings.tasks)


def test_changes_replace_what_the_recipe_says(tmp_path: Path) -> None:
    path = write(tmp_path, "run: {task_ids: [3], n_envs: 2}\nTokenPPO: {n_steps: 4}\nTPO: {beta: 0.2}\n")
    settings = load_recipe(path, seed=7, n_envs=5)
    assert (settings.algorithm, settings.task_ids, settings.n_envs, settings.seed) == ("TokenPPO", (3,), 5, 7)
    assert settings.algorithm_kwargs == {"n_steps": 4}
    assert load_recipe(path, "TPO").algorithm_kwargs == {"beta": 0.2}


def test_what_a_recipe_leaves_open_comes_from_the_base(tmp_path: Path) -> None:
    path = write(tmp_path, "run: {n_envs: 2}\nTokenPPO: {n_steps: 4}\n")
    settings = load_recipe(path, None, RLSettings(seed=5, n_envs=9, algorithm_kwargs={"gamma": 0.5}))
    assert settings == RLSettings(seed=5, n_envs=2, algorithm_kwargs={"n_steps": 4})


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("run: {n_env: 2}\nTokenPPO: {}\n", UnknownNameError, r"field in 'run'.*n_env.*n_envs"),
        ("TokenPPO: {n_step: 2}\n", UnknownNameError, r"keyword of TokenPPO.*n_step"),
        ("TokenPPO: {env: x}\n", UnknownNameError, r"keyword of TokenPPO.*env"),
        ("PPO: {}\n", UnknownNameError, r"section of a recipe.*PPO.*TokenPPO"),
        ("run: {}\n", UnknownNameError, "algorithm of this recipe"),
        ("TokenPPO: {learning_rate: 1e-4}\n", RecipeError, r"learning_rate is the text '1e-4'.*1\.0e-04"),
        ("TokenPPO: {clip_range: lin_much}\n", RecipeError, r"clip_range is 'lin_much'.*lin_1\.0e-4"),
        ("TokenPPO: {gamma: lin_0.9}\n", RecipeError, r"gamma is 'lin_0\.9', but only these may change: learning_rate"),
        ("TokenRLOO: {batch_size: 8}\n", RecipeError, r"TokenRLOO has no batch_size: it takes one gradient step per"),
        ("TPO: {pairs_per_step: 8}\n", RecipeError, r"TPO has no pairs_per_step: it takes one gradient step per"),
        ("TPO: {removed: 8}\n", UnknownNameError, r"keyword of TPO 'removed'"),
        ("run: {curriculum: {tua: 0.1}}\nTPO: {}\n", UnknownNameError, r"keyword of the curriculum 'tua'.*'tau'"),
        ("run: {curriculum: {starts: []}}\nTPO: {}\n", UnknownNameError, r"keyword of the curriculum 'starts'"),
        ("run: {curriculum: {tau: 1e-1}}\nTPO: {}\n", RecipeError, r"tau is the text '1e-1'"),
        ("run: {curriculum: frontier}\nTPO: {}\n", RecipeError, "curriculum is 'frontier'; expected keywords: scheme"),
        ("- 1\n", RecipeError, "must hold sections"),
        ("a: [\n", RecipeError, "is not YAML"),
    ],
)
def test_mistakes_are_named(text: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        load_recipe(write(tmp_path, text))


def test_an_unknown_recipe_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"recipe.*dinner.*quickstart"):
        load_recipe("dinner")


def test_the_smoke_test_is_small() -> None:
    whole, smoke = quickstart_settings(), quickstart_settings(smoke=True, seed=3)
    assert smoke.total_timesteps < whole.total_timesteps / 50 and smoke.n_eval_states < 10
    assert smoke.seed == 3 and smoke.algorithm_kwargs["policy_kwargs"] == whole.algorithm_kwargs["policy_kwargs"]


def test_a_schedule_falls_to_zero(tmp_path: Path) -> None:
    settings = load_recipe(write(tmp_path, "TokenPPO: {learning_rate: lin_2.0e-4, ratio_level: token}\n"))
    assert settings.algorithm_kwargs == {"learning_rate": "lin_2.0e-4", "ratio_level": "token"}
    schedule = as_schedule(settings.algorithm_kwargs["learning_rate"])
    assert [schedule(progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx([2e-4, 1e-4, 0.0])
    assert as_schedule("token") == "token" and as_schedule(0.1) == 0.1
