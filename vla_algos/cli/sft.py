"""``vla-rl sft``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vla_algos.cli.options import Assets
from vla_algos.cli.output import interruption_named, this_command
from vla_algos.cli.results import print_result


def sft(
    data: Annotated[Path, typer.Option(help="Demonstrations: an HDF5 file, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="Folder for model, logs and figures.")] = Path("runs/sft"),
    vla: Annotated[
        str, typer.Option(help="compact, a shipped checkpoint, a checkpoint folder, or a Hugging Face id.")
    ] = "compact",
    epochs: Annotated[float, typer.Option(help="Passes over the demonstrations.")] = 5.0,
    chunk_size: Annotated[
        int | None, typer.Option(help="Commands per decision of a preset, 8 if not given; a checkpoint has its own.")
    ] = None,
    image_size: Annotated[int, typer.Option(help="Of a preset's images, px.")] = 96,
    wrist: Annotated[bool, typer.Option("--wrist", help="Give a preset the wrist camera, too.")] = False,
    proprio: Annotated[bool, typer.Option(help="Give a preset proprioception.")] = True,
    lora_rank: Annotated[int, typer.Option(help="Train adapters of this rank; 0: all weights.")] = 0,
    learning_rate: Annotated[float | None, typer.Option(help="Largest learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Decisions per gradient step.")] = None,
    micro_batch_size: Annotated[int | None, typer.Option(help="Decisions per backward pass.")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 where the hardware does.")] = False,
    env_id: Annotated[str, typer.Option(help="Suite of the demonstrations.")] = "LIBERO-Goal-v0",
    assets: Assets = "auto",
    render_quality: Annotated[str, typer.Option(help="fast or full, as in the demonstrations.")] = "fast",
    store_bf16: Annotated[
        bool, typer.Option("--store-bf16", help="Keep the model's weights in bfloat16, half as large.")
    ] = False,
    eval_states: Annotated[int, typer.Option(help="Initial states per task to evaluate on; 0: none.")] = 50,
    frames_on_disk: Annotated[
        bool, typer.Option("--frames-on-disk", help="Keep frames in a file, if the memory is too small.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run in --out; give its options again.")
    ] = False,
) -> None:
    """Fine-tune a VLA on demonstrations, and measure its success rate."""
    from vla_algos.experiments.run_folder import RunFolder
    from vla_algos.experiments.sft_settings import SFTSettings
    from vla_gym.datasets.hdf5 import load_episodes
    from vla_gym.datasets.provenance import describe_demonstrations

    console = Console()
    given = {"learning_rate": learning_rate, "batch_size": batch_size, "micro_batch_size": micro_batch_size}
    bc_kwargs = SFTSettings().bc_kwargs | {name: value for name, value in given.items() if value is not None}
    settings = SFTSettings(
        vla=vla,
        chunk_size=chunk_size,
        image_size=image_size,
        cameras=("agentview", "wrist") if wrist else ("agentview",),
        use_proprio=proprio,
        epochs=epochs,
        lora={"rank": lora_rank} if lora_rank else None,
        bc_kwargs=bc_kwargs | {"use_bf16": "auto" if bf16 else False},
        frames_on_disk=frames_on_disk,
        weights_dtype="bfloat16" if store_bf16 else "float32",
        seed=seed,
        env_id=env_id,
        assets=assets,
        render_quality=render_quality,
        n_eval_states=eval_states,
    )
    # before torch is imported, which takes seconds
    settings.check_names()
    origin = {"command": this_command(), "data": describe_demonstrations(data)}
    folder = RunFolder.load(out) if resume else RunFolder(out)
    from vla_algos.experiments.sft import run_sft

    with interruption_named(lambda: folder.what_was_saved("gradient steps")):
        result = run_sft(
            settings,
            load_episodes(data),
            out,
            lambda text: console.print(f"[bold]{text}[/bold]"),
            resume=resume,
            origin=origin,
        )
    print_result(console, result)
