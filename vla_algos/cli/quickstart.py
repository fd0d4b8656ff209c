"""``vla-rl quickstart``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vla_algos.cli.options import Assets
from vla_algos.cli.output import interruption_named
from vla_algos.cli.results import print_result


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for model, curve, films and figures.")] = Path("runs/quickstart"),
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The same in under three minutes; its figures mean nothing.")
    ] = False,
    task_id: Annotated[int | None, typer.Option(help="Task of LIBERO-Goal; default: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything.", min=0)] = 0,
    assets: Assets = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run in --out, with its own settings.")
    ] = False,
) -> None:
    """Improve the shipped checkpoint at one LIBERO-Goal task by TokenPPO, and show what changed."""
    from vla_algos.experiments.names import check_env_names
    from vla_algos.experiments.run_folder import RunFolder

    # before torch is imported, which takes seconds
    check_env_names("goal", None if task_id is None else [task_id], assets)
    folder = RunFolder.load(out) if resume else RunFolder(out)
    from vla_algos.experiments.quickstart import CURVE, FILMS, quickstart_settings, run_quickstart

    console = Console()
    changes = {} if task_id is None else {"task_ids": (task_id,)}
    settings = folder.settings if resume else quickstart_settings(smoke, seed=seed, assets=assets, **changes)
    resuming = shlex.join(["vla-rl", "quickstart", "--out", str(out), "--resume"])
    with interruption_named(folder.what_was_saved, lambda: resuming):
        result = run_quickstart(settings, out, lambda text: console.print(f"[bold]{text}[/bold]"), resume)
    print_result(console, result)
    for file in (CURVE, *FILMS.values(), "results.json"):
        console.print(str(result.folder / file), highlight=False)
