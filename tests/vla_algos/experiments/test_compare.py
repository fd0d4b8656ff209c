"""Algorithms are compared under the same settings, and what is finished is not run again."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vla_algos.errors import RecipeError, SettingsError, UnknownNameError
from vla_algos.evaluation.harness import EpisodeRecord, EvaluationResult
from vla_algos.experiments import compare
from vla_algos.experiments.compare import FIGURE, comparison_results, describe_progress, run_comparison
from vla_algos.experiments.comparison_settings import START, ComparisonSettings, load_comparison
from vla_algos.experiments.recipe import load_recipe, recipe_algorithms
from vla_algos.experiments.results import RunResult
from vla_algos.experiments.run_folder import RunFolder
from vla_algos.experiments.settings import RLSettings, SFTSettings
from vla_algos.models import load_vla, save_vla
from vla_gym.datasets.record import TaskReport
from vla_gym.tasks.registry import get_suite

SUCCESSES = {"start": 2, "TokenPPO": 5, "BC": 1, "PPO": 3}


def settings(algorithms: tuple[str, ...] = (START, "BC", "TokenPPO"), seeds: tuple[int, ...] = (0, 1), **changes: Any):
    return load_comparison("compare", algorithms, seeds, **{"assets": "primitive", "n_eval_states": 5, **changes})


def evaluations(n_successes: int, seed: int) -> dict[str, EvaluationResult]:
    episodes = tuple(EpisodeRecord(7, k, k < n_successes, 10) for k in range(5))
    return {
        mode: EvaluationResult(
            "LIBERO-Goal-v0", "primitive", mode == "greedy", seed, {7: "turn on the stove"}, episodes, {}, None
        )
        for mode in ("greedy", "sampled")
    }


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Runs that are made, with whether they are resumed; they take no time, and each has its number of successes."""
    made: list[tuple[str, bool]] = []

    def finish(of_run: RLSettings | SFTSettings, folder: Path, resume: bool) -> None:
        run, label = RunFolder(folder), Path(folder).parent.name
        made.append((f"{label} {of_run.seed}", resume))
        run.path.mkdir(parents=True, exist_ok=True)
        if not resume:
            run.start(of_run.resolved() if isinstance(of_run, SFTSettings) else of_run)
        when = "before" if label == START else "after"
        found = {when: evaluations(max(0, SUCCESSES[label] - of_run.seed), of_run.seed)}
        RunResult(of_run, run.path, found, {}, 8, {}, {"training": 60.0}, 1.0).save(run.results_file)

    monkeypatch.setattr(compare, "run_rl", lambda of_run, folder, announce, resume: finish(of_run, folder, resume))
    monkeypatch.setattr(
        compare, "run_sft", lambda of_run, data, folder, announce, resume: finish(of_run, folder, resume)
    )
    monkeypatch.setattr(compare, "_demonstrations", lambda *_: [])
    monkeypatch.setattr(compare, "_evaluate_start", lambda of_run, folder, _: finish(of_run, folder.path, False))
    return made


def test_the_start_is_the_same_whatever_training_is_told() -> None:
    start = settings().algorithms[START]
    assert isinstance(start, RLSettings) and start.algorithm_kwargs == {"policy_kwargs": {}}


def test_cloning_is_refused_where_its_environment_would_be_another(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yml"
    listed = "algorithm: [{name: TokenPPO}, {name: BC}]\n"
    for change in ("env: {kwargs: {physics: exact}}\n", "wrappers: gymnasium.wrappers.TimeAwareObservation\n"):
        recipe.write_text(change + listed)
        with pytest.raises(SettingsError, match=r"by wrappers or env\.kwargs, and BC would learn.*Leave BC out"):
            load_comparison(recipe)
        assert list(load_comparison(recipe, ["TokenPPO"]).algorithms) == ["TokenPPO"]


def test_tasks_without_any_demonstration_are_named_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = {task_id: get_suite("goal").task(task_id) for task_id in (6, 7)}

    def record(*_: Any) -> list[TaskReport]:
        return [TaskReport(tasks[6], kept=0), TaskReport(tasks[7], kept=2)]

    monkeypatch.setattr(compare, "record_demonstrations", record)
    monkeypatch.setattr(compare, "load_episodes", lambda _: [])
    with pytest.raises(SettingsError, match=r"solved no episode of task\(s\) 6, which BC could not learn"):
        run_comparison(settings(("BC",), task_ids=(6, 7)), tmp_path)


def test_every_seed_of_every_algorithm_is_run_once_and_shown(runs: list[tuple[str, bool]], tmp_path: Path) -> None:
    results = run_comparison(settings(), tmp_path)
    assert runs == [(name, False) for name in ("start 0", "BC 0", "BC 1", "TokenPPO 0", "TokenPPO 1")]
    assert {name: [result.settings.seed for result in of_seeds] for name, of_seeds in results.items()} == {
        "start": [0],
        "BC": [0, 1],
        "TokenPPO": [0, 1],
    }
    assert (tmp_path / FIGURE).stat().st_size > 0
    # finished: nothing is run again, more seeds and algorithms join what is there
    more = run_comparison(settings(("PPO",), (0,)), tmp_path, resume=True)
    assert runs[5:] == [("PPO 0", False)] and list(more) == ["start", "BC", "PPO", "TokenPPO"]
    assert run_comparison(settings(), tmp_path, resume=True).keys() == more.keys() and len(runs) == 6


def test_an_interrupted_comparison_resumes_the_run_that_was_saved(
    runs: list[tuple[str, bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings(("PPO", "TokenPPO"), (0,))
    assert describe_progress(asked, tmp_path) is None

    def stop(of_run: RLSettings, folder: Path, *_: object) -> None:
        RunFolder(folder).path.mkdir(parents=True)
        RunFolder(folder).start(of_run)
        (folder / "after_greedy.jsonl").write_text("{}\n{}\n")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(compare, "run_rl", stop)
        run_comparison(asked, tmp_path)
    # a stock algorithm saves nothing while it trains, so that nothing is lost by starting again
    assert describe_progress(asked, tmp_path) is None
    monkeypatch.setattr("vla_algos.policies.saving.saved_timesteps", lambda path: 640 if path.is_file() else None)
    (tmp_path / "PPO" / "seed_0" / "last.zip").touch()
    said = str(describe_progress(asked, tmp_path))
    assert said.startswith(f"0 of 2 runs are finished in {tmp_path}. The run is saved in") and "640 decisions" in said
    with pytest.raises(SettingsError, match=r"holds 1 saved run\(s\) of a comparison already, such as seed_0 of PPO"):
        run_comparison(asked, tmp_path)
    run_comparison(asked, tmp_path, resume=True)
    assert runs == [("PPO 0", True), ("TokenPPO 0", False)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_ids": (4,)}, r"task_ids of the run in .*TokenPPO.seed_0 is \(7,\), not \(4,\)"),
        ({"total_timesteps": 16}, r"total_timesteps of the run in .* is 8960, not 16: the two cannot be compared"),
        ({"n_eval_states": 4}, r"n_eval_states of the run in .* is 5, not 4"),
        ({"n_envs": 3}, r"n_envs was 16, not 3"),
    ],
)
def test_runs_of_other_settings_are_not_compared(
    changes: dict[str, Any], message: str, runs: list[tuple[str, bool]], tmp_path: Path
) -> None:
    run_comparison(settings(("TokenPPO",), (0,)), tmp_path)
    with pytest.raises(SettingsError, match=message):
        run_comparison(settings(("TokenPPO",), (0,), **changes), tmp_path, resume=True)
    assert len(runs) == 1


def test_a_recipe_gives_each_algorithm_its_keywords_and_all_the_same_budget() -> None:
    names = recipe_algorithms("compare")
    assert names == ["TokenPPO", "TokenGRPO", "TokenRLOO", "TPO", "BC", "PPO", "A2C", "RecurrentPPO"]
    found = settings(("TokenPPO", "BC", "PPO"), task_ids=(4,), total_timesteps=4480)
    cloning, stock = found.algorithms["BC"], found.algorithms["PPO"]
    assert isinstance(cloning, SFTSettings) and isinstance(stock, RLSettings)
    assert cloning.epochs == 1.35 and cloning.keep_action_statistics and cloning.algorithm_kwargs["batch_size"] == 128
    assert stock.task_ids == (4,) and stock.total_timesteps == 4480 and stock.algorithm_kwargs["n_steps"] == 40
    assert "policy_kwargs" not in stock.algorithm_kwargs, "the critic that sees the simulator's state is TokenPPO's"
    assert not stock.evaluate_before and load_recipe("compare", "PPO").evaluate_before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"algorithms": ["PPPO"]}, UnknownNameError, "Unknown algorithm of this recipe 'PPPO'.*start, TokenPPO"),
        ({"algorithms": ["PPO", "PPO"]}, SettingsError, "none of them twice"),
        ({"seeds": ()}, SettingsError, r"seeds is \[\]; expected at least one"),
        ({"n_eval_states": 0}, SettingsError, "n_eval_states is 0; a comparison evaluates"),
        ({"recipe": "sft"}, RecipeError, "no algorithm of reinforcement learning to compare BC with"),
        ({"task_ids": (12,)}, UnknownNameError, "task_id 12"),
    ],
)
def test_mistakes_show_before_anything_is_started(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_comparison(**{"algorithms": ["TokenPPO"], "assets": "primitive", **arguments})


def test_mistyped_names_show_before_torch_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom vla_algos.cli.main import app\n"
        "try: app(['compare', '--algorithms', 'TokenPPO,PPPO'])\n"
        "except Exception as error: print(error, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ)).stdout
    assert "'PPPO'" in said and said.strip().endswith("False")


def small(comparison: ComparisonSettings) -> ComparisonSettings:
    """The same with small groups and little data."""
    reduced = {}
    for name, of_algorithm in comparison.algorithms.items():
        kwargs = dict(of_algorithm.algorithm_kwargs)
        kwargs |= {"group_size": 2, "n_groups": 1} if "group_size" in kwargs else {}
        reduced[name] = replace(of_algorithm, algorithm_kwargs=kwargs)
    return replace(comparison, algorithms=reduced)


@pytest.mark.slow
def test_all_algorithms_are_compared(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    vla = load_vla("nano", seed=0, config_changes={"image_size": 48})
    # an episode takes eight decisions, and RecurrentPPO's network needs images of 36 px
    vla.config = replace(vla.config, chunk_size=40)
    save_vla(vla, tmp_path / "vla")
    changes = {"vla": str(tmp_path / "vla"), "n_envs": 2, "n_train_states": 1, "n_eval_states": 1, "total_timesteps": 8}
    asked = small(load_comparison(**changes, assets="primitive", device="cpu"))
    results = run_comparison(asked, tmp_path / "out")
    assert set(results) == {START, *recipe_algorithms("compare")} and next(iter(results)) == START
    for name, (result,) in results.items():
        assert len(result.before or result.after) == 2 and not (result.before and result.after)
        assert (name == START) == (result.n_timesteps == 0)
    # stock algorithms run in run folders, too
    assert (tmp_path / "out" / "A2C" / "seed_0" / "last.zip").exists()
    assert (tmp_path / "out" / "PPO" / "seed_0" / "model" / "config.json").exists()
    assert (tmp_path / "out" / FIGURE).exists() and comparison_results(tmp_path / "out").keys() == results.keys()
    again = run_comparison(asked, tmp_path / "out", resume=True)
    assert {name: of_seeds[0].seconds for name, of_seeds in again.items()} == {
        name: of_seeds[0].seconds for name, of_seeds in results.items()
    }
