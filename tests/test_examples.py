"""Every example runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    return result.stdout


@pytest.mark.slow
def test_all_algorithms_are_compared(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    arguments = "--timesteps 8 --n-envs 2 --eval-states 1 --out all".split()
    lines = run("compare_algorithms.py", arguments, tmp_path).splitlines()
    assert sum("greedy" in line for line in lines) == 9
    assert (tmp_path / lines[-1]).exists()


def test_every_example_is_listed() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_example_runs(name: str, tmp_path: Path) -> None:
    assert run(name, ARGUMENTS[name], tmp_path).strip()
