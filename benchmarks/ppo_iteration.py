"""
One iteration of TokenPPO against Stable-Baselines3's PPO with the same policy, settings and seeds.

    python benchmarks/ppo_iteration.py [--vla compact] [--n-envs 8] [--n-steps 16] [--n-epochs 3] [--repeats 3]

Each case runs in a process of its own, for its peak memory; the cases take turns, and ratios are taken within a turn. A
first iteration warms up and is not counted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from vla_gym.provenance import peak_memory_mb

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "SB3 PPO": ({}, {}),
    "TokenPPO": ({}, {}),
    "TokenPPO, micro-batches of 16": ({"micro_batch_size": 16}, {}),
    "TokenPPO, critic of its own": ({}, {"detach_value": True}),
    "TokenPPO, privileged critic": ({}, {"critic": "privileged"}),
    "TokenPPO, privileged critic, bfloat16": ({"use_bf16": True}, {"critic": "privileged"}),
    "TokenPPO, privileged critic, bfloat16, frozen vision": (
        {"use_bf16": True},
        {"critic": "privileged", "freeze_vision": True},
    ),
}


def run(case: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of roll-out and update of one iteration, and peak memory (MB)."""
    import torch as th
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    from vla_algos import TokenPPO, VLAPolicy
    from vla_algos.common.vec_env import SB3VecEnv
    from vla_algos.errors import RandomWeightsWarning
    from vla_gym import make_vec

    class Clock(BaseCallback):
        """Notes when roll-outs start and end."""

        def _on_training_start(self) -> None:
            self.starts: list[float] = []
            self.ends: list[float] = []

        def _on_rollout_start(self) -> None:
            self.starts.append(time.perf_counter())

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            self.ends.append(time.perf_counter())

    # presets are meant: time and memory do not depend on the weights
    warnings.simplefilter("ignore", RandomWeightsWarning)
    th.set_num_threads(args.threads)
    kwargs, policy_kwargs = CASES[case]
    env = SB3VecEnv(
        make_vec(
            "LIBERO-Goal-v0",
            args.n_envs,
            backend="process",
            task_ids=[args.tasks],
            assets="primitive",
            render_quality="fast",
            image_size=96,
            chunk_size=8,
            privileged_obs=policy_kwargs.get("critic") == "privileged",
        )
    )
    changes = {"config_changes": {"image_size": 96}}
    shared = {
        "n_steps": args.n_steps,
        "batch_size": args.batch_size,
        "n_epochs": args.n_epochs,
        "policy_kwargs": {"vla": args.vla, "vla_kwargs": changes, "seed": 0, **policy_kwargs},
        "seed": 0,
        "device": args.device,
    }
    clock = Clock()
    if case == "SB3 PPO":
        model = PPO(VLAPolicy, env, **shared)
    else:
        model = TokenPPO(
            "VLAPolicy", env, critic_warmup_iterations=0, clip_range_vf=None, temperature=1.0, **shared, **kwargs
        )
    model.learn(3 * args.n_steps * args.n_envs, callback=clock)
    env.close()
    # the third roll-out only marks the end of the second update
    return {
        "rollout": clock.ends[1] - clock.starts[1],
        "update": clock.starts[2] - clock.ends[1],
        "memory": peak_memory_mb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vla", default="compact")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--n-steps", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--n-epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    figures: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(args.repeats):
        for case in CASES:
            # the environments are processes too, which workers of a multiprocessing.Pool may not start
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                figures[case].append(pool.submit(run, case, args).result())
    print(
        "| | roll-out (s) | update (s) | peak memory (MB) | update, ratio | memory, ratio |\n|---|---|---|---|---|---|"
    )
    for case, runs in figures.items():
        rollout, update, memory = (statistics.median(r[name] for r in runs) for name in ("rollout", "update", "memory"))
        ratios = [r["update"] / base["update"] for r, base in zip(runs, figures["SB3 PPO"], strict=True)]
        memories = [r["memory"] / base["memory"] for r, base in zip(runs, figures["SB3 PPO"], strict=True)]
        scatter = f"{statistics.median(ratios):.2f} [{min(ratios):.2f} - {max(ratios):.2f}]"
        print(
            f"| {case} | {rollout:.1f} | {update:.1f} | {memory:.0f} | {scatter} | {statistics.median(memories):.2f} |",
            flush=True,
        )
    print(json.dumps(vars(args)))


if __name__ == "__main__":
    main()
