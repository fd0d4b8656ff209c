"""``vla-rl train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vla_algos.cli.assets import Assets, numbers
from vla_algos.cli.results import print_rl_result


def train(
    recipe: Annotated[str, typer.Option(help="goal, quickstart, or a YAML file of that form.")] = "goal",
    out: Annotated[Path, typer.Option(help="Folder for model, logs and figures.")] = Path("runs/train"),
    suite: Annotated[str | None, typer.Option(help="spatial, object, goal, 10 or 90; default: the recipe's.")] = None,
    task_ids: Annotated[str, typer.Option(help="Of the suite, e.g. 0,3,8; default: the recipe's.")] = "",
    vla: Annotated[str | None, typer.Option(help="Where to start; default: the recipe's.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="Section of the recipe; default: its first.")] = None,
    timesteps: Annotated[int | None, typer.Option(help="Decisions to train on.", min=1)] = None,
    curriculum: Annotated[str | None, typer.Option(help="paper, frontier or none; default: the recipe's.")] = None,
    n_envs: Annotated[int | None, typer.Option(help="Environments side by side.", min=1)] = None,
    eval_states: Annotated[int, typer.Option(help="Initial states per task to evaluate on; 0: none.", max=50)] = 50,
    seed: Annotated[int, typer.Option(help="Seed of everything.", min=0)] = 0,
    assets: Assets = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run in --out.")] = False,
) -> None:
    """Improve a VLA by reinforcement learning, and measure its success before and after."""
    from vla_algos.recipes.hyperparams import load_recipe
    from vla_algos.recipes.rl import run_rl
    from vla_gym.tasks.registry import get_suite

    schemes = {None: {}, "none": {"curriculum": None}}
    given = {
        "env_id": None if suite is None else get_suite(suite).env_id,
        "task_ids": numbers(task_ids),
        "vla": vla,
        "total_timesteps": timesteps,
        "n_envs": n_envs,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    changes |= schemes.get(curriculum, {"curriculum": {"scheme": curriculum}})
    settings = load_recipe(recipe, algorithm, seed=seed, assets=assets, n_eval_states=eval_states, **changes)
    console = Console()
    result = run_rl(settings, out, lambda text: console.print(f"[bold]{text}[/bold]"), resume)
    print_rl_result(console, result)
