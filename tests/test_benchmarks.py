"""Benchmarks that need a GPU run on a CPU too, so that their logic is tested everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_benchmark_of_a_vla_on_a_gpu_runs_without_one() -> None:
    arguments = "--preset nano --device cpu --batches 1 3 --micro-batches 2 --rank 2 --repeats 1".split()
    result = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu_vla.py"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    rows = [line.strip("| ").split(" | ") for line in result.stdout.splitlines() if line.startswith("|")]
    decoding, updates = ([row for row in rows if len(row) == n and row[0].isdigit()] for n in (8, 6))
    assert [row[0] for row in decoding] == ["1", "3"]
    assert [row[:2] for row in updates] == [["2", "kept"], ["2", "computed again"]]
    assert all(float(cell) > 0 for row in decoding for cell in row[:-1])
