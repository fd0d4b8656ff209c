"""``vla-rl assets``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vla_algos.cli.options import Assets, megabytes, numbers

if TYPE_CHECKING:
    from vla_gym.tasks.registry import SuiteSpec

app = typer.Typer(help="Asset packs and the cache of built scenes.", no_args_is_help=True, rich_markup_mode=None)


class Quality(str, Enum):
    """Render model that ``build`` makes."""

    FAST = "fast"
    FULL = "full"
    NONE = "none"


@app.command()
def check(assets: Assets = "auto") -> None:
    """Say which pack is in use, what it lacks, and what the cache holds."""
    from vla_gym.assets.completeness import PackCheck, check_pack
    from vla_gym.assets.resolve import resolve_assets
    from vla_gym.scenes.cache import cache_usage

    pack = resolve_assets(assets)
    # a pack that is elsewhere has only its scenes here
    found = check_pack(pack.path) if pack.has_files else PackCheck(0, ())
    usage = cache_usage()
    missing = f", {len(found.problems)} missing or damaged" if found.problems else ", all there"
    rows = {
        "pack": pack.name,
        "because": pack.chosen_by,
        "folder": str(pack.path),
        "files": f"{found.n_files} that the 130 tasks read{missing}"
        if pack.has_files
        else "elsewhere; only its scenes are here",
        "cache": str(usage.path),
        "writable": "yes" if usage.is_writable else "no: every process builds scenes again",
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
    tasks: Annotated[str, typer.Option(help="Of each suite, e.g. 0,3,8; default: all.")] = "",
    render_quality: Annotated[Quality, typer.Option(help="Render model to build too.")] = Quality.FAST,
    assets: Assets = "auto",
) -> None:
    """Build the scenes that the cache lacks, so that no run has to wait for them."""
    from vla_gym.assets.resolve import resolve_assets
    from vla_gym.scenes.cache import fill_cache

    suites = _suites(suite or ["all"])
    ids = numbers(tasks)
    pack = resolve_assets(assets)
    console = Console(highlight=False)
    console.print(f"Assets: {pack.name} ({pack.chosen_by})", markup=False)
    for spec in suites:
        filled = fill_cache(spec, ids, pack, None if render_quality is Quality.NONE else render_quality.value)
        counts = f"{_counted(filled.n_tasks, 'task')}, {_counted(filled.n_scenes, 'scene')}"
        console.print(f"{spec.env_id}: {counts}, {filled.seconds:.1f} s")


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="File to write.")],
    suite: Annotated[list[str], typer.Option(help="spatial, object, goal, 10, 90 or all; repeatable.")],
    tasks: Annotated[str, typer.Option(help="Of each suite, e.g. 0,3,8; default: all.")] = "",
    render_quality: Annotated[Quality, typer.Option(help="Render model that goes with them.")] = Quality.FAST,
    assets: Assets = "auto",
) -> None:
    """Write scenes to one file, for machines without hf-libero and robosuite; what the cache lacks is built first."""
    from vla_gym.assets.resolve import resolve_assets
    from vla_gym.scenes.archive import export_scenes

    ids = numbers(tasks)
    chosen = [task for spec in _suites(suite) for task in (spec.tasks if ids is None else map(spec.task, ids))]
    done = export_scenes(
        chosen, resolve_assets(assets), None if render_quality is Quality.NONE else render_quality.value, out
    )
    console = Console(highlight=False, soft_wrap=True)
    counts = f"{_counted(len(done.tasks), 'task')}, {_counted(done.n_models, 'model')}, pack {done.pack}"
    console.print(f"{out}: {counts}, {megabytes(done.size)}", markup=False)
    console.print(f"sha256: {done.sha256}")
    console.print(f"There: vla-rl assets import {out.name}", markup=False)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What export wrote.")],
    into: Annotated[
        Path | None, typer.Option(help="Folder to name in VLA_GYM_SCENES afterwards; default: the cache.")
    ] = None,
    sha256: Annotated[str, typer.Option(help="Checksum that export printed; the file is refused if it differs.")] = "",
) -> None:
    """
    Check a file of scenes and put them where environments find them.

    Checked: list, names, sizes and checksums of the members; every value that describes a scene; versions; that models
    load and have what is named. Nothing is unpickled or run. Not checked: whether a scene is the one that it claims to
    be. Models are binary files for MuJoCo's loader, which was not made for hostile ones: import from people you trust.
    """
    from vla_gym.assets.foreign import SCENES_VARIABLE
    from vla_gym.scenes.archive import import_scenes

    done = import_scenes(file, into, sha256 or None)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{done.path}: {_counted(len(done.tasks), 'task')}, pack {done.pack}", markup=False)
    if into is not None:
        console.print(f"To use them: export {SCENES_VARIABLE}={done.path}", markup=False)
    if done.pack != "primitive":
        console.print(f'They are used where an environment is made with assets="{done.pack}"', markup=False)


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


def _suites(names: list[str]) -> list[SuiteSpec]:
    from vla_gym.tasks.registry import SUITES, get_suite

    return list(SUITES.values()) if "all" in names else [get_suite(name) for name in names]


def _counted(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"
