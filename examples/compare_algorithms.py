"""
All algorithms on one task, from one checkpoint, with one budget of decisions: a figure with intervals.

    python examples/compare_algorithms.py --out runs/compare [--task-id 7] [--seeds 0 1 2] [--algorithms PPO A2C]

What is in --out already is not run again, so that an interrupted comparison goes on; the figure shows all that is there
of this task, budget and recipe. RecurrentPPO needs pip install vla-gym[contrib]. BC does not act: it reads the expert's
demonstrations, four per initial state, which hold about as many control steps as the others take decisions, with as
many gradient steps as TokenPPO takes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.utils import set_random_seed

from vla_algos import BC, DemonstrationSet, VLAPolicy, env_kwargs
from vla_algos.evaluation.harness import EvaluationResult
from vla_algos.evaluation.plots import plot_comparison
from vla_algos.evaluation.statistics import success_interval
from vla_algos.experiments.recipe import load_recipe
from vla_algos.experiments.results import MODES
from vla_algos.experiments.rl import make_env, run_rl
from vla_algos.experiments.settings import RLSettings
from vla_algos.experiments.stages import evaluate_both
from vla_gym.datasets.episode import Episode
from vla_gym.datasets.hdf5 import load_episodes
from vla_gym.datasets.record import record_demonstrations
from vla_gym.datasets.recorder import RecordingSettings
from vla_gym.vector.base import derive_seeds

DEMONSTRATIONS_PER_STATE = 4

TOKEN_ALGORITHMS = ("TokenPPO", "TokenGRPO", "TokenRLOO", "TPO")

Trainer = Callable[[RLSettings, Path], Any]


def nothing(settings: RLSettings, folder: Path) -> VLAPolicy:
    """The checkpoint as it is."""
    with gym.make(settings.env_id, **settings.env_kwargs) as env:
        return VLAPolicy.from_checkpoint(settings.vla, env)


def token_algorithm(settings: RLSettings, folder: Path) -> Any:
    """As ``vla-rl train --recipe ... --algorithm ...`` does."""
    models: dict[str, Any] = {}
    run_rl(replace(settings, n_eval_states=0), folder, on_model=models.__setitem__)
    return models["after"]


def behaviour_cloning(settings: RLSettings, folder: Path) -> BC:
    """Goes on with supervised fine-tuning, as ``vla-rl sft`` does it."""
    kwargs, recipe = env_kwargs(settings.vla, env_id=settings.env_id), settings.algorithm_kwargs
    episodes: list[Episode] = []
    for i, seed in enumerate(derive_seeds(settings.seed, DEMONSTRATIONS_PER_STATE)):
        recording = RecordingSettings(
            settings.env_id,
            image_size=kwargs["image_size"],
            cameras=kwargs["cameras"],
            assets=settings.assets,
            seed=seed,
        )
        record_demonstrations(recording, folder / f"demos_{i}", settings.n_train_states, settings.task_ids, workers=2)
        episodes += load_episodes(folder / f"demos_{i}")
    # the bins of the checkpoint, not those that these demonstrations would suggest
    tokenizer = kwargs["action_tokenizer"]
    model = BC(
        "VLAPolicy",
        dataset=DemonstrationSet.from_episodes(episodes, tokenizer, kwargs["chunk_size"]),
        **{name: recipe[name] for name in ("learning_rate", "batch_size", "use_bf16")},
        # nothing is chosen by validation here, and episodes from one initial state cannot be divided
        validation_fraction=0.0,
        policy_kwargs={"vla": settings.vla},
        seed=settings.seed,
    )
    return model.learn(settings.total_timesteps * recipe["n_epochs"] // recipe["batch_size"], progress_bar=True)


def stock(algorithm: type[Any], policy: Any, settings: RLSettings, folder: Path, **kwargs: Any) -> Any:
    """An algorithm of Stable-Baselines3 as it is."""
    # without the keywords of TokenPPO, whose critic reads the simulator's state
    env = make_env(replace(settings, algorithm_kwargs={}))
    if policy is VLAPolicy:
        kwargs |= {"learning_rate": 1e-4, "policy_kwargs": {"vla": settings.vla}}
    try:
        return algorithm(policy, env, seed=settings.seed, **kwargs).learn(settings.total_timesteps, progress_bar=True)
    finally:
        env.close()


def recurrent_ppo(settings: RLSettings, folder: Path) -> Any:
    """A small network with a memory, from nothing: it cannot start from a VLA."""
    try:
        from sb3_contrib import RecurrentPPO
    except ModuleNotFoundError as error:
        raise SystemExit("RecurrentPPO is in sb3-contrib. Run: pip install vla-gym[contrib]") from error
    return stock(RecurrentPPO, "MultiInputLstmPolicy", settings, folder, n_steps=40, batch_size=128)


TRAINERS: dict[str, Trainer] = {
    "start": nothing,
    **dict.fromkeys(TOKEN_ALGORITHMS, token_algorithm),
    "BC": behaviour_cloning,
    "PPO": partial(stock, PPO, VLAPolicy, n_steps=40, batch_size=128, n_epochs=3),
    "A2C": partial(stock, A2C, VLAPolicy),
    "RecurrentPPO": recurrent_ppo,
}


def compare(name: str, settings: RLSettings, folder: Path) -> None:
    """Train and evaluate, unless an earlier call has done it."""
    if load(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    model = TRAINERS[name](settings, folder)
    print(f"{name}, seed {settings.seed}: {time.perf_counter() - start:.0f} s of training", flush=True)
    set_random_seed(settings.seed)
    for mode, result in evaluate_both(settings, model, settings.env_kwargs, settings.tasks).items():
        result.save(folder / f"{mode}.json")


def load(folder: Path) -> list[EvaluationResult]:
    """Greedy and sampled evaluation of one training; empty if it did not get that far."""
    files = [folder / f"{mode}.json" for mode in MODES]
    return [EvaluationResult.load(file) for file in files] if all(file.exists() for file in files) else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--recipe", default="quickstart", help="name or YAML file, with sections as in quickstart.yml")
    parser.add_argument("--task-id", type=int, default=7)
    parser.add_argument("--timesteps", type=int, default=8960)
    parser.add_argument("--n-envs", type=int, default=16)
    parser.add_argument("--eval-states", type=int, default=50)
    parser.add_argument("--algorithms", nargs="+", default=list(TRAINERS), choices=TRAINERS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--assets", default="auto")
    args = parser.parse_args()

    changes = {
        "task_ids": (args.task_id,),
        "total_timesteps": args.timesteps,
        "n_envs": args.n_envs,
        "n_eval_states": args.eval_states,
        "assets": args.assets,
    }
    title = f"task{args.task_id}_{args.timesteps}"
    if args.recipe != "quickstart":
        title += f"_{Path(args.recipe).stem}"
    # those that have no section of their own see the first
    sections = {name: name if name in TOKEN_ALGORITHMS else None for name in args.algorithms}
    settings = {name: load_recipe(args.recipe, section, **changes) for name, section in sections.items()}
    for name in args.algorithms:
        # the checkpoint is the same whatever the seed
        for seed in args.seeds[:1] if name == "start" else args.seeds:
            compare(name, replace(settings[name], seed=seed), args.out / f"{title}_seed{seed}" / name)

    found = {name: [load(folder) for folder in sorted(args.out.glob(f"{title}_seed*/{name}"))] for name in TRAINERS}
    results = {name: [seed for seed in seeds if seed] for name, seeds in found.items() if any(seeds)}
    if "start" in results:
        results["start"] = results["start"][:1]
    for name, seeds in results.items():
        figures = []
        for mode, of_mode in zip(MODES, zip(*seeds, strict=True), strict=True):
            counts, n = [result.successes for result in of_mode], of_mode[0].n_episodes
            low, high = success_interval(counts, n)
            figures.append(f"{mode} {', '.join(map(str, counts))} of {n} ({100 * low:.0f}-{100 * high:.0f} %)")
        print(f"{name:>12}: {'; '.join(figures)}")
    instruction = next(iter(results.values()))[0][0].instructions[args.task_id]
    figure = args.out / f"{title}.png"
    plot_comparison(figure, results, f"{instruction}, {args.timesteps:,} decisions")
    print(figure)


if __name__ == "__main__":
    main()
