"""
Tables of results.md.

    python docs/results_table.py runs/quickstart runs/goal          # of vla-rl quickstart and vla-rl train
    python docs/results_table.py --by-task runs/goal                # the same, a row per task
    python docs/results_table.py --policies runs/compare/task4_*/*  # folders with greedy.json and sampled.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from vla_algos.evaluation.statistics import wilson_interval

COLUMNS = ("tasks", "seed", "actions", "before", "after", "95 %", "new before", "new after", "decisions", "commit")
"""New: the initial states that training has not seen."""
TASK_COLUMNS = ("task", "instruction", "greedy before", "greedy after", "sampled before", "sampled after")
POLICY_COLUMNS = ("policy", "greedy", "95 %", "sampled", "95 %")
MODES = ("greedy", "sampled")


def rate(successes: int, n: int) -> str:
    """Counts, or a percentage where there are many."""
    return f"{successes}/{n}" if n <= 50 else f"{successes}/{n} ({100 * successes / n:.1f} %)"


def rows(results: dict[str, Any]) -> list[list[str]]:
    """One row per kind of actions."""
    settings = results["settings"]
    tasks = ", ".join(map(str, settings["task_ids"])) or "all"
    found = []
    for mode in MODES:
        before, after = (results[when][mode] for when in ("before", "after"))
        low, high = wilson_interval(after["successes"], after["n_episodes"])
        found.append(
            [
                tasks,
                str(settings["seed"]),
                mode,
                *(rate(part["successes"], part["n_episodes"]) for part in (before, after)),
                f"{100 * low:.0f}-{100 * high:.0f} %",
                *(rate(*part["split_success"]["held out"]) for part in (before, after)),
                f"{results['n_timesteps']:,}",
                (results["provenance"]["commit"] or "unknown")[:7],
            ]
        )
    return found


def task_rows(results: dict[str, Any]) -> list[list[str]]:
    """One row per task."""
    first = results["before"]["greedy"]["tasks"]
    return [
        [task, first[task]["instruction"]]
        + [
            rate(results[when][mode]["tasks"][task]["successes"], results[when][mode]["tasks"][task]["n_episodes"])
            for mode in MODES
            for when in ("before", "after")
        ]
        for task in first
    ]


def policy_row(folder: Path) -> list[str]:
    """Of one policy."""
    row = [folder.name]
    for mode in MODES:
        result = json.loads((folder / f"{mode}.json").read_text(encoding="utf-8"))
        low, high = (100 * bound for bound in result["interval_95"])
        row += [rate(result["successes"], result["n_episodes"]), f"{low:.0f}-{high:.0f} %"]
    return row


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--by-task", action="store_true")
    kind.add_argument("--policies", action="store_true")
    args = parser.parse_args()
    columns, table = COLUMNS, []
    for folder in args.folders:
        if args.policies:
            columns = POLICY_COLUMNS
            table.append(policy_row(folder))
            continue
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        columns = TASK_COLUMNS if args.by_task else COLUMNS
        table += task_rows(results) if args.by_task else rows(results)
    for row in (columns, ["---"] * len(columns), *table):
        print("|", " | ".join(row), "|")


if __name__ == "__main__":
    main()
