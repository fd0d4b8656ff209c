"""Benchmarks that need a GPU run on a CPU too, so that their logic is tested everywhere."""

from __future__ import annotations

import argparse
import runpy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from vla_algos.errors import RandomWeightsWarning

ROOT = Path(__file__).resolve().parents[1]


def test_the_benchmark_of_a_vla_on_a_gpu_runs_without_one(run_script: Callable[..., str]) -> None:
    arguments = "--vla nano --device cpu --batches 1 3 --micro-batches 2 --lora-rank 2 --repeats 1".split()
    output = run_script(ROOT / "benchmarks" / "gpu_vla.py", *arguments)
    rows = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("|")]
    decoding, updates = ([row for row in rows if len(row) == n and row[0].isdigit()] for n in (8, 6))
    assert [row[0] for row in decoding] == ["1", "3"]
    assert [row[:2] for row in updates] == [["2", "kept"], ["2", "computed again"]]
    assert all(float(cell) > 0 for row in decoding for cell in row[:-1])


@pytest.mark.parametrize("arguments", ["--batches 1 3", "--batches 1 3 --vlm nano"])
def test_the_benchmark_of_reward_models_runs_without_a_gpu(run_script: Callable[..., str], arguments: str) -> None:
    output = run_script(ROOT / "benchmarks" / "reward_model.py", *arguments.split(), "--repeats", "1")
    rows = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["1", "3"]
    assert all(float(cell) > 0 for row in rows[1:] for cell in (row[1], row[3]))


@pytest.mark.slow
def test_an_iteration_is_timed_without_a_warning_of_weights_that_are_meant_to_be_random() -> None:
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "ppo_iteration.py"))
    arguments = argparse.Namespace(
        vla="nano", tasks=8, n_envs=1, n_steps=2, batch_size=2, n_epochs=1, threads=1, device="cpu"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figures = benchmark["run"]("TokenPPO, privileged critic", arguments)
    assert all(figure > 0 for figure in figures.values())
    assert not [warning for warning in caught if issubclass(warning.category, RandomWeightsWarning)]
