"""Every example runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vla_algos.evaluation.harness import EpisodeRecord, EvaluationResult
from vla_algos.recipes.hyperparams import FOLDER

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = {
    "01_random_rollout.py": ["--steps", "3"],
    "02_token_ppo.py": ["--timesteps", "8", "--n-steps", "8"],
    "03_stock_sb3.py": ["--timesteps", "16"],
    "compare_algorithms.py": [
        "--timesteps",
        "8",
        "--n-envs",
        "2",
        "--eval-states",
        "1",
        "--seeds",
        "0",
        "1",
        "--algorithms",
        "start",
        "A2C",
    ],
}


def run(name: str, arguments: list[str], folder: Path) -> str:
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
    )
    assert result.returncode == 0, result.stderr
    assert "RandomWeightsWarning" not in result.stderr
    return result.stdout


@pytest.mark.slow
def test_all_algorithms_are_compared(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    # as it is, but for few demonstrations and small groups
    recipe = yaml.safe_load((FOLDER / "quickstart.yml").read_text())
    recipe["run"]["n_train_states"] = 1
    for name in ("TokenGRPO", "TokenRLOO", "TPO"):
        recipe[name] |= {"group_size": 2, "n_groups": 1}
    (tmp_path / "small.yml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    arguments = "--recipe small.yml --timesteps 8 --n-envs 2 --eval-states 1 --out all".split()
    lines = run("compare_algorithms.py", arguments, tmp_path).splitlines()
    assert sum("greedy" in line for line in lines) == 9
    assert (tmp_path / lines[-1]).exists()


def test_every_example_is_listed() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_example_runs(name: str, tmp_path: Path) -> None:
    assert run(name, ARGUMENTS[name], tmp_path).strip()


def test_a_comparison_goes_on_and_shows_all_seeds_that_are_there(tmp_path: Path) -> None:
    for name, seed, successes in (("start", 0, 2), ("start", 1, 2), ("BC", 0, 1), ("BC", 1, 5)):
        folder = tmp_path / "out" / f"task7_8_seed{seed}" / name
        folder.mkdir(parents=True)
        episodes = tuple(EpisodeRecord(7, k, k < successes, 10) for k in range(5))
        for mode in ("greedy", "sampled"):
            result = EvaluationResult(
                "LIBERO-Goal-v0", "primitive", mode == "greedy", seed, {7: "x"}, episodes, {}, None
            )
            result.save(folder / f"{mode}.json")
    # stopped before its second evaluation
    (tmp_path / "out" / "task7_8_seed1" / "BC" / "sampled.json").unlink()
    lines = run("compare_algorithms.py", "--timesteps 8 --out out --algorithms start".split(), tmp_path).splitlines()
    assert [line.strip() for line in lines] == [
        "start: greedy 2 of 5 (12-77 %); sampled 2 of 5 (12-77 %)",
        "BC: greedy 1 of 5 (4-62 %); sampled 1 of 5 (4-62 %)",
        "out/task7_8.png",
    ]
    assert (tmp_path / lines[-1]).exists()
