"""``vla-rl compare``: its options reach every run, and what it prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vla_algos.cli.main import app, main
from vla_algos.evaluation.harness import EpisodeRecord, EvaluationResult
from vla_algos.experiments import compare
from vla_algos.experiments.comparison_settings import ComparisonSettings
from vla_algos.experiments.results import RunResult
from vla_algos.experiments.settings import RLSettings, SFTSettings


def result(seed: int, n_successes: int, when: str = "after") -> RunResult:
    episodes = tuple(EpisodeRecord(7, k, k < n_successes, 10) for k in range(5))
    evaluations = {
        mode: EvaluationResult("LIBERO-Goal-v0", "primitive", mode == "greedy", seed, {7: "x"}, episodes, {}, None)
        for mode in ("greedy", "sampled")
    }
    seconds = {"training": 61.0 + seed} if when == "after" else {}
    return RunResult(RLSettings(seed=seed), Path("run"), {when: evaluations}, {}, 8, {}, seconds, 1.0)


def test_options_reach_every_run_and_each_algorithm_gets_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []

    def fake(settings: ComparisonSettings, *arguments: Any) -> dict[str, list[RunResult]]:
        seen.append((settings, *arguments))
        return {"start": [result(0, 2, "before")], "BC": [result(0, 1), result(1, 5)]}

    monkeypatch.setattr(compare, "run_comparison", fake)
    options = (
        "--algorithms start,BC,PPO --seeds 0,1 --tasks 4 --timesteps 640 --states 5 --n-envs 2 --device cpu --resume"
    )
    arguments = ["compare", "--out", str(tmp_path), "--assets", "primitive", "--render-quality", "full"]
    said = CliRunner().invoke(app, [*arguments, *options.split()], env={"COLUMNS": "120"}, catch_exceptions=False)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.output.splitlines() if "│" in line]
    assert rows == [
        ["start", "0", "2 of 5", "12-77 %", "2 of 5", "12-77 %", "0"],
        ["BC", "0, 1", "1, 5 of 5", "20-100 %", "1, 5 of 5", "20-100 %", "61, 62"],
    ]
    assert said.output.splitlines()[-1] == str(tmp_path / "comparison.png")
    settings, folder, _, resume = seen[0]
    assert (list(settings.algorithms), settings.seeds, folder, resume) == (
        ["start", "BC", "PPO"],
        (0, 1),
        tmp_path,
        True,
    )
    stock, cloning = settings.algorithms["PPO"], settings.algorithms["BC"]
    assert isinstance(stock, RLSettings) and isinstance(cloning, SFTSettings)
    assert (stock.task_ids, stock.total_timesteps) == ((4,), 640)
    for each in (stock, cloning):
        assert (each.n_eval_states, each.n_envs, each.device) == (5, 2, "cpu")
        assert (each.assets, each.render_quality) == ("primitive", "full")


def test_ctrl_c_says_what_is_finished_and_the_command_that_resumes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        (tmp_path / "PPO" / "seed_0").mkdir(parents=True)
        (tmp_path / "PPO" / "seed_0" / "results.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "run_comparison", stop)
    arguments = ["compare", "--out", str(tmp_path), "--algorithms", "PPO", "--seeds", "0,1", "--assets", "primitive"]
    monkeypatch.setattr(sys, "argv", ["vla-rl", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 130 and f"1 of 2 runs are finished in {tmp_path}. Resume with:" in said
    assert f"vla-rl compare --out {tmp_path} --algorithms PPO --seeds 0,1 --assets primitive --resume" in said
