"""
Throughput of vector environments, and what a second worker adds to the first.

    python benchmarks/vector.py [--suite goal ...] [--assets FOLDER|primitive] [--repeats 5] [--steps 40]

One scene per suite (its first task), physics only and with one fast camera of 128 px, with one and two workers on
every back end. All exist side by side and take turns, so that they meet the same noise; ratios are taken within a turn.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from typing import Any

import mujoco
import numpy as np

import vla_gym
from vla_gym.assets.resolve import resolve_assets
from vla_gym.processors import available_cpus, processor_name
from vla_gym.provenance import commit
from vla_gym.tasks.registry import get_suite
from vla_gym.vector import BACKENDS

COMMAND = np.array([0.2, -0.1, -0.2, 0.0, 0.05, 0.0, -1.0])
CAMERAS: dict[str, dict[str, Any]] = {
    "physics only": {"cameras": ()},
    "128 px, fast": {"cameras": ("agentview",), "image_size": 128, "render_quality": "fast"},
}
N_WORKERS = (1, 2)
TARGET = 1.8
"""Ratio of two workers to one, physics only, on two cores."""


def make(suite: str, assets: str, backend: str, n_envs: int, cameras: dict[str, Any]) -> Any:
    env = vla_gym.make_vec(
        get_suite(suite).env_id, n_envs, backend, task_ids=[0], assets=assets, action_type="continuous", **cameras
    )
    env.reset(seed=0)
    return env


def throughput(env: Any, steps: int) -> float:
    """Control steps per second, of all environments together, from the same states in every turn."""
    actions = np.tile(COMMAND, (env.num_envs, 1)).astype(np.float32)
    env.reset(options={"init_state_id": 0})
    env.step(actions)  # caches, and the interpreter, are warm then
    start = time.perf_counter()
    for _ in range(steps):
        env.step(actions)
    return steps * env.num_envs / (time.perf_counter() - start)


def measure(suite: str, assets: str, cameras: str, repeats: int, steps: int) -> None:
    envs = {(b, n): make(suite, assets, b, n, CAMERAS[cameras]) for b in BACKENDS for n in N_WORKERS}
    turns = [{key: throughput(env, steps) for key, env in envs.items()} for _ in range(repeats)]
    for env in envs.values():
        env.close()
    for backend in BACKENDS:
        one, two = ([turn[backend, n] for turn in turns] for n in N_WORKERS)
        ratios = [b / a for a, b in zip(one, two, strict=True)]
        spread = f"[{min(ratios):.2f}, {max(ratios):.2f}]"
        print(
            f"{suite:8s} {cameras:13s} {backend:8s} {statistics.median(one):9.1f} {statistics.median(two):9.1f}"
            f" {statistics.median(ratios):7.2f}  {spread}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", default=["goal"])
    parser.add_argument("--assets", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    pack = resolve_assets(args.assets)

    versions = f"python {platform.python_version()}, mujoco {mujoco.__version__}"
    print(f"{versions}, commit {commit() or 'unknown'}, assets {pack.name}")
    print(f"{processor_name()}, {available_cpus()} cores, load {os.getloadavg()[0]:.1f} at the start")
    print(f"control steps per second, medians of {args.repeats} turns of {args.steps} steps")
    print("suite    images        backend   1 worker 2 workers   ratio  [smallest, largest]")
    for suite in args.suite:
        for cameras in CAMERAS:
            measure(suite, str(pack.path), cameras, args.repeats, args.steps)
    print(f"target of the ratio, physics only on two cores: {TARGET}")


if __name__ == "__main__":
    main()
