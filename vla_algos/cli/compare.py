"""``vla-rl compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from vla_algos.cli.options import (
    ComparedStates,
    RecipeAssets,
    RecipeDevice,
    RecipeEnvs,
    RecipeQuality,
    RecipeSuite,
    RecipeTasks,
    Revision,
    numbers,
    suite_id,
)
from vla_algos.cli.output import interruption_named
from vla_algos.cli.results import print_comparison


def compare(
    recipe: Annotated[str, typer.Option(help="compare, or a YAML file that lists several algorithms.")] = "compare",
    out: Annotated[Path, typer.Option(help="Folder for a folder per algorithm and seed, and a figure.")] = Path(
        "runs/compare"
    ),
    algorithms: Annotated[
        str,
        typer.Option(help="Some of the recipe's, e.g. PPO,A2C; start: the untrained checkpoint. Default: all."),
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds of every algorithm, e.g. 0,1,2.")] = "0",
    suite: RecipeSuite = None,
    tasks: RecipeTasks = "",
    states: ComparedStates = None,
    vla: Annotated[str | None, typer.Option(help="Model to start from; default: the recipe's.")] = None,
    revision: Revision = None,
    timesteps: Annotated[
        int | None, typer.Option(help="Decisions to train each on; BC's epochs change in proportion.", min=1)
    ] = None,
    n_envs: RecipeEnvs = None,
    render_quality: RecipeQuality = None,
    device: RecipeDevice = None,
    assets: RecipeAssets = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Run only what is missing in --out; give the same options again.")
    ] = False,
) -> None:
    """Train several algorithms from one checkpoint with several seeds, and compare their success."""
    from vla_algos.experiments.comparison_settings import load_comparison

    ids = numbers(tasks)
    given: dict[str, Any] = {
        "env_id": suite_id(suite),
        "task_ids": None if ids is None else tuple(ids),
        "n_eval_states": states,
        "vla": vla,
        "revision": revision,
        "total_timesteps": timesteps,
        "n_envs": n_envs,
        "render_quality": render_quality,
        "device": device,
        "assets": assets,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    names = algorithms.split(",") if algorithms else None
    settings = load_comparison(recipe, names, numbers(seeds) or (), **changes)
    # with torch, from here on
    from vla_algos.experiments.compare import FIGURE, describe_progress, run_comparison

    console = Console()
    with interruption_named(lambda: describe_progress(settings, out)):
        results = run_comparison(settings, out, lambda text: console.print(f"[bold]{text}[/bold]"), resume)
    print_comparison(console, results)
    console.print(str(out / FIGURE), highlight=False, soft_wrap=True)
