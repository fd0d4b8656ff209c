"""``vla-rl evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vla_algos.cli.options import SUITE_HELP, Assets, Device, Revision, Tasks, numbers
from vla_algos.cli.output import interruption_named


def evaluate(
    vla: Annotated[str, typer.Argument(help="Shipped checkpoint, checkpoint folder, or Hugging Face id.")],
    suite: Annotated[str, typer.Option(help=f"{SUITE_HELP}.")] = "goal",
    tasks: Tasks = "",
    states: Annotated[int, typer.Option(help="Initial states per task, from the first on.", min=1, max=50)] = 50,
    sampled: Annotated[bool, typer.Option("--sampled", help="Sample actions instead of the likeliest.")] = False,
    temperature: Annotated[
        float | None,
        typer.Option(help="Temperature of sampled actions; default: as in the checkpoint's training.", min=1e-3),
    ] = None,
    assets: Assets = "auto",
    render_quality: Annotated[
        str | None, typer.Option(help="fast or full; default: as in the checkpoint's training.")
    ] = None,
    n_envs: Annotated[int, typer.Option(help="Environments side by side.", min=1)] = 8,
    unnorm_key: Annotated[
        str | None, typer.Option(help="Data set of the action statistics, if there are several.")
    ] = None,
    revision: Revision = None,
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="JSON file for the result; each episode is written to a .jsonl file beside it as it ends."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of resets and of sampling.", min=0)] = 0,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Run only the episodes that are missing beside --out; give the same options again."
        ),
    ] = False,
) -> None:
    """Measure how often a VLA reaches the goals of a suite, with 95 % Wilson intervals."""
    from vla_algos.experiments.names import check_env_names, check_vla

    ids = numbers(tasks)
    if resume and out is None:
        raise typer.BadParameter("--resume needs the --out of the evaluation that was interrupted.")
    check_vla(vla)
    env_id = check_env_names(suite, ids, assets, render_quality).env_id
    if out is not None and out.is_dir():
        raise typer.BadParameter(f"--out {out} is a folder; expected a file, such as {out / 'result.json'}.")

    import gymnasium as gym
    from stable_baselines3.common.utils import get_device, set_random_seed

    import vla_gym  # noqa: F401  (registers the environments)
    from vla_algos.evaluation import evaluate_policy_on_suite
    from vla_algos.models.loading import load_info
    from vla_algos.policies import VLAPolicy, env_kwargs_for

    quality = render_quality or load_info(vla, revision).record.render_quality
    kwargs = env_kwargs_for(vla, unnorm_key, env_id=env_id, revision=revision) | {
        "assets": assets,
        "render_quality": quality,
    }
    with gym.make(env_id, **kwargs) as env:
        policy = VLAPolicy.from_checkpoint(
            vla, env, temperature=temperature, unnorm_key=unnorm_key, vla_kwargs={"revision": revision}
        )
    policy.to(get_device(device))
    set_random_seed(seed)
    episodes_file = None if out is None else out.with_suffix(".jsonl")
    with interruption_named(lambda: _saved(episodes_file)):
        result = evaluate_policy_on_suite(
            policy,
            env_id,
            n_init_states=states,
            task_ids=ids,
            n_envs=n_envs,
            deterministic=not sampled,
            env_kwargs=kwargs,
            progress_bar=True,
            seed=seed,
            episodes_file=episodes_file,
            resume=resume,
        )
    if out is not None:
        # before anything that fails where nobody reads the output any more
        result.save(out)
    console = Console()
    console.print(str(result), highlight=False, soft_wrap=True)
    if out is not None:
        console.print(f"written to {out}")


def _saved(episodes_file: Path | None) -> str | None:
    """What an interrupted evaluation has left."""
    if episodes_file is None or not episodes_file.exists():
        return None
    n_episodes = max(0, episodes_file.read_bytes().count(b"\n") - 1)
    return f"{n_episodes} episode(s) are saved in {episodes_file}."
