"""``vla-rl evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vla_algos.cli.options import Assets, TaskIds, numbers


def evaluate(
    vla: Annotated[str, typer.Argument(help="Shipped checkpoint, checkpoint folder, or a Hugging Face id.")],
    env_id: Annotated[str, typer.Option(help="The suite.")] = "LIBERO-Goal-v0",
    task_ids: TaskIds = "",
    states: Annotated[int, typer.Option(help="Initial states per task, from the first on.", min=1, max=50)] = 50,
    sampled: Annotated[bool, typer.Option("--sampled", help="Sample actions instead of the likeliest.")] = False,
    temperature: Annotated[float, typer.Option(help="Of sampled actions.", min=1e-3)] = 1.0,
    assets: Assets = "auto",
    render_quality: Annotated[str, typer.Option(help="fast or full.")] = "fast",
    n_envs: Annotated[int, typer.Option(help="Environments side by side.", min=1)] = 8,
    unnorm_key: Annotated[str | None, typer.Option(help="Action statistics, if there are several.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="JSON file for all episodes and figures.")] = None,
    seed: Annotated[int, typer.Option(help="Of resets and of sampling.", min=0)] = 0,
) -> None:
    """Measure how often a VLA reaches the goals of a suite, with 95 % Wilson intervals."""
    import gymnasium as gym
    from stable_baselines3.common.utils import get_device, set_random_seed

    import vla_gym  # noqa: F401  (registers the environments)
    from vla_algos.evaluation import evaluate_policy_on_suite
    from vla_algos.policies import VLAPolicy, env_kwargs

    kwargs = env_kwargs(vla, unnorm_key, env_id=env_id) | {"assets": assets, "render_quality": render_quality}
    with gym.make(env_id, **kwargs) as env:
        policy = VLAPolicy.from_checkpoint(vla, env, temperature=temperature, unnorm_key=unnorm_key)
    policy.to(get_device(device))
    set_random_seed(seed)
    result = evaluate_policy_on_suite(
        policy,
        env_id,
        n_init_states=states,
        task_ids=numbers(task_ids),
        n_envs=n_envs,
        deterministic=not sampled,
        env_kwargs=kwargs,
        progress_bar=True,
        seed=seed,
    )
    if out is not None:
        # before anything that fails where nobody reads the output any more
        result.save(out)
    console = Console()
    console.print(str(result), highlight=False, soft_wrap=True)
    if out is not None:
        console.print(f"written to {out}")
