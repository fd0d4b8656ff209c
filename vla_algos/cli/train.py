"""``vla-rl train``."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from vla_algos.cli.options import (
    RecipeAssets,
    RecipeDevice,
    RecipeEnvs,
    RecipeQuality,
    RecipeSeed,
    RecipeStates,
    RecipeSuite,
    RecipeTasks,
    Revision,
    numbers,
    suite_id,
)
from vla_algos.cli.output import interruption_named
from vla_algos.cli.results import print_result
from vla_algos.errors import CheckpointError, RecipeError

if TYPE_CHECKING:
    from vla_algos.experiments.run_folder import RunFolder
    from vla_algos.experiments.settings import RLSettings, SFTSettings


def train(
    recipe: Annotated[str | None, typer.Option(help="goal (the default), quickstart, or a YAML file.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for model, logs and figures.")] = Path("runs/train"),
    suite: RecipeSuite = None,
    tasks: RecipeTasks = "",
    states: RecipeStates = None,
    vla: Annotated[str | None, typer.Option(help="Model to start from; default: the recipe's.")] = None,
    revision: Revision = None,
    algorithm: Annotated[str | None, typer.Option(help="One of the recipe's algorithms; default: its first.")] = None,
    timesteps: Annotated[
        int | None,
        typer.Option(help="Total decisions to train on; with --resume, more of them extend a finished run.", min=1),
    ] = None,
    curriculum: Annotated[
        str | None, typer.Option(help="paper, frontier or uniform, with the recipe's other keywords, or none.")
    ] = None,
    n_envs: RecipeEnvs = None,
    render_quality: RecipeQuality = None,
    device: RecipeDevice = None,
    seed: RecipeSeed = None,
    assets: RecipeAssets = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted run in --out, with its own settings.")
    ] = False,
) -> None:
    """Improve a VLA by reinforcement learning, and measure its success before and after."""
    from vla_algos.experiments.names import check_scheme
    from vla_algos.experiments.recipe import load_recipe
    from vla_algos.experiments.run_folder import RunFolder
    from vla_algos.experiments.settings import RLSettings

    ids = numbers(tasks)
    # before torch is imported, which takes seconds
    check_scheme(None if curriculum in (None, "none") else {"scheme": curriculum})
    folder = RunFolder.load(out) if resume else RunFolder(out)
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
        "seed": seed,
        "assets": assets,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    base = _settings_of(folder) if resume else None
    if base is not None and recipe is None:
        folder.check_imports_nothing()
        settings: RLSettings | SFTSettings = replace(base, algorithm=algorithm or base.algorithm, **changes)
        settings.check_names()
    else:
        named = algorithm or (base.algorithm if base is not None else None)
        settings = load_recipe(recipe or "goal", named, base, **changes)
    if not isinstance(settings, RLSettings):
        raise RecipeError(
            f"{settings.algorithm} of {recipe} is supervised fine-tuning. Run it with vla-rl sft, which takes "
            "demonstrations (--data)."
        )
    if curriculum is not None:
        keywords = None if curriculum == "none" else {**(settings.curriculum or {}), "scheme": curriculum}
        settings = replace(settings, curriculum=keywords)
    # with torch, from here on
    from vla_algos.experiments.rl import run_rl

    console = Console()
    resuming = shlex.join(["vla-rl", "train", "--out", str(out), "--resume"])
    with interruption_named(folder.what_was_saved, lambda: resuming):
        result = run_rl(settings, out, lambda text: console.print(f"[bold]{text}[/bold]"), resume)
    print_result(console, result)


def _settings_of(folder: RunFolder) -> RLSettings:
    from vla_algos.experiments.settings import RLSettings

    settings = folder.settings
    if not isinstance(settings, RLSettings):
        raise CheckpointError(f"The run in {folder.path} is a supervised fine-tuning. Resume it with vla-rl sft.")
    return settings
