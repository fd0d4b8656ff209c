"""``vla-rl reward``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from vla_algos.cli.options import SUITE_HELP, Assets, Device, Revision, Tasks, numbers, suite_id
from vla_algos.cli.output import interruption_named, this_command

if TYPE_CHECKING:
    from vla_algos.experiments.reward import Split

HeldOutStates = Annotated[
    int | None,
    typer.Option("--held-out-states", help="Last initial states per task that are held out; default: 10.", min=0),
]
HeldOutSources = Annotated[
    list[str] | None, typer.Option("--held-out-source", help="Model whose films are held out; repeatable.")
]
HeldOutTasks = Annotated[str, typer.Option("--held-out-tasks", help="Tasks that are held out, e.g. 0,3.")]

app = typer.Typer(help="The learned process reward.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def data(
    out: Annotated[Path, typer.Option(help="Folder for one file of films per source; a second run continues there.")],
    suite: Annotated[str, typer.Option(help=f"{SUITE_HELP}.")] = "goal",
    vla: Annotated[
        list[str] | None,
        typer.Option(help="Shipped checkpoint, checkpoint folder, or Hugging Face id that acts; repeatable."),
    ] = None,
    demonstrations: Annotated[
        Path | None, typer.Option(help="HDF5 file or folder of vla-rl collect, to be played as well.")
    ] = None,
    branches: Annotated[
        bool,
        typer.Option("--branches", help="Let models go on where demonstrations are left, after random moves, too."),
    ] = False,
    tasks: Tasks = "",
    states: Annotated[int, typer.Option(help="Initial states per task, from the first on.", min=1, max=50)] = 50,
    temperature: Annotated[
        float | None,
        typer.Option(help="Temperature of sampled actions; default: as in the checkpoint's training.", min=1e-3),
    ] = None,
    n_envs: Annotated[int, typer.Option(help="Environments side by side.", min=1)] = 8,
    render_quality: Annotated[str, typer.Option(help="fast or full.")] = "fast",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of everything.", min=0)] = 0,
    assets: Assets = "auto",
) -> None:
    """Film successes and failures, with what the simulator knows about them."""
    from vla_algos.experiments.names import check_env_names, check_vla

    task_ids, vlas = numbers(tasks), tuple(vla or ["compact-libero-goal"])
    if branches and demonstrations is None:
        raise typer.BadParameter("--branches needs the --demonstrations that they leave.")
    # before torch is imported, which takes seconds
    for each in vlas:
        check_vla(each)
    check_env_names(suite, task_ids, assets, render_quality)
    from vla_algos.experiments.reward_data import RewardDataSettings, record_reward_data

    settings = RewardDataSettings(
        env_id=suite_id(suite) or suite,
        vlas=vlas,
        demonstrations=None if demonstrations is None else str(demonstrations),
        has_branches=branches,
        task_ids=None if task_ids is None else tuple(task_ids),
        n_init_states=states,
        temperature=temperature,
        assets=assets,
        render_quality=render_quality,
        n_envs=n_envs,
        device=device,
        seed=seed,
    )
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with interruption_named(resuming=this_command), Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        rows: dict[str, int] = {}

        def show(source: str, n_films: int, n_starts: int) -> None:
            if source not in rows:
                rows[source] = int(bars.add_task(source, total=n_starts))
            bars.update(rows[source], completed=n_films)  # type: ignore[arg-type]

        found = record_reward_data(settings, out, show)
    table = Table("source", "films", "successes")
    for column in table.columns[1:]:
        column.justify = "right"
    for source, counts in found.items():
        table.add_row(source, *map(str, counts))
    console.print(table)


@app.command()
def labels(
    data: Annotated[Path, typer.Option(help="File or folder of films.")],
    out: Annotated[Path, typer.Option(help="Folder for a PNG per film, and one of all.")],
    tasks: Tasks = "",
    films: Annotated[int, typer.Option(help="Films per task and source at most.", min=1)] = 1,
) -> None:
    """Draw key frames, segments and progress as the paper's rule finds them."""
    from vla_algos.rewards.films import load_films
    from vla_algos.rewards.plots import plot_labels_of_films

    task_ids, chosen, counts = numbers(tasks), [], Counter[tuple[int, str]]()
    for film in load_films(data):
        kind = (film.task_id, film.source)
        if (task_ids is None or film.task_id in task_ids) and counts[kind] < films:
            counts[kind] += 1
            chosen.append(film)
    paths = plot_labels_of_films(out, chosen)
    Console().print(f"{len(paths)} figures are in {out}")


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for the model, its card, logs and figures.")],
    data: Annotated[Path | None, typer.Option(help="File or folder of films; with --resume it is known.")] = None,
    backend: Annotated[
        str, typer.Option(help="compact, or id or folder of an image-text-to-text model of transformers.")
    ] = "compact",
    vla: Annotated[
        str, typer.Option(help="What a compact model starts from: a shipped checkpoint or a checkpoint folder.")
    ] = "compact-libero-goal",
    targets: Annotated[str, typer.Option(help="What frames are taught to be: truth, progress or paper.")] = "truth",
    held_out_states: HeldOutStates = None,
    held_out_sources: HeldOutSources = None,
    held_out_tasks: HeldOutTasks = "",
    epochs: Annotated[int, typer.Option(help="Passes at most.", min=1)] = 10,
    max_examples: Annotated[int | None, typer.Option(help="Examples per pass at most; default: all.", min=1)] = None,
    batch_size: Annotated[int, typer.Option(help="Examples per gradient step.", min=1)] = 64,
    micro_batch_size: Annotated[int | None, typer.Option(help="Examples per backward pass.", min=1)] = None,
    learning_rate: Annotated[float, typer.Option(help="Largest learning rate.")] = 5e-4,
    lora_rank: Annotated[int, typer.Option(help="Of a transformers model's adapters; 0: none.", min=0)] = 32,
    revision: Revision = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of everything.", min=0)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted training in --out.")] = False,
) -> None:
    """Teach a model to see how much of a task is done."""
    from vla_algos.experiments.reward import RewardSettings, load_reward_settings, train_reward

    if resume:
        settings = load_reward_settings(out)
    elif data is None:
        raise typer.BadParameter("--data is missing: a file or folder of films.")
    else:
        training = {
            "epochs": epochs,
            "max_examples": max_examples,
            "batch_size": batch_size,
            "micro_batch_size": micro_batch_size,
            "learning_rate": learning_rate,
            "seed": seed,
        }
        settings = RewardSettings(
            data=str(data),
            backend=backend,
            vla=vla,
            targets=targets,  # type: ignore[arg-type]
            split=_split(held_out_states, held_out_sources, held_out_tasks),
            revision=revision,
            rank=lora_rank,
            device=device,
            training=training,
        )
    console = Console(highlight=False)
    with interruption_named(lambda: f"Passes that are over are kept in {out}."):
        history = train_reward(settings, out, resume, lambda text: console.print(f"[bold]{text}[/bold]"))
    table = Table("epoch", "loss", "held out", "AUC of last frames")
    for column in table.columns:
        column.justify = "right"
    for epoch in history:
        table.add_row(
            str(epoch.epoch), f"{epoch.train_loss:.4f}", f"{epoch.held_out_loss:.4f}", f"{epoch.auc_last:.3f}"
        )
    console.print(table)
    console.print(f"The model is in {out / 'best'}. Audit it before it is trained on: vla-rl reward audit {out}")


@app.command()
def audit(
    model: Annotated[
        str, typer.Argument(help="Folder of a training or of a model, a shipped model, or true-progress.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for tables, figure, page and JSON.")],
    data: Annotated[Path | None, typer.Option(help="File or folder of films; default: those of the training.")] = None,
    mode: Annotated[str, typer.Option(help="How it is paid: delta, potential or sum.")] = "delta",
    weight: Annotated[float | None, typer.Option(help="What it is multiplied by; default: the mode's.")] = None,
    gamma: Annotated[float, typer.Option(help="Discount of the algorithm, per decision.", min=0.0, max=1.0)] = 0.99,
    episode_cap: Annotated[float | None, typer.Option(help="Most that sum pays in an episode.")] = None,
    held_out_states: HeldOutStates = None,
    held_out_sources: HeldOutSources = None,
    held_out_tasks: HeldOutTasks = "",
) -> None:
    """Judge a reward model on films that it did not learn from, beside controls that see no image."""
    from vla_algos.experiments.reward import audit_reward
    from vla_algos.rewards.report import failing_pays, table
    from vla_algos.rewards.shaping import DEFAULT_WEIGHTS, Shaping

    weight = DEFAULT_WEIGHTS.get(mode, 1.0) if weight is None else weight
    shaping = Shaping(mode, weight, gamma if mode == "potential" else None, episode_cap)  # type: ignore[arg-type]
    is_split = held_out_states is not None or held_out_sources or held_out_tasks
    split = _split(held_out_states, held_out_sources, held_out_tasks) if is_split else None
    console = Console(highlight=False)
    found, controls = audit_reward(
        model,
        out,
        shaping,
        gamma,
        None if data is None else str(data),
        split,
        lambda text: console.print(f"[bold]{text}[/bold]"),
    )
    console.print(table(model, found, controls), soft_wrap=True)
    verdict = failing_pays(found)
    if verdict is not None:
        console.print(verdict, style="yellow")
    console.print(f"Tables, figure and page are in {out}")


def _split(states: int | None, sources: list[str] | None, tasks: str) -> Split:
    from vla_algos.experiments.reward import Split

    given = {} if states is None else {"last_states": states}
    return Split(sources=tuple(sources or ()), tasks=tuple(numbers(tasks) or ()), **given)
