"""``vla-rl quickstart``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vla_algos.cli.options import Assets
from vla_algos.cli.results import print_rl_result


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for model, curve, films and figures.")] = Path("runs/quickstart"),
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The same in under three minutes; its figures mean nothing.")
    ] = False,
    task_id: Annotated[int | None, typer.Option(help="Task of LIBERO-Goal; default: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything.", min=0)] = 0,
    assets: Assets = "auto",
) -> None:
    """Improve the shipped checkpoint at one LIBERO-Goal task by TokenPPO, and show what changed."""
    from vla_algos.recipes.quickstart import CURVE, FILMS, quickstart_settings, run_quickstart

    console = Console()
    changes = {} if task_id is None else {"task_ids": (task_id,)}
    settings = quickstart_settings(smoke, seed=seed, assets=assets, **changes)
    result = run_quickstart(settings, out, lambda text: console.print(f"[bold]{text}[/bold]"))
    print_rl_result(console, result)
    for file in (CURVE, *FILMS.values(), "results.json"):
        console.print(str(result.folder / file), highlight=False)
