"""Options and figures that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ASSETS_HELP = "auto, primitive, or a folder in LIBERO's layout"
SUITE_HELP = "spatial, object, goal, 10 or 90"
RECIPES = "default: the recipe's"
Assets = Annotated[str, typer.Option("--assets", help=f"{ASSETS_HELP}.")]
Tasks = Annotated[str, typer.Option("--tasks", help="Tasks of the suite, e.g. 0,3,8; default: all.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]

# of commands with a recipe, which gives the defaults
RecipeSuite = Annotated[str | None, typer.Option("--suite", help=f"{SUITE_HELP}; {RECIPES}.")]
RecipeTasks = Annotated[str, typer.Option("--tasks", help=f"Tasks of the suite, e.g. 0,3,8; {RECIPES}.")]
RecipeStates = Annotated[
    int | None, typer.Option("--states", help="Initial states per task to evaluate on; 0: none.", min=0, max=50)
]
ComparedStates = Annotated[
    int | None, typer.Option("--states", help=f"Initial states per task to evaluate on; {RECIPES}.", min=1, max=50)
]
RecipeEnvs = Annotated[int | None, typer.Option("--n-envs", help="Environments side by side.", min=1)]
RecipeQuality = Annotated[str | None, typer.Option("--render-quality", help=f"fast or full; {RECIPES}.")]
RecipeDevice = Annotated[str | None, typer.Option("--device", help=f"auto, cpu or cuda; {RECIPES}.")]
RecipeSeed = Annotated[int | None, typer.Option("--seed", help="Seed of everything.", min=0)]
RecipeAssets = Annotated[str | None, typer.Option("--assets", help=f"{ASSETS_HELP}; {RECIPES}.")]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a model on the Hugging Face Hub.")
]


def numbers(text: str) -> list[int] | None:
    """Numbers of a comma-separated option; None if it is empty."""
    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError as error:
        raise typer.BadParameter(f"expected numbers with commas between, e.g. 0,3,8, got {text!r}") from error


def suite_id(name: str | None) -> str | None:
    """Id of the suite of that name; None for None."""
    from vla_gym.tasks.registry import get_suite

    return None if name is None else get_suite(name).env_id


def megabytes(n_bytes: int) -> str:
    """A size for people, e.g. ``1,234 MB``."""
    return f"{n_bytes / 1e6:,.0f} MB"
