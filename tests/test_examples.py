"""Every example runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from vla_algos.evaluation.harness import EpisodeRecord, EvaluationResult
from vla_algos.experiments.recipe import FOLDER

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = {
    "01_random_rollout.py": ["--steps", "3"],
    "02_token_ppo.py": ["--timesteps", "8", "--n-steps", "8"],
    "03_stock_sb3.py": ["--timesteps", "16"],
    "own_policy.py": ["--timesteps", "16", "--n-steps", "8"],
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


@pytest.fixture
def run(run_script: Callable[..., str]) -> Callable[..., str]:
    return lambda name, arguments: run_script(ROOT / "examples" / name, *arguments)


@pytest.mark.slow
def test_all_algorithms_are_compared(run: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    # as it is, but for few demonstrations and small groups
    recipe = yaml.safe_load((FOLDER / "quickstart.yml").read_text())
    recipe["env"]["train_states"] = 1
    for algorithm in recipe["algorithm"][1:]:
        algorithm |= {"group_size": 2, "n_groups": 1}
    (tmp_path / "small.yml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    arguments = "--recipe small.yml --timesteps 8 --n-envs 2 --eval-states 1 --out all".split()
    lines = run("compare_algorithms.py", arguments).splitlines()
    assert sum("greedy" in line for line in lines) == 9
    assert (tmp_path / lines[-1]).exists()


def test_every_example_is_listed() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_example_runs(name: str, run: Callable[..., str]) -> None:
    assert run(name, ARGUMENTS[name]).strip()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_environments_are_registered_by_the_example_itself(name: str) -> None:
    """As the tests have registered them already, running it does not show that."""
    assert registers_what_it_makes((ROOT / "examples" / name).read_text(encoding="utf-8"))


def test_who_does_not_register_them_is_found() -> None:
    assert not registers_what_it_makes('import gymnasium as gym\ngym.make("LIBERO-Goal-v0")')
    assert registers_what_it_makes('import gymnasium as gym\nimport vla_gym\ngym.make("LIBERO-Goal-v0")')


def registers_what_it_makes(source: str) -> bool:
    """Whether code that calls ``gym.make`` imports what registers the environments."""
    return "gym.make(" not in source or re.search(r"^(import|from) vla_(gym|algos)\b", source, re.MULTILINE) is not None


def test_a_comparison_goes_on_and_shows_all_seeds_that_are_there(run: Callable[..., str], tmp_path: Path) -> None:
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
    lines = run("compare_algorithms.py", "--timesteps 8 --out out --algorithms start".split()).splitlines()
    assert [line.strip() for line in lines] == [
        "start: greedy 2 of 5 (12-77 %); sampled 2 of 5 (12-77 %)",
        "BC: greedy 1 of 5 (4-62 %); sampled 1 of 5 (4-62 %)",
        "out/task7_8.png",
    ]
    assert (tmp_path / lines[-1]).exists()
