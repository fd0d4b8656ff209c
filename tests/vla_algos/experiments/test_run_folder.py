"""A run's folder says everything about a run, also one that an earlier version left."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vla_algos.cli.main import app
from vla_algos.errors import CheckpointError, EvaluationFileError
from vla_algos.evaluation.harness import EpisodeRecord, EvaluationResult
from vla_algos.experiments.recipe import load_recipe
from vla_algos.experiments.results import RunResult
from vla_algos.experiments.run_folder import RunFolder
from vla_algos.experiments.settings import RLSettings, SFTSettings

RL = RLSettings(task_ids=(3,), n_train_states=2, algorithm_kwargs={"n_steps": 4})
SFT = SFTSettings(epochs=2.0, cameras=("agentview", "wrist"))
HISTORY = [{"timesteps": 8, "episodes": 1, "success_rate": 1.0, "mean_length": 3.0}]


def evaluation(n_successes: int, mode: str) -> EvaluationResult:
    episodes = tuple(EpisodeRecord(3, k, k < n_successes, 10) for k in range(4))
    return EvaluationResult("LIBERO-Goal-v0", "primitive", mode == "greedy", 0, {3: "open it"}, episodes, {}, "abc")


def both(n_successes: int) -> dict[str, EvaluationResult]:
    return {mode: evaluation(n_successes, mode) for mode in ("greedy", "sampled")}


def result(settings: RLSettings | SFTSettings, folder: Path, **changes) -> RunResult:
    stages = {"before": both(1), "after": both(3)}
    return RunResult(settings, folder, stages, {3: {0, 1}}, 8, {"commit": "abc"}, {"training": 1.0}, 9.0, **changes)


@pytest.mark.parametrize("settings", [RL, SFT], ids=["reinforcement learning", "fine-tuning"])
def test_what_a_run_stored_is_loaded_as_it_was(settings: RLSettings | SFTSettings, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no settings\.json, so there is no run to resume"):
        RunFolder.load(tmp_path)
    RunFolder(tmp_path).start(settings)
    folder = RunFolder.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no results\.json: the run has not ended\. Resume it\."):
        _ = folder.results
    assert folder.settings == settings and folder.history == [] and folder.evaluations("before") == {}
    stored = result(settings, tmp_path, task_counts={3: (1, 2)}, validations=[{"step": 1.0}], n_episodes=4)
    stored.save(folder.results_file)
    assert folder.results == stored and folder.evaluations("before") == stored.before


def test_a_folder_of_reinforcement_learning_by_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(asdict(RL)))
    (tmp_path / "history.json").write_text(json.dumps([{**HISTORY[0], "seconds": 5.0}]))
    stages = {"before": both(1), "after": both(3)}
    for mode, before in stages["before"].items():
        before.save(tmp_path / f"before_{mode}.json")
    content = {
        "settings": asdict(RL),
        **{
            when: {mode: {**each.to_dict(), "split_success": {}} for mode, each in results.items()}
            for when, results in stages.items()
        },
        "history": HISTORY, "n_timesteps": 8, "provenance": {}, "seconds": {"training": 5.0}, "peak_memory_mb": 1.0,
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(content))
    folder = RunFolder.load(tmp_path)
    loaded = folder.results
    assert folder.settings == RL and [record.timesteps for record in folder.history] == [8]
    assert folder.evaluations("before") == loaded.before == stages["before"]
    assert loaded.split_success(loaded.after["greedy"]) == {"trained on": (2, 2), "held out": (1, 2)}
    folder.check_resumable(RL)


def test_a_folder_of_fine_tuning_by_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(asdict(SFT)))
    (tmp_path / "evaluation_greedy.jsonl").write_text("{}\n{}\n")
    content = {
        "settings": asdict(SFT), "n_episodes": 2, "n_decisions": 30, "n_steps": 5, "validations": [{"step": 5}],
        "evaluations": {mode: each.to_dict() for mode, each in both(3).items()},
        "split_success": {}, "demonstrated": {"3": [0]}, "provenance": {}, "seconds": {}, "peak_memory_mb": 1.0,
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(content))
    folder = RunFolder.load(tmp_path)
    loaded = folder.results
    assert folder.settings == SFT and (loaded.n_timesteps, loaded.n_decisions, loaded.before) == (5, 30, {})
    assert loaded.split_success(loaded.after["greedy"]) == {"demonstrated": (1, 1), "held out": (2, 3)}
    folder.rename_earlier_files()
    assert folder.n_evaluated("after") == 1


def test_results_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start(RL)
    for text, reason in (("{", "Expecting"), ('{"schema_version": 9}', "reads 1 to 2"), ("{}", "before")):
        folder.results_file.write_text(text)
        with pytest.raises(EvaluationFileError, match=rf"results\.json does not hold the result of a run.*{reason}"):
            _ = folder.results


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "subprocess:Popen"},
        {"algorithm": "os.system"},
        {"wrappers": ({"code.py:Wrapper": {}},)},
        {"vec_wrappers": ({"builtins:exec": {}},)},
        {"callbacks": ({"code.py:Callback": {}},)},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.parametrize("command", ["train", "quickstart"])
def test_settings_of_a_folder_execute_nothing_that_they_name(
    command: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    RunFolder(tmp_path).start(replace(RLSettings(), **changes))
    with pytest.raises(CheckpointError, match=r"names code to execute: .*--recipe"):
        CliRunner().invoke(app, [command, "--out", str(tmp_path), "--resume"], catch_exceptions=False)


def test_a_recipe_takes_no_code_from_the_folder_that_it_resumes() -> None:
    base = replace(RLSettings(), policy="subprocess:Popen", wrappers=({"builtins:exec": {}},), seed=7)
    base = replace(base, callbacks=({"builtins:exec": {}},))
    settings = load_recipe("quickstart", base=base)
    assert settings.imported == [] and settings.seed == 7
