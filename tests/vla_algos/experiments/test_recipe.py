"""Recipes name fields and keywords that exist, and say what is wrong with those that do not."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import vla_algos
from vla_algos.common.schedules import as_schedule
from vla_algos.errors import RecipeError, SettingsError, UnknownNameError
from vla_algos.experiments.names import ALGORITHM_NAMES, PRESET_NAMES
from vla_algos.experiments.quickstart import quickstart_settings
from vla_algos.experiments.recipe import FOLDER, load_recipe, recipe_names
from vla_algos.experiments.rl import ALGORITHMS
from vla_algos.experiments.rl_settings import RLSettings
from vla_algos.experiments.sft_settings import SFTSettings
from vla_algos.models.openvla.config import PRESETS


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {n_envs: '8'}", r"n_envs is the text '8'; expected a whole number\. Write 8\."),
        ("run: {n_envs: true}", "n_envs is True; expected a whole number"),
        ("run: {n_envs: 0}", "n_envs is 0; expected at least 1"),
        ("run: {n_envs: null}", "n_envs is None; expected a whole number"),
        ("run: {total_timesteps: 1e5}", r"total_timesteps is the text '1e5'; .*Write 100000\."),
        ("run: {total_timesteps: 1.0e+5}", r"total_timesteps is 100000\.0; .*Write 100000\."),
        ("run: {n_train_states: 25.5}", r"n_train_states is 25\.5; expected a whole number\.$"),
        ("run: {n_train_states: 51}", "n_train_states is 51; expected 1 to 50"),
        ("run: {n_eval_states: -1}", "n_eval_states is -1; expected 0 to 50"),
        ("run: {task_ids: 7}", r"task_ids is 7; expected a list, each entry a whole number\. Write \[7\]"),
        ("run: {task_ids: '7'}", r"task_ids is the text '7'; expected a list"),
        ("run: {task_ids: ['7']}", r"task_ids is \('7',\); expected a list, each entry a whole number"),
        ("run: {task_ids: [7.0]}", r"task_ids is \(7\.0,\)"),
        ("run: {task_ids: {7: 1}}", r"task_ids is \{7: 1\}"),
        ("run: {seed: -1}", "seed is -1; expected at least 0"),
        ("run: {vla: 5}", "vla is 5; expected a text"),
        ("run: {render_quality: false}", "render_quality is False; expected a text"),
        ("run: {curriculum: [frontier]}", r"curriculum is \['frontier'\]; expected keywords with values or null"),
        ("run: {curriculum: {tau: '0.1'}}", r"tau is the text '0\.1'; .*Write 1\.0e-01"),
        ("TokenPPO: {n_steps: '8'}", r"n_steps is the text '8'; expected a whole number\. Write 8\."),
        ("TokenPPO: {n_epochs: 2.5}", r"n_epochs is 2\.5; expected a whole number"),
        ("TokenPPO: {gamma: [0.9]}", r"gamma is \[0\.9\]; expected a number"),
        ("TokenPPO: {learning_rate: fast}", "learning_rate is the text 'fast'; expected a number"),
        ("TokenPPO: {learning_rate: lin_nan}", r"lin_nan.*lin_1\.0e-4"),
        ("TokenPPO: {clip_range_vf: '0.2'}", "clip_range_vf is the text '0.2'"),
        ("TokenPPO: {use_bf16: 'yes'}", "use_bf16 is the text 'yes'"),
        ("TokenPPO: {ratio_level: tokens}", "ratio_level is the text 'tokens'; expected .*'token'"),
        ("TokenPPO: {policy_kwargs: [1]}", r"policy_kwargs is \[1\]; expected keywords"),
    ],
)
def test_values_of_the_wrong_type_say_what_is_expected(text: str, message: str, tmp_path: Path) -> None:
    text = text if text.startswith("TokenPPO") else f"{text}\nTokenPPO: {{}}\n"
    with pytest.raises(RecipeError, match=rf"mine\.yml: .*{message}"):
        load_recipe(write(tmp_path, text))


@pytest.mark.parametrize("changes", [{"n_envs": "8"}, {"task_ids": 7}, {"task_ids": "12"}, {"total_timesteps": 1e5}])
def test_settings_made_in_python_are_checked_too(changes: dict) -> None:
    with pytest.raises(SettingsError, match=next(iter(changes))):
        RLSettings(**changes)
    with pytest.raises(SettingsError, match="seed"):
        SFTSettings(seed="0")


def test_names_that_are_checked_without_torch_are_those_that_exist() -> None:
    assert tuple(ALGORITHMS) == ALGORITHM_NAMES and tuple(PRESETS) == PRESET_NAMES


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
        "train --task-ids 3,12": "12",
        "train --assets /nowhere": "/nowhere",
        "train --curriculum forntier": "'forntier'",
        "sft --data /nowhere": "/nowhere",
        "sft --data . --vla kompact": "VLA 'kompact'",
        "sft --data . --env-id gaol": "'gaol'",
        "quickstart --task-id 12": "12",
        "quickstart --assets /nowhere": "/nowhere",
    }
    lines = [f"{command} --out {tmp_path / 'runs' / 'new'}" for command in commands]
    lines += ["evaluate kompact", "evaluate nano --env-id gaol", "evaluate nano --render-quality ful"]
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
    settings = load_recipe(write(tmp_path, "TokenPPO: {learning_rate: lin_2.0e-4, ratio_level: token}\n"))
    assert settings.algorithm_kwargs == {"learning_rate": "lin_2.0e-4", "ratio_level": "token"}
    schedule = as_schedule(settings.algorithm_kwargs["learning_rate"])
    assert [schedule(progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx([2e-4, 1e-4, 0.0])
    assert as_schedule("token") == "token" and as_schedule(0.1) == 0.1
