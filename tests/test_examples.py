"""Every example runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = {
    "01_random_rollout.py": ["--steps", "3"],
    "02_token_ppo.py": ["--timesteps", "8", "--n-steps", "8"],
    "03_stock_sb3.py": ["--timesteps", "16"],
    "own_policy.py": ["--timesteps", "16", "--n-steps", "8"],
}


@pytest.fixture
def run(run_script: Callable[..., str]) -> Callable[..., str]:
    return lambda name, arguments: run_script(ROOT / "examples" / name, *arguments)


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
