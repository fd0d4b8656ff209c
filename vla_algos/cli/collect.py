"""``vla-rl collect``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from vla_algos.cli.options import SUITE_HELP, Assets, Tasks, numbers
from vla_algos.cli.output import interruption_named, this_command
from vla_gym.processors import available_cpus

if TYPE_CHECKING:
    from vla_gym.datasets.record import TaskReport


def collect(
    suite: Annotated[str, typer.Option(help=f"{SUITE_HELP}.")],
    out: Annotated[Path, typer.Option(help="Folder for one HDF5 file per task; a second run continues there.")],
    episodes: Annotated[int, typer.Option(help="Episodes per task, failures included.", min=1)] = 50,
    tasks: Tasks = "",
    states: Annotated[
        int, typer.Option(help="Initial states per task to start from, in turn, from the first on.", min=1, max=50)
    ] = 50,
    n_envs: Annotated[
        int | None, typer.Option(help="Environments side by side, a process each; default: one per core.", min=1)
    ] = None,
    image_size: Annotated[int, typer.Option(help="Height and width of the images (px).", min=16)] = 128,
    cameras: Annotated[str, typer.Option(help="agentview, wrist, both with a comma between, or none.")] = (
        "agentview,wrist"
    ),
    render_quality: Annotated[str, typer.Option(help="fast or full.")] = "fast",
    action_noise: Annotated[
        float, typer.Option(help="Standard deviation of noise on translation commands.", min=0.0)
    ] = 0.05,
    keep_noops: Annotated[bool, typer.Option("--keep-noops", help="Keep commands that do nothing.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the expert.", min=0)] = 0,
    assets: Assets = "auto",
) -> None:
    """Record successful demonstrations of the scripted expert in LIBERO's HDF5 layout."""
    from vla_gym.datasets.record import record_demonstrations
    from vla_gym.datasets.recorder import RecordingSettings

    settings = RecordingSettings(
        suite=suite,
        image_size=image_size,
        cameras=() if cameras == "none" else tuple(cameras.split(",")),
        render_quality=render_quality,
        assets=assets,
        seed=seed,
        action_noise=action_noise,
        keep_noops=keep_noops,
        n_init_states=states,
    )
    console = Console(highlight=False)
    columns = (TextColumn("episodes"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # the same command continues
    with interruption_named(resuming=this_command), Progress(*columns, console=console) as progress:
        bar = progress.add_task("episodes", total=None)
        reports = record_demonstrations(
            settings,
            out,
            episodes,
            numbers(tasks),
            n_envs or available_cpus(),
            lambda n_over, n_episodes: progress.update(bar, completed=n_over, total=n_episodes),
        )
    console.print(_table(reports))
    if any(report.lost for report in reports):
        console.print("Lost episodes were cut short by an error; the same command tries them again.", style="yellow")


def _table(reports: Sequence[TaskReport]) -> Table:
    table = Table("task", "kept", "of", "expert failed", "replay failed", "lost", "")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for report in reports:
        counts = [report.kept, report.attempted, *map(len, report.failed.values()), report.lost]
        note = "" if report.is_known else "unknown to the expert"
        table.add_row(f"{report.task.task_id} {report.task.instruction}", *map(str, counts), note)
    return table
