"""Tables of results in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from vla_algos.experiments.results import RunResult


def print_result(console: Console, result: RunResult) -> None:
    """
    Print what a run changed.

    :param console: where to
    :param result: of the run
    """
    if result.validations:
        console.print(_validation_table(result))
    if result.after:
        console.print(_success_table(result))
        if len(result.after["greedy"].instructions) > 1:
            console.print(_task_table(result))
    console.print("Seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in result.seconds.items()))
    console.print(f"Peak memory: {result.peak_memory_mb:.0f} MB")
    console.print(f"model, figures and logs in {result.folder}", highlight=False)


def print_comparison(console: Console, results: Mapping[str, Sequence[RunResult]]) -> None:
    """
    Print the success of several algorithms, a row each.

    With one seed intervals are Wilson's of its episodes, with several the bootstrap's over seeds.

    :param console: where to
    :param results: by algorithm, one per seed
    """
    from vla_algos.evaluation.statistics import success_interval
    from vla_algos.experiments.compare import evaluations_of

    table = Table("policy", "seeds")
    for column in ("greedy", "95 %", "sampled", "95 %", "training (s)"):
        table.add_column(column, justify="right")
    for name, evaluations in evaluations_of(results).items():
        cells = []
        for of_mode in zip(*evaluations, strict=True):
            counts, n = [evaluation.successes for evaluation in of_mode], of_mode[0].n_episodes
            low, high = success_interval(counts, n)
            cells += [f"{', '.join(map(str, counts))} of {n}", f"{100 * low:.0f}-{100 * high:.0f} %"]
        seconds = [result.seconds.get("training", 0.0) for result in results[name]]
        seeds = ", ".join(str(result.settings.seed) for result in results[name])
        table.add_row(name, seeds, *cells, ", ".join(f"{value:.0f}" for value in seconds))
    console.print(table)


def _validation_table(result: RunResult) -> Table:
    table = Table(title="validation, teacher-forced | free-running")
    for column in ("step", "token accuracy", "L1 error", "bin error"):
        table.add_column(column, justify="right")
    for row in result.validations:
        pairs = [f"{row[f'{n}_forced']:.3f} | {row[f'{n}_free']:.3f}" for n in ("accuracy", "l1_error", "bin_error")]
        table.add_row(str(int(row["step"])), *pairs)
    return table


def _success_table(result: RunResult) -> Table:
    sample = result.after["greedy"]
    tasks = list(sample.instructions.values())
    what = tasks[0] if len(tasks) == 1 else f"{sample.env_id}, {len(tasks)} tasks"
    table = Table(title=f"{what} ({sample.assets} assets)")
    seen = result.settings.seen_states
    for column in ("", "actions", "success", "95 %", seen, "held out", "steps"):
        table.add_column(column, justify="left" if column in ("", "actions") else "right")
    for when, evaluations in result.evaluations.items():
        for mode, evaluation in evaluations.items():
            low, high = evaluation.interval
            parts = result.split_success(evaluation)
            table.add_row(
                when,
                mode,
                f"{evaluation.successes}/{evaluation.n_episodes}",
                f"{100 * low:.0f}-{100 * high:.0f} %",
                "{}/{}".format(*parts[seen]),
                "{}/{}".format(*parts["held out"]),
                f"{evaluation.mean_length:.0f}",
            )
    return table


def _task_table(result: RunResult) -> Table:
    table = Table(title="greedy, by task")
    stages = {when: evaluations["greedy"] for when, evaluations in result.evaluations.items() if evaluations}
    for column in ("task", *stages):
        table.add_column(column, justify="right")
    table.add_column("instruction")
    for task_id, instruction in result.after["greedy"].instructions.items():
        parts = [evaluation.of_task(task_id) for evaluation in stages.values()]
        table.add_row(str(task_id), *(f"{part.successes}/{part.n_episodes}" for part in parts), instruction)
    return table
