"""``vla-rl doctor``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vla_algos.cli.checks import (
    Check,
    Status,
    check_assets,
    check_cache,
    check_egl,
    check_rendering,
    check_settling,
    check_torch,
    check_versions,
    find_scene,
)
from vla_algos.cli.options import Assets
from vla_gym.errors import VLAGymError

_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.PROBLEM: "bold red"}


def doctor(assets: Assets = "auto") -> None:
    """Check versions, rendering, assets, cache and contacts; the exit status is 1 if there is a problem."""
    console = Console(highlight=False)
    table = Table(expand=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("finding", overflow="fold")
    counts: Counter[Status] = Counter()
    for check in _checks(assets, console):
        counts[check.status] += 1
        style = _STYLES[check.status]
        remedy = f"\n[{style}]Remedy: {escape(check.remedy)}[/]" if check.remedy else ""
        table.add_row(check.name, f"[{style}]{check.status.value}[/]", escape(check.finding) + remedy)
    console.print(table)
    problems, warnings = counts[Status.PROBLEM], counts[Status.WARNING]
    console.print(f"Problems: {problems}, warnings: {warnings}.")
    if problems:
        raise typer.Exit(1)


def _checks(assets: str, console: Console) -> Iterator[Check]:
    yield from check_versions()
    with console.status("Importing torch"):
        torch = check_torch()
    yield torch
    yield _guarded("EGL devices", check_egl)
    yield _guarded("cache", check_cache)
    try:
        from vla_gym.assets.resolve import resolve_assets

        pack = resolve_assets(assets)
        yield check_assets(pack)
        bundle, quality = find_scene(pack)
    except Exception as error:
        yield _failure("scene", error)
        return
    with console.status("Rendering"):
        rendering = _guarded("OpenGL", lambda: check_rendering(bundle, quality))
    yield rendering
    with console.status("Dropping a bowl"):
        settling = _guarded("settling", lambda: check_settling(bundle))
    yield settling


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # a broken installation raises anything, and the other checks still help
        return _failure(name, error)


def _failure(name: str, error: Exception) -> Check:
    """An error as the outcome of a check."""
    if isinstance(error, VLAGymError):
        return Check(name, Status.PROBLEM, str(error))
    backend = os.environ.get("MUJOCO_GL")
    # mujoco loads the library of this back end when it is imported, and fails without saying why
    remedy = f"If this is about OpenGL, unset MUJOCO_GL={backend} or install its library." if backend else ""
    return Check(name, Status.PROBLEM, f"{type(error).__name__}: {error}", remedy)
