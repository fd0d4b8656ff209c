"""``vla-rl quickstart``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vla_algos.cli.options import Assets, RecipeDevice, RecipeEnvs, RecipeQuality, RecipeStates, numbers
from vla_algos.cli.output import interruption_named
from vla_algos.cli.results import print_result


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for model, curve, films and figures.")] = Path("runs/quickstart"),
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The same in under three minutes; its results mean nothing.")
    ] = False,
    tasks: Annotated[str, typer.Option(help="One task of LIBERO-Goal, e.g. 7; default: the recipe's.")] = "",
    states: RecipeStates = None,
    n_envs: RecipeEnvs = None,
    render_quality: RecipeQuality = None,
    device: RecipeDevice = None,
    seed: Annotated[int, typer.Option(help="Seed of everything.", min=0)] = 0,
    assets: Assets = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted run in --out, with its own settings.")
    ] = False,
) -> None:
    """Improve the shipped checkpoint at one LIBERO-Goal task by TokenPPO, and show what changed."""
    from vla_algos.errors import CheckpointError
    from vla_algos.experiments.names import check_env_names
    from vla_algos.experiments.run_folder import RunFolder
    from vla_algos.experiments.settings import RLSettings

    # before torch is imported, which takes seconds
    ids = numbers(tasks)
    if ids is not None and len(ids) != 1:
        raise typer.BadParameter(f"--tasks is {tasks}; the quickstart trains on one task. For more: vla-rl train.")
    check_env_names("goal", ids, assets, render_quality)
    folder = RunFolder.load(out) if resume else RunFolder(out)
    if resume:
        folder.check_imports_nothing()
    from vla_algos.experiments.quickstart import CURVE, FILMS, quickstart_settings, run_quickstart

    console = Console()
    given = {
        "task_ids": None if ids is None else tuple(ids),
        "n_eval_states": states,
        "n_envs": n_envs,
        "render_quality": render_quality,
        "device": device,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    settings = folder.settings if resume else quickstart_settings(smoke, seed=seed, assets=assets, **changes)
    if not isinstance(settings, RLSettings):
        raise CheckpointError(f"The run in {out} is not a quickstart. Resume it with {settings.command}.")
    resuming = shlex.join(["vla-rl", "quickstart", "--out", str(out), "--resume"])
    with interruption_named(folder.what_was_saved, lambda: resuming):
        result = run_quickstart(settings, out, lambda text: console.print(f"[bold]{text}[/bold]"), resume)
    print_result(console, result)
    for file in (CURVE, *FILMS.values(), "results.json"):
        console.print(str(result.folder / file), highlight=False)
