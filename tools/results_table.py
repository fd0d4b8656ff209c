"""
Tables of results.md.

    python tools/results_table.py runs/quickstart runs/goal          # of vla-rl quickstart and vla-rl train
    python tools/results_table.py --by-task runs/goal                # the same, a row per task
    python tools/results_table.py --policies runs/compare                   # of vla-rl compare, by name
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_algos.evaluation.harness import EvaluationResult
from vla_algos.evaluation.statistics import success_interval
from vla_algos.experiments.compare import comparison_results, evaluations_of
from vla_algos.experiments.results import MODES, RunResult
from vla_algos.experiments.run_folder import RunFolder
from vla_algos.experiments.settings import RLSettings

COLUMNS = ("tasks", "seed", "actions", "before", "after", "95 %", "new before", "new after", "decisions", "commit")
"""New: the initial states that training has not seen."""
TASK_COLUMNS = ("task", "instruction", "greedy before", "greedy after", "sampled before", "sampled after")
POLICY_COLUMNS = ("policy", "greedy", "95 %", "sampled", "95 %", "commit")


def rate(successes: int, n: int) -> str:
    """Counts, or a percentage where there are many."""
    return f"{successes}/{n}" if n <= 50 else f"{successes}/{n} ({100 * successes / n:.1f} %)"


def interval(successes: list[int], n: int) -> str:
    """95 %: Wilson's of one run, the bootstrap's over several."""
    low, high = success_interval(successes, n)
    return f"{100 * low:.0f}-{100 * high:.0f} %"


def rows(result: RunResult) -> list[list[str]]:
    """One row per kind of actions."""
    settings = result.settings
    tasks = ", ".join(map(str, settings.task_ids)) if isinstance(settings, RLSettings) else ""
    found = []
    for mode in MODES:
        before, after = result.before[mode], result.after[mode]
        found.append(
            [
                tasks or "all",
                str(settings.seed),
                mode,
                *(rate(part.successes, part.n_episodes) for part in (before, after)),
                interval([after.successes], after.n_episodes),
                *(rate(*result.split_success(part)["held out"]) for part in (before, after)),
                f"{result.n_timesteps:,}",
                (result.provenance["commit"] or "unknown")[:7],
            ]
        )
    return found


def task_rows(result: RunResult) -> list[list[str]]:
    """One row per task."""
    found = []
    for task_id, instruction in result.before["greedy"].instructions.items():
        parts = [stage[mode].of_task(task_id) for mode in MODES for stage in (result.before, result.after)]
        found.append([str(task_id), instruction, *(rate(part.successes, part.n_episodes) for part in parts)])
    return found


def policy_row(name: str, evaluations: list[list[EvaluationResult]]) -> list[str]:
    """Of one policy, or of those that several seeds have made: successes of each, interval over them."""
    row, commits = [name], set()
    for results in zip(*evaluations, strict=True):
        counts = [result.successes for result in results]
        n = results[0].n_episodes
        cell = rate(counts[0], n) if len(counts) == 1 else f"{', '.join(map(str, counts))} of {n}"
        row += [cell, interval(counts, n)]
        commits |= {(result.commit or "unknown")[:7] for result in results}
    return [*row, ", ".join(sorted(commits))]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--by-task", action="store_true")
    kind.add_argument("--policies", action="store_true")
    args = parser.parse_args()
    if args.policies:
        columns, table = (
            POLICY_COLUMNS,
            [
                policy_row(*group)
                for folder in args.folders
                for group in evaluations_of(comparison_results(folder)).items()
            ],
        )
    else:
        columns, rows_of = (TASK_COLUMNS, task_rows) if args.by_task else (COLUMNS, rows)
        table = [row for folder in args.folders for row in rows_of(RunFolder.load(folder).results)]
    for row in (columns, ["---"] * len(columns), *table):
        print("|", " | ".join(row), "|")


if __name__ == "__main__":
    main()
