"""``vla-rl assets``."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vla_algos.cli.options import Assets, megabytes, numbers

app = typer.Typer(help="Asset packs and the cache of built scenes.", no_args_is_help=True)


class Quality(str, Enum):
    """Render model that ``build`` makes."""

    FAST = "fast"
    FULL = "full"
    NONE = "none"


@app.command()
def check(assets: Assets = "auto") -> None:
    """Say which pack is in use, what it lacks, and what the cache holds."""
    from vla_gym.assets.completeness import check_pack
    from vla_gym.assets.resolve import resolve_assets
    from vla_gym.sim.cache import cache_usage

    pack = resolve_assets(assets)
    found = check_pack(pack.path)
    usage = cache_usage()
    missing = f", {len(found.problems)} missing or damaged" if found.problems else ", all there"
    rows = {
        "pack": pack.name,
        "because": pack.chosen_by,
        "folder": str(pack.path),
        "files": f"{found.n_files} that the 130 tasks read{missing}",
        "cache": str(usage.path),
        "writable": "yes" if usage.is_writable else "no: scenes are built anew in every process",
        "size": f"{megabytes(usage.size)}, {megabytes(usage.free)} free",
        "scenes": f"{usage.n_scenes}, with {usage.n_models} compiled models",
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    console = Console(highlight=False)
    console.print(table)
    for problem in found.problems:
        console.print(Padding(Text(problem, style="red"), (0, 0, 0, 2), expand=False))
    if not found.is_complete:
        console.print("Remedy: vla-rl assets download, or correct the folder.")
        raise typer.Exit(1)


@app.command()
def build(
    suite: Annotated[list[str] | None, typer.Option(help="spatial, object, goal, 10, 90 or all; repeatable.")] = None,
    task_ids: Annotated[str, typer.Option(help="Of each suite, e.g. 0,3,8; default: all.")] = "",
    quality: Annotated[Quality, typer.Option(help="Render model to build too.")] = Quality.FAST,
    assets: Assets = "auto",
) -> None:
    """Build the scenes that the cache lacks, so that no run has to wait for them."""
    from vla_gym.assets.resolve import resolve_assets
    from vla_gym.sim.cache import fill_cache
    from vla_gym.tasks.registry import SUITES, get_suite

    names = suite or ["all"]
    suites = list(SUITES.values()) if "all" in names else [get_suite(name) for name in names]
    ids = numbers(task_ids)
    pack = resolve_assets(assets)
    console = Console(highlight=False)
    console.print(f"Assets: {pack.name} ({pack.chosen_by})", markup=False)
    for spec in suites:
        filled = fill_cache(spec, ids, pack, None if quality is Quality.NONE else quality.value)
        counts = f"{_counted(filled.n_tasks, 'task')}, {_counted(filled.n_scenes, 'scene')}"
        console.print(f"{spec.env_id}: {counts}, {filled.seconds:.1f} s")


@app.command()
def download(
    force: Annotated[bool, typer.Option("--force", help="Fetch them even if they are there.")] = False,
) -> None:
    """Fetch LIBERO's own assets from the Hugging Face Hub into the cache."""
    from vla_gym.assets.download import download_assets
    from vla_gym.assets.resolve import resolve_assets

    folder = download_assets(force)
    console = Console(highlight=False)
    console.print(f"LIBERO's assets are complete in {folder}", markup=False)
    pack = resolve_assets()
    if pack.path != folder:
        console.print(f"Not in use: another pack is {pack.chosen_by} ({pack.path}).", style="yellow", markup=False)


def _counted(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"
