"""``vla-rl quickstart``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for model, curve, film and figures.")] = Path("runs/quickstart"),
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The same in under three minutes; its figures mean nothing.")
    ] = False,
    task_id: Annotated[int, typer.Option(help="Task of LIBERO-Goal.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    assets: Annotated[str, typer.Option(help="auto, primitive, or a folder in LIBERO's layout.")] = "auto",
) -> None:
    """Train a compact VLA on one LIBERO-Goal task: scripted demonstrations, behaviour cloning, TokenPPO."""
    from vla_algos.recipes.quickstart import QuickstartResult, QuickstartSettings, run_quickstart, split_success

    console = Console()
    make = QuickstartSettings.smoke if smoke else QuickstartSettings
    settings = make(task_id=task_id, seed=seed, assets=assets)
    result: QuickstartResult = run_quickstart(settings, out, lambda text: console.print(f"[bold]{text}[/bold]"))

    assets_name = result.after["greedy"].assets
    table = Table(title=f"{result.after['greedy'].instructions[task_id]} ({assets_name} assets)")
    for column in ("", "actions", "success", "95 %", "trained on", "held out", "steps"):
        table.add_column(column, justify="left" if column in ("", "actions") else "right")
    for name, results in (("before PPO", result.before), ("after PPO", result.after)):
        for mode, evaluation in results.items():
            low, high = evaluation.interval
            parts = split_success(evaluation)
            table.add_row(
                name,
                mode,
                f"{evaluation.successes}/{evaluation.n_episodes}",
                f"{100 * low:.0f}-{100 * high:.0f} %",
                "{}/{}".format(*parts["trained"]),
                "{}/{}".format(*parts["held out"]),
                f"{evaluation.mean_length:.0f}",
            )
    console.print(table)
    console.print("Seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in result.seconds.items()))
    for file in ("model.zip", "curve.png", "episode.mp4", "results.json"):
        console.print(str(result.folder / file), highlight=False)
