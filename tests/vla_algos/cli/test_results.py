from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vla_algos.cli.results import print_result
from vla_algos.evaluation.harness import EpisodeRecord, EvaluationResult
from vla_algos.experiments.results import RunResult
from vla_algos.experiments.settings import RLSettings


def evaluations(n_successes: int) -> dict[str, EvaluationResult]:
    episodes = tuple(EpisodeRecord(task, k, k < n_successes, 10) for task in (3, 8) for k in range(5))
    common: dict[str, Any] = {
        "env_id": "LIBERO-Goal-v0",
        "assets": "primitive",
        "seed": 0,
        "instructions": {3: "open the drawer", 8: "lift the bowl"},
        "episodes": episodes,
        "versions": {},
        "commit": None,
    }
    return {mode: EvaluationResult(deterministic=mode == "greedy", **common) for mode in ("greedy", "sampled")}


@pytest.mark.parametrize("before", [evaluations(1), {}], ids=["with", "without"])
def test_results_are_printed_with_and_without_an_evaluation_before(before: dict[str, EvaluationResult]) -> None:
    stream = io.StringIO()
    result = RunResult(
        RLSettings(), Path("run"), {"before": before, "after": evaluations(4)}, {}, 0, {}, {"training": 60.0}, 1.0
    )
    print_result(Console(file=stream, width=120), result)
    text = stream.getvalue()
    assert "8/10" in text and "training 60" in text
    assert "by task" in text and ("1/5" in text) == bool(before)
