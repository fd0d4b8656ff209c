"""``vla-rl reward``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from vla_algos.cli.options import SUITE_HELP, Assets, Device, Tasks, numbers, suite_id
from vla_algos.cli.output import interruption_named, this_command

app = typer.Typer(help="The learned process reward.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def data(
    out: Annotated[Path, typer.Option(help="Folder for one file of films per source; a second run continues there.")],
    suite: Annotated[str, typer.Option(help=f"{SUITE_HELP}.")] = "goal",
    vla: Annotated[
        list[str] | None,
        typer.Option(help="Shipped checkpoint, checkpoint folder, or Hugging Face id that acts; repeatable."),
    ] = None,
    demonstrations: Annotated[
        Path | None, typer.Option(help="HDF5 file or folder of vla-rl collect, to be played as well.")
    ] = None,
    branches: Annotated[
        bool,
        typer.Option("--branches", help="Let models go on where demonstrations are left, after random moves, too."),
    ] = False,
    tasks: Tasks = "",
    states: Annotated[int, typer.Option(help="Initial states per task, from the first on.", min=1, max=50)] = 50,
    temperature: Annotated[
        float | None,
        typer.Option(help="Temperature of sampled actions; default: as in the checkpoint's training.", min=1e-3),
    ] = None,
    n_envs: Annotated[int, typer.Option(help="Environments side by side.", min=1)] = 8,
    render_quality: Annotated[str, typer.Option(help="fast or full.")] = "fast",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of everything.", min=0)] = 0,
    assets: Assets = "auto",
) -> None:
    """Film successes and failures, with what the simulator knows about them."""
    from vla_algos.experiments.names import check_env_names, check_vla

    task_ids, vlas = numbers(tasks), tuple(vla or ["compact-libero-goal"])
    if branches and demonstrations is None:
        raise typer.BadParameter("--branches needs the --demonstrations that they leave.")
    # before torch is imported, which takes seconds
    for each in vlas:
        check_vla(each)
    check_env_names(suite, task_ids, assets, render_quality)
    from vla_algos.experiments.reward_data import RewardDataSettings, record_reward_data

    settings = RewardDataSettings(
        env_id=suite_id(suite) or suite,
        vlas=vlas,
        demonstrations=None if demonstrations is None else str(demonstrations),
        has_branches=branches,
        task_ids=None if task_ids is None else tuple(task_ids),
        n_init_states=states,
        temperature=temperature,
        assets=assets,
        render_quality=render_quality,
        n_envs=n_envs,
        device=device,
        seed=seed,
    )
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with interruption_named(resuming=this_command), Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        rows: dict[str, int] = {}

        def show(source: str, n_films: int, n_starts: int) -> None:
            if source not in rows:
                rows[source] = int(bars.add_task(source, total=n_starts))
            bars.update(rows[source], completed=n_films)  # type: ignore[arg-type]

        found = record_reward_data(settings, out, show)
    table = Table("source", "films", "successes")
    for column in table.columns[1:]:
        column.justify = "right"
    for source, counts in found.items():
        table.add_row(source, *map(str, counts))
    console.print(table)
