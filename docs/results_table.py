"""
Rows of the tables in results.md, from the folders that vla-rl quickstart and vla-rl train have written.

    python docs/results_table.py runs/quickstart runs/goal
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vla_algos.evaluation.statistics import wilson_interval

COLUMNS = ("tasks", "seed", "actions", "before", "after", "95 %", "new before", "new after", "decisions", "commit")
"""New: the initial states that training has not seen."""


def rate(successes: int, n: int) -> str:
    """Counts, or a percentage where there are many."""
    return f"{successes}/{n}" if n <= 50 else f"{successes}/{n} ({100 * successes / n:.1f} %)"


def rows(results: dict[str, Any]) -> list[list[str]]:
    """One row per kind of actions."""
    settings = results["settings"]
    tasks = ", ".join(map(str, settings["task_ids"])) or "all"
    found = []
    for mode in ("greedy", "sampled"):
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


def main() -> None:
    """Print the table."""
    print("|", " | ".join(COLUMNS), "|")
    print("|" + "---|" * len(COLUMNS))
    for folder in sys.argv[1:]:
        for row in rows(json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))):
            print("|", " | ".join(row), "|")


if __name__ == "__main__":
    main()
