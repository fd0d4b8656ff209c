"""``vla-rl train``: what is not given comes from the recipe, or from the run that goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vla_algos.cli import train as command
from vla_algos.cli.main import app
from vla_algos.experiments import quickstart as recipe
from vla_algos.experiments import rl
from vla_algos.experiments.recipe import load_recipe
from vla_algos.experiments.run_folder import RunFolder
from vla_algos.experiments.settings import RLSettings

RECIPE = """
seed: 4
env: {assets: primitive}
evaluation: {states: 7}
curriculum: {scheme: paper, tau: 0.2}
algorithm:
  - {name: TokenPPO, n_steps: 4}
  - {name: TPO, beta: 0.2}
"""


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Function from options to the settings that the run would have."""
    seen: list[RLSettings] = []
    monkeypatch.setattr(rl, "run_rl", lambda settings, *_: seen.append(settings))
    monkeypatch.setattr(command, "print_result", lambda *_: None)

    def run(*options: str) -> RLSettings:
        result = CliRunner().invoke(app, ["train", "--out", str(tmp_path), *options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return seen[-1]

    return run


def test_what_is_not_given_comes_from_the_recipe(settings_of, tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(RECIPE)
    recipe = load_recipe(path)
    assert (recipe.seed, recipe.assets, recipe.n_eval_states) == (4, "primitive", 7)
    assert settings_of("--recipe", str(path)) == recipe
    changed = settings_of("--recipe", str(path), "--seed", "0", "--assets", "auto", "--states", "0")
    assert changed == replace(recipe, seed=0, assets="auto", n_eval_states=0)
    assert settings_of() == load_recipe("goal")


def test_a_scheme_keeps_the_other_keywords_of_the_curriculum(settings_of) -> None:
    assert settings_of("--curriculum", "paper").curriculum == {"scheme": "paper", "tau": 0.1, "half_life": 300}
    assert settings_of("--curriculum", "none").curriculum is None
    assert settings_of("--recipe", "quickstart", "--curriculum", "frontier").curriculum == {"scheme": "frontier"}


def test_a_run_goes_on_with_its_own_settings_unless_others_are_given(settings_of, tmp_path: Path) -> None:
    stored = load_recipe("goal", seed=5, task_ids=[1, 2], n_envs=3)
    RunFolder(tmp_path).start(stored)
    assert settings_of("--resume") == stored
    assert settings_of("--resume", "--seed", "6", "--tasks", "1") == replace(stored, seed=6, task_ids=(1,))
    assert settings_of("--resume", "--algorithm", "TPO").algorithm == "TPO"
    # of a recipe counts what it says
    assert settings_of("--resume", "--recipe", "goal") == replace(stored, n_envs=32)
    path = tmp_path / "mine.yml"
    path.write_text(RECIPE)
    RunFolder(tmp_path).start(load_recipe(path, "TPO", seed=9))
    assert settings_of("--resume", "--recipe", str(path), "--seed", "9") == load_recipe(path, "TPO", seed=9)


def test_ctrl_c_says_what_was_saved_and_the_command_that_resumes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(settings: RLSettings, folder: Path, *_: object, **__: object) -> None:
        (folder / "before_greedy.jsonl").write_text("{}\n{}\n{}\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(rl, "run_rl", stop)
    monkeypatch.setattr(recipe, "run_rl", stop)
    for name in ("train", "quickstart"):
        (tmp_path / "my run").mkdir(exist_ok=True)
        result = CliRunner().invoke(app, [name, "--out", str(tmp_path / "my run"), "--assets", "primitive"])
        assert result.exit_code == 130, result.output
        assert "2 episode(s) evaluated before training are saved in" in result.output
        assert f"vla-rl {name} --out '{tmp_path}/my run' --resume" in result.output
        (tmp_path / "my run" / "before_greedy.jsonl").unlink()
    monkeypatch.setattr(rl, "run_rl", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    result = CliRunner().invoke(app, ["train", "--out", str(tmp_path / "my run"), "--assets", "primitive"])
    assert "Interrupted. Nothing was saved." in result.output and "--resume" not in result.output


def test_a_finished_run_is_extended_by_its_timesteps_alone(settings_of, tmp_path: Path) -> None:
    stored = load_recipe("goal", seed=5, n_envs=3)
    RunFolder(tmp_path).start(stored)
    assert settings_of("--resume", "--timesteps", "90000") == replace(stored, total_timesteps=90000)


def test_resuming_where_no_run_is_says_so_and_makes_no_folder(tmp_path: Path) -> None:
    for name in ("train", "quickstart"):
        result = CliRunner().invoke(app, [name, "--out", str(tmp_path / "none"), "--resume"])
        assert "none holds no settings.json, so there is no run to resume" in str(result.exception)
    assert not (tmp_path / "none").exists()
