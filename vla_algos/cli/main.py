"""Entry point of ``vla-rl``."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import redirect_stderr, redirect_stdout

import typer

from vla_algos.cli import assets, reward
from vla_algos.cli.collect import collect
from vla_algos.cli.compare import compare
from vla_algos.cli.doctor import doctor
from vla_algos.cli.evaluate import evaluate
from vla_algos.cli.output import LastingOutput
from vla_algos.cli.quickstart import quickstart
from vla_algos.cli.sft import sft
from vla_algos.cli.train import train
from vla_algos.errors import VLAAlgosError
from vla_gym import __version__
from vla_gym.errors import VLAGymError
from vla_gym.processors import available_cpus

app = typer.Typer(
    help="Reinforcement learning for vision-language-action models on LIBERO.",
    no_args_is_help=True,
    add_completion=False,
    # its tables cut the names of options off in a narrow terminal
    rich_markup_mode=None,
    pretty_exceptions_show_locals=False,
)
app.command()(quickstart)
app.command()(sft)
app.command()(train)
app.command()(compare)
app.command()(evaluate)
app.command()(doctor)
app.command()(collect)
app.add_typer(assets.app, name="assets")
app.add_typer(reward.app, name="reward")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"vla-rl {__version__}")
        raise typer.Exit


@app.callback()
def _configure(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Say more."),
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")
    logging.getLogger("vla_gym").setLevel(logging.INFO)


def main() -> None:
    """Run the command line; the library's own errors are messages, not tracebacks."""
    # OpenMP's threads spin for long while they wait, and starve each other as soon as another process wants a core: two
    # trainings on two cores take 19 times as long as one, with this 2.5 times
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    # torch starts a thread per core of the machine, also where a container may use a few of them only
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cpus()))
    with redirect_stdout(LastingOutput(sys.stdout)), redirect_stderr(LastingOutput(sys.stderr)):
        try:
            app(prog_name="vla-rl")
        except (VLAGymError, VLAAlgosError) as error:
            typer.secho(f"Error: {error}", fg="red", err=True)
            sys.exit(1)
