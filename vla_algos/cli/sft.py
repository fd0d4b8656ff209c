"""``vla-rl sft``."""

from __future__ import annotations

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
    Revision,
    suite_id,
)
from vla_algos.cli.output import interruption_named, this_command
from vla_algos.cli.results import print_result
from vla_algos.errors import CheckpointError, RecipeError
from vla_gym.spec import AGENTVIEW, WRIST

if TYPE_CHECKING:
    from vla_algos.experiments.run_folder import RunFolder
    from vla_algos.experiments.settings import RLSettings, SFTSettings


def sft(
    data: Annotated[Path, typer.Option(help="Demonstrations: an HDF5 file, or a folder of them.")],
    recipe: Annotated[str | None, typer.Option(help="sft (the default), or a YAML file.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for model, logs and figures.")] = Path("runs/sft"),
    suite: RecipeSuite = None,
    states: RecipeStates = None,
    vla: Annotated[
        str | None,
        typer.Option(
            help="Model to start from: compact, a shipped checkpoint, a checkpoint folder or a Hugging Face id."
        ),
    ] = None,
    revision: Revision = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the demonstrations.")] = None,
    convention: Annotated[
        list[str] | None,
        typer.Option(
            help="A convention of foreign demonstrations, e.g. gripper=one_opens or stated_hz=10; repeatable."
        ),
    ] = None,
    chunk_size: Annotated[
        int | None, typer.Option(help="Commands per decision of a preset, 8 if not given; a checkpoint has its own.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Height and width of a preset's images (px).")] = None,
    wrist: Annotated[bool, typer.Option("--wrist", help="Give a preset the wrist camera as well.")] = False,
    proprio: Annotated[bool | None, typer.Option(help="Give a preset proprioception.")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Train adapters of this rank; 0: all weights.", min=0)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Largest learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Decisions per gradient step.")] = None,
    micro_batch_size: Annotated[int | None, typer.Option(help="Decisions per backward pass.")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 where the hardware does.")] = False,
    store_bf16: Annotated[
        bool, typer.Option("--store-bf16", help="Keep the model's weights in bfloat16, half as large.")
    ] = False,
    frames_on_disk: Annotated[
        bool, typer.Option("--frames-on-disk", help="Keep frames in a file, if the memory is too small.")
    ] = False,
    n_envs: RecipeEnvs = None,
    render_quality: RecipeQuality = None,
    device: RecipeDevice = None,
    seed: RecipeSeed = None,
    assets: RecipeAssets = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted run in --out, with its own settings.")
    ] = False,
) -> None:
    """Fine-tune a VLA on demonstrations, and measure its success rate."""
    from vla_algos.experiments.names import CLONING, check_vla
    from vla_algos.experiments.recipe import load_recipe, recipe_algorithms
    from vla_algos.experiments.run_folder import RunFolder
    from vla_algos.experiments.settings import SFTSettings
    from vla_gym.datasets.conventions import Conventions
    from vla_gym.datasets.hdf5 import load_episodes
    from vla_gym.datasets.record import describe_demonstrations

    folder = RunFolder.load(out) if resume else RunFolder(out)
    given: dict[str, Any] = {
        "env_id": suite_id(suite),
        "n_eval_states": states,
        "vla": vla,
        "revision": revision,
        "epochs": epochs,
        "conventions": _conventions(convention) if convention else None,
        "chunk_size": chunk_size,
        "image_size": image_size,
        "cameras": (AGENTVIEW, WRIST) if wrist else None,
        "use_proprio": proprio,
        "frames_on_disk": frames_on_disk or None,
        "weights_dtype": "bfloat16" if store_bf16 else None,
        "n_envs": n_envs,
        "render_quality": render_quality,
        "device": device,
        "seed": seed,
        "assets": assets,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if lora_rank is not None:
        changes["lora"] = {"rank": lora_rank} if lora_rank else None
    base = _settings_of(folder) if resume else None
    # before torch is imported, which takes seconds
    if vla is not None:
        check_vla(vla)
    origin = {"command": this_command(), "data": describe_demonstrations(data)}
    if base is not None and recipe is None:
        folder.check_imports_nothing()
        settings: RLSettings | SFTSettings = replace(base, **changes)
        settings.check_names()
    else:
        recipe = recipe or "sft"
        # a recipe may list algorithms of reinforcement learning, too
        named = CLONING if CLONING in recipe_algorithms(recipe) else None
        settings = load_recipe(recipe, named, base, **(changes if named else {}))
    if not isinstance(settings, SFTSettings):
        raise RecipeError(f"{recipe} is a recipe of reinforcement learning. Run it with vla-rl train.")
    of_training = {"learning_rate": learning_rate, "batch_size": batch_size, "micro_batch_size": micro_batch_size}
    keywords: dict[str, Any] = {name: value for name, value in of_training.items() if value is not None}
    keywords |= {"use_bf16": "auto"} if bf16 else {}
    settings = replace(settings, algorithm_kwargs={**settings.algorithm_kwargs, **keywords})
    from vla_algos.experiments.sft import run_sft

    console = Console()
    with interruption_named(lambda: folder.what_was_saved("gradient steps")):
        result = run_sft(
            settings,
            load_episodes(data, Conventions(**settings.conventions)),
            out,
            lambda text: console.print(f"[bold]{text}[/bold]"),
            resume=resume,
            origin=origin,
        )
    print_result(console, result)


def _conventions(options: list[str]) -> dict[str, Any]:
    """Keywords of ``Conventions`` from ``name=value``, the values as in YAML."""
    # of an extra; other commands run without it
    import yaml

    pairs = [option.partition("=") for option in options]
    if not all(equals for _, equals, _ in pairs):
        raise typer.BadParameter(f"expected name=value, e.g. gripper=one_opens, got {' '.join(options)}")
    return {name: yaml.safe_load(value) for name, _, value in pairs}


def _settings_of(folder: RunFolder) -> SFTSettings:
    from vla_algos.experiments.settings import SFTSettings

    settings = folder.settings
    if not isinstance(settings, SFTSettings):
        raise CheckpointError(f"The run in {folder.path} is reinforcement learning. Resume it with vla-rl train.")
    return settings
