"""Tables of results in a terminal."""

from __future__ import annotations

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
