"""Recipes name fields and keywords that exist, and say what is wrong with those that do not."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import vla_algos
from vla_algos.common.schedules import as_schedule
from vla_algos.errors import RecipeError, SettingsError, UnknownNameError
from vla_algos.experiments.names import ALGORITHMS, PRESET_NAMES, algorithm_class
from vla_algos.experiments.quickstart import quickstart_settings
from vla_algos.experiments.recipe import FOLDER, load_recipe, recipe_names
from vla_algos.experiments.settings import RLSettings, SFTSettings
from vla_algos.models.openvla.config import PRESETS

PPO = "algorithm: {name: TokenPPO, "
TPO = "algorithm: {name: TPO}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yml"
    path.write_text(text)
    return path


def algorithms() -> list[tuple[str, str]]:
    files = {name: yaml.safe_load((FOLDER / f"{name}.yml").read_text())["algorithm"] for name in recipe_names()}
    entries = {name: section if isinstance(section, list) else [section] for name, section in files.items()}
    return [(name, entry["name"]) for name, found in entries.items() for entry in found]


@pytest.mark.parametrize(("name", "algorithm"), algorithms())
def test_shipped_recipes_are_keywords_of_their_algorithm(name: str, algorithm: str) -> None:
    settings = load_recipe(name, algorithm)
    signature = inspect.signature(algorithm_class(settings.algorithm).__init__)
    signature.bind_partial(None, **settings.algorithm_kwargs)
    assert settings.policy_kwargs["vla"] == settings.vla
    if isinstance(settings, RLSettings):
        assert settings.env_kwargs["task_ids"] == list(settings.tasks)


def test_the_recipe_of_fine_tuning_has_the_defaults_of_its_algorithm() -> None:
    parameters = inspect.signature(vla_algos.BC.__init__).parameters
    settings = load_recipe("sft")
    assert settings.algorithm_kwargs == {name: parameters[name].default for name in settings.algorithm_kwargs}
    assert settings == replace(SFTSettings(), algorithm_kwargs=settings.algorithm_kwargs)


def test_changes_replace_what_the_recipe_says(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "env: {tasks: [3]}\nresources: {n_envs: 2}\n"
        "algorithm: [{name: TokenPPO, n_steps: 4}, {name: TPO, beta: 0.2}]\n",
    )
    settings = load_recipe(path, seed=7, n_envs=5)
    assert (settings.algorithm, settings.task_ids, settings.n_envs, settings.seed) == ("TokenPPO", (3,), 5, 7)
    assert settings.algorithm_kwargs == {"n_steps": 4}
    assert load_recipe(path, "TPO").algorithm_kwargs == {"beta": 0.2}


def test_what_a_recipe_leaves_open_comes_from_the_base(tmp_path: Path) -> None:
    path = write(tmp_path, "resources: {n_envs: 2}\nalgorithm: {name: TokenPPO, n_steps: 4}\n")
    settings = load_recipe(path, None, RLSettings(seed=5, n_envs=9, algorithm_kwargs={"gamma": 0.5}))
    assert settings == RLSettings(seed=5, n_envs=2, algorithm_kwargs={"n_steps": 4})


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("resources: {n_env: 2}\nalgorithm: {name: TPO}\n", UnknownNameError, r"key of resources.*n_env.*n_envs"),
        ("enf: {suite: goal}\nalgorithm: {name: TPO}\n", UnknownNameError, r"section of a recipe 'enf'.*'env'"),
        ("env: {task_ids: [1]}\nalgorithm: {name: TPO}\n", UnknownNameError, r"'task_ids'.*It is 'tasks' now"),
        ("env: goal\nalgorithm: {name: TPO}\n", RecipeError, r"env is 'goal'; expected keys with values"),
        ("epochs: 3\nalgorithm: {name: TPO}\n", UnknownNameError, r"section of a recipe 'epochs'"),
        ("total_timesteps: 3\nalgorithm: {name: BC}\n", UnknownNameError, r"section of a recipe 'total_timesteps'"),
        ("run: {seed: 1}\nTokenPPO: {n_steps: 2}\n", RecipeError, r"section 'run', as recipes of an earlier version"),
        ("TokenPPO: {n_steps: 2}\n", RecipeError, r"section 'TokenPPO', as.*Name the algorithm in a section 'alg"),
        ("algorithm: {name: TokenPPO, n_step: 2}\n", UnknownNameError, r"keyword of TokenPPO.*n_step"),
        ("algorithm: {name: TokenPPO, env: x}\n", UnknownNameError, r"keyword of TokenPPO.*env"),
        ("algorithm: {name: PPPO}\n", UnknownNameError, r"algorithm 'PPPO'.*'PPO'.*TokenPPO.*import path"),
        ("algorithm: {name: PPO, n_step: 2}\n", UnknownNameError, r"keyword of PPO 'n_step'.*'n_steps'"),
        ("algorithm: {name: stable_baselines3.PPPO}\n", UnknownNameError, r"name in stable_baselines3 'PPPO'.*'PPO'"),
        ("algorithm: TokenPPO\n", RecipeError, r"algorithm is 'TokenPPO'; expected its name and keywords"),
        ("algorithm: [{name: TPO}, {name: TPO}]\n", RecipeError, r"algorithm lists TPO twice\. Leave one out"),
        ("env: {}\n", RecipeError, r"algorithm is None; expected its name and keywords"),
        (PPO + "learning_rate: 1e-4}\n", RecipeError, r"learning_rate is the text '1e-4'.*1\.0e-04"),
        (PPO + "clip_range: lin_much}\n", RecipeError, r"clip_range is 'lin_much'.*lin_1\.0e-4"),
        (PPO + "gamma: lin_0.9}\n", RecipeError, r"gamma is 'lin_0\.9', but only these may change: learning_rate"),
        ("algorithm: {name: TokenRLOO, batch_size: 8}\n", RecipeError, r"TokenRLOO has no batch_size: it takes one gr"),
        ("algorithm: {name: TPO, pairs_per_step: 8}\n", RecipeError, r"TPO has no pairs_per_step: it takes one gradi"),
        ("algorithm: {name: TPO, removed: 8}\n", UnknownNameError, r"keyword of TPO 'removed'"),
        ("curriculum: {tua: 0.1}\n" + TPO, UnknownNameError, r"keyword of the curriculum 'tua'.*'tau'"),
        ("curriculum: {starts: []}\n" + TPO, UnknownNameError, r"keyword of the curriculum 'starts'"),
        ("curriculum: {tau: 1e-1}\n" + TPO, RecipeError, r"tau is the text '1e-1'"),
        ("curriculum: frontier\n" + TPO, RecipeError, "curriculum is 'frontier'; expected keywords: scheme"),
        ("wrappers: [3]\n" + TPO, RecipeError, r"wrappers has the entry 3; expected an import path"),
        ("wrappers: [{a.B: 1}]\n" + TPO, RecipeError, r"entry \{'a\.B': 1\}; expected an import path.*keyword: value"),
        (
            "wrappers: Nothing\n" + TPO,
            RecipeError,
            r"'Nothing' is not an import path; expected 'package\.module\.Name'",
        ),
        ("wrappers: nowhere.B\n" + TPO, RecipeError, r"nowhere of 'nowhere\.B' cannot be imported.*correct its path"),
        ("vec_wrappers: none.py:B\n" + TPO, RecipeError, r"there is no file .*none\.py"),
        ("callbacks: none.py:B\n" + TPO, RecipeError, r"there is no file .*none\.py"),
        ("callbacks: [{vla_algos.CurriculumCallback: {evry: 2}}]\n" + TPO, UnknownNameError, "Did you mean 'every'"),
        ("env: {train_kwargs: [trace]}\n" + TPO, RecipeError, r"env\.train_kwargs is \['trace'\]"),
        ("wrappers: {gymnasium.wrappers.TimeLimit: {max: 3}}\n" + TPO, UnknownNameError, r"keyword of gym.*'max'"),
        ("resources: {backend: proces}\n" + TPO, UnknownNameError, r"backend 'proces'.*'process'"),
        ("algorithm: {name: TPO, policy: mine.py:P}\n", RecipeError, r"there is no file .*mine\.py"),
        ("conventions: {griper: x}\nalgorithm: {name: BC}\n", UnknownNameError, r"convention 'griper'.*'gripper'"),
        ("- 1\n", RecipeError, "must hold sections"),
        ("a: [\n", RecipeError, "is not YAML"),
    ],
)
def test_mistakes_are_named(text: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        load_recipe(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resources: {n_envs: '8'}", r"resources.n_envs is the text '8'; expected a whole number\. Write 8\."),
        ("resources: {n_envs: true}", "resources.n_envs is True; expected a whole number"),
        ("resources: {n_envs: 0}", "resources.n_envs is 0; expected at least 1"),
        ("resources: {n_envs: null}", "resources.n_envs is None; expected a whole number"),
        ("total_timesteps: 1e5", r"total_timesteps is the text '1e5'; .*Write 100000\."),
        ("total_timesteps: 1.0e+5", r"total_timesteps is 100000\.0; .*Write 100000\."),
        ("env: {train_states: 25.5}", r"env.train_states is 25\.5; expected a whole number\.$"),
        ("env: {train_states: 51}", "env.train_states is 51; expected 1 to 50"),
        ("evaluation: {states: -1}", "evaluation.states is -1; expected 0 to 50"),
        ("env: {tasks: 7}", r"env.tasks is 7; expected a list, each entry a whole number\. Write \[7\]"),
        ("env: {tasks: '7'}", r"env.tasks is the text '7'; expected a list"),
        ("env: {tasks: ['7']}", r"env.tasks is \('7',\); expected a list, each entry a whole number"),
        ("env: {tasks: [7.0]}", r"env.tasks is \(7\.0,\)"),
        ("env: {tasks: {7: 1}}", r"env.tasks is \{7: 1\}"),
        ("seed: -1", "seed is -1; expected at least 0"),
        ("vla: 5", "vla is 5; expected a text"),
        ("env: {render_quality: false}", "env.render_quality is False; expected a text"),
        ("curriculum: [frontier]", r"curriculum is \['frontier'\]; expected keywords with values or null"),
        ("curriculum: {tau: '0.1'}", r"tau is the text '0\.1'; .*Write 1\.0e-01"),
        (PPO + "n_steps: '8'}", r"n_steps is the text '8'; expected a whole number\. Write 8\."),
        (PPO + "n_epochs: 2.5}", r"n_epochs is 2\.5; expected a whole number"),
        (PPO + "gamma: [0.9]}", r"gamma is \[0\.9\]; expected a number"),
        (PPO + "learning_rate: fast}", "learning_rate is the text 'fast'; expected a number"),
        (PPO + "learning_rate: lin_nan}", r"lin_nan.*lin_1\.0e-4"),
        (PPO + "clip_range_vf: '0.2'}", "clip_range_vf is the text '0.2'"),
        (PPO + "use_bf16: 'yes'}", "use_bf16 is the text 'yes'"),
        (PPO + "ratio_level: tokens}", "ratio_level is the text 'tokens'; expected .*'token'"),
        (PPO + "policy_kwargs: [1]}", r"policy_kwargs is \[1\]; expected keywords"),
    ],
)
def test_values_of_the_wrong_type_say_what_is_expected(text: str, message: str, tmp_path: Path) -> None:
    text = text if text.startswith("algorithm") else f"{text}\n{TPO}"
    with pytest.raises(RecipeError, match=rf"mine\.yml: .*{message}"):
        load_recipe(write(tmp_path, text))


@pytest.mark.parametrize("changes", [{"n_envs": "8"}, {"task_ids": 7}, {"task_ids": "12"}, {"total_timesteps": 1e5}])
def test_settings_made_in_python_are_checked_too(changes: dict) -> None:
    with pytest.raises(SettingsError, match=next(iter(changes))):
        RLSettings(**changes)
    with pytest.raises(SettingsError, match="seed"):
        SFTSettings(seed="0")


def test_names_that_are_checked_without_torch_are_those_that_exist() -> None:
    assert tuple(PRESETS) == PRESET_NAMES
    pytest.importorskip("sb3_contrib")
    assert [algorithm_class(name).__name__ for name in ALGORITHMS] == list(ALGORITHMS)


WITHOUT_TORCH = """
import sys
from typer.testing import CliRunner
from vla_algos.cli.main import app
for line in sys.stdin:
    result = CliRunner().invoke(app, line.split())
    print("torch" in sys.modules, result.exit_code, result.exception)
"""


def test_names_are_checked_before_torch_is_imported_and_leave_no_folder(tmp_path: Path) -> None:
    commands = {
        "train --suite gaol": "suite 'gaol'",
        "train --vla compact-libero-gaol": "VLA 'compact-libero-gaol'",
        "train --recipe dinner": "recipe 'dinner'",
        "train --algorithm TokenPOP": "'TokenPOP'",
        "train --tasks 3,12": "12",
        "train --assets /nowhere": "/nowhere",
        "train --curriculum forntier": "'forntier'",
        "sft --data /nowhere": "/nowhere",
        "sft --data . --vla kompact": "VLA 'kompact'",
        "sft --data . --suite gaol": "'gaol'",
        "quickstart --tasks 12": "12",
        "quickstart --assets /nowhere": "/nowhere",
    }
    lines = [f"{command} --out {tmp_path / 'runs' / 'new'}" for command in commands]
    lines += ["evaluate kompact", "evaluate nano --suite gaol", "evaluate nano --render-quality ful"]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], input="\n".join(lines), capture_output=True, text=True, check=True
    )
    output = run.stdout.splitlines()
    assert len(output) == len(lines), run.stderr
    for line, printed in zip(lines, output, strict=True):
        assert printed.startswith("False 1 "), (line, printed)
    for message, printed in zip(commands.values(), output, strict=False):
        assert message in printed
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_recipe_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"recipe.*dinner.*quickstart"):
        load_recipe("dinner")


def test_the_smoke_test_is_small() -> None:
    whole, smoke = quickstart_settings(), quickstart_settings(smoke=True, seed=3)
    assert smoke.total_timesteps < whole.total_timesteps / 50 and smoke.n_eval_states < 10
    assert smoke.seed == 3 and smoke.algorithm_kwargs["policy_kwargs"] == whole.algorithm_kwargs["policy_kwargs"]


def test_a_schedule_falls_to_zero(tmp_path: Path) -> None:
    settings = load_recipe(
        write(tmp_path, "algorithm: {name: TokenPPO, learning_rate: lin_2.0e-4, ratio_level: token}\n")
    )
    assert settings.algorithm_kwargs == {"learning_rate": "lin_2.0e-4", "ratio_level": "token"}
    schedule = as_schedule(settings.algorithm_kwargs["learning_rate"])
    assert [schedule(progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx([2e-4, 1e-4, 0.0])
    assert as_schedule("token") == "token" and as_schedule(0.1) == 0.1
