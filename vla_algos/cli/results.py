"""Tables of results in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from vla_algos.experiments.rl import RLResult


def print_rl_result(console: Console, result: RLResult) -> None:
    """
    Print what reinforcement learning changed.

    :param console: where to
    :param result: of the run
    """
    if result.after:
        sample = result.after["greedy"]
        tasks = list(sample.instructions.values())
        what = tasks[0] if len(tasks) == 1 else f"{sample.env_id}, {len(tasks)} tasks"
        table = Table(title=f"{what} ({sample.assets} assets)")
        for column in ("", "actions", "success", "95 %", "trained on", "held out", "steps"):
            table.add_column(column, justify="left" if column in ("", "actions") else "right")
        for when, evaluations in (("before", result.before), ("after", result.after)):
            for mode, evaluation in evaluations.items():
                low, high = evaluation.interval
                parts = result.split_success(evaluation)
                table.add_row(
                    when,
                    mode,
                    f"{evaluation.successes}/{evaluation.n_episodes}",
                    f"{100 * low:.0f}-{100 * high:.0f} %",
                    "{}/{}".format(*parts["trained on"]),
                    "{}/{}".format(*parts["held out"]),
                    f"{evaluation.mean_length:.0f}",
                )
        console.print(table)
        if len(tasks) > 1 and result.before:
            console.print(_task_table(result))
    console.print("Seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in result.seconds.items()))
    console.print(f"model, figures and logs in {result.folder}", highlight=False)


def _task_table(result: RLResult) -> Table:
    table = Table(title="greedy, by task")
    for column in ("task", "before", "after"):
        table.add_column(column, justify="right")
    table.add_column("instruction")
    for task_id, instruction in result.after["greedy"].instructions.items():
        counts = [
            f"{part.successes}/{part.n_episodes}"
            for part in (evaluation["greedy"].of_task(task_id) for evaluation in (result.before, result.after))
        ]
        table.add_row(str(task_id), *counts, instruction)
    return table
