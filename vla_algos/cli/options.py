"""Options and figures that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ASSETS_HELP = "auto, primitive, or a folder in LIBERO's layout"
Assets = Annotated[str, typer.Option("--assets", help=f"{ASSETS_HELP}.")]
TaskIds = Annotated[str, typer.Option("--task-ids", help="Of the suite, e.g. 0,3,8; default: all.")]


def numbers(text: str) -> list[int] | None:
    """Numbers of a comma-separated option; None if it is empty."""
    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError as error:
        raise typer.BadParameter(f"expected numbers with commas between, e.g. 0,3,8, got {text!r}") from error


def megabytes(n_bytes: int) -> str:
    """A size for people, e.g. ``1,234 MB``."""
    return f"{n_bytes / 1e6:,.0f} MB"
