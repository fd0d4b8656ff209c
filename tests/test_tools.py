"""Scripts that make tables of the documentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vla_algos.evaluation.harness import EpisodeRecord, EvaluationResult
from vla_algos.experiments.results import RunResult
from vla_algos.experiments.run_folder import RunFolder
from vla_algos.experiments.settings import RLSettings

ROOT = Path(__file__).resolve().parents[1]


def store(folder: Path, seed: int, n_before: int, n_after: int) -> None:
    settings = RLSettings(seed=seed, task_ids=(7,), n_train_states=2)
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    run.start(settings)
    evaluations = {
        when: {
            mode: EvaluationResult(
                "LIBERO-Goal-v0",
                "primitive",
                mode == "greedy",
                seed,
                {7: "turn on the stove"},
                tuple(EpisodeRecord(7, k, k < n, 10) for k in range(5)),
                {},
                "0123456789",
            )
            for mode in ("greedy", "sampled")
        }
        for when, n in (("before", n_before), ("after", n_after))
    }
    RunResult(settings, folder, evaluations, settings.seen, 8960, {"commit": "0123456789"}, {}, 1.0).save(
        run.results_file
    )


def rows_of(output: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("| \n").split("|")] for line in output.splitlines()[2:]]


def test_runs_and_comparisons_become_tables(tmp_path: Path, run_script: Callable[..., str]) -> None:
    store(tmp_path / "PPO" / "seed_0", 0, 1, 3)
    store(tmp_path / "PPO" / "seed_1", 1, 1, 5)
    store(tmp_path / "start" / "seed_0", 0, 1, 1)
    script = ROOT / "tools" / "results_table.py"
    assert rows_of(run_script(script, str(tmp_path / "PPO" / "seed_0"))) == [
        ["7", "0", mode, "1/5", "3/5", "23-88 %", "0/3", "1/3", "8,960", "0123456"] for mode in ("greedy", "sampled")
    ]
    assert rows_of(run_script(script, "--policies", str(tmp_path))) == [
        ["start", "1/5", "4-62 %", "1/5", "4-62 %", "0123456"],
        ["PPO", "3, 5 of 5", "60-100 %", "3, 5 of 5", "60-100 %", "0123456"],
    ]
    by_task = rows_of(run_script(script, "--by-task", str(tmp_path / "PPO" / "seed_0")))
    assert by_task == [["7", "turn on the stove", "1/5", "3/5", "1/5", "3/5"]]
