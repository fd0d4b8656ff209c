"""
How often the scripted experts reach the goals, from the stored initial states.

    python benchmarks/experts.py [--suite spatial object goal 10 90] [--tasks 0 1 ...] [--states 50]
        [--assets FOLDER|primitive] [--n-envs 2] [--out table.md]

Initial state k of task t is solved with seed (t, k), so a row of the table does not depend on what else is run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np

import vla_gym  # noqa: F401  (registers the environments)
from vla_algos.evaluation.statistics import wilson_interval
from vla_gym.errors import UnknownNameError
from vla_gym.experts.scripted import ScriptedExpert
from vla_gym.tasks.registry import get_suite

HEADER = (
    "| suite | task | name | success | 95 % interval | median steps | failed states |\n|---|---|---|---|---|---|---|"
)


def run_task(job: tuple[str, int], n_states: int, assets: str) -> tuple[str, int, int]:
    """The table's row of a task, successes and episodes; no episodes if the expert cannot do it."""
    suite, task_id = job
    env = gym.make(
        get_suite(suite).env_id, task_ids=[task_id], cameras=(), assets=assets, action_type="continuous"
    ).unwrapped
    lengths, failed = [], []
    for state in range(n_states):
        env.reset(options={"init_state_id": state})
        expert = ScriptedExpert(env, np.random.default_rng((task_id, state)))
        done, n_steps, success = False, 0, False
        while not done:
            try:
                command = expert.act()
            except UnknownNameError:
                return f"| {suite} | {task_id} | {get_suite(suite).task(task_id).name} | unsupported | | | |", 0, 0
            _, _, terminated, truncated, info = env.step(command)
            n_steps, success, done = n_steps + 1, info["is_success"], terminated or truncated
        if success:
            lengths.append(n_steps)
        else:
            failed.append(state)
    env.close()
    low, high = wilson_interval(len(lengths), n_states)
    median = str(round(statistics.median(lengths))) if lengths else "-"
    name = get_suite(suite).task(task_id).name
    row = f"| {suite} | {task_id} | {name} | {len(lengths)}/{n_states} | {low:.2f}-{high:.2f} | {median} |"
    return f"{row} {' '.join(map(str, failed))} |", len(lengths), n_states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", default=["spatial", "object", "goal", "10", "90"])
    parser.add_argument("--tasks", nargs="+", type=int, help="default: all")
    parser.add_argument("--states", type=int, default=50)
    parser.add_argument("--assets", default="primitive")
    parser.add_argument("--n-envs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="file the table is written to")
    args = parser.parse_args()

    jobs = [(s, t) for s in args.suite for t in args.tasks or range(len(get_suite(s).tasks))]
    lines = [HEADER]
    print(HEADER, flush=True)
    totals = {suite: np.zeros(2, dtype=int) for suite in args.suite}
    with multiprocessing.get_context("spawn").Pool(args.n_envs) as pool:
        rows = pool.imap(partial(run_task, n_states=args.states, assets=args.assets), jobs)
        for (suite, _), (row, successes, episodes) in zip(jobs, rows, strict=True):
            print(row, flush=True)
            lines.append(row)
            totals[suite] += (successes, episodes)
            if args.out:
                args.out.write_text("\n".join(lines) + "\n")
    for suite, (successes, episodes) in totals.items():
        if episodes:
            low, high = wilson_interval(int(successes), int(episodes))
            lines.append(f"| {suite} | all | | {successes}/{episodes} | {low:.2f}-{high:.2f} | | |")
            print(lines[-1])
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
