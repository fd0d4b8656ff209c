"""
Cost of recording demonstrations on one core, as ratios to stepping the same commands once without recording them.

    python benchmarks/demonstrations.py [--assets FOLDER|primitive] [--suite goal] [--tasks 8] [--episodes 10]
        [--repeats 3] [--n-envs 2]

A demonstration is acted out by the expert without rendering and then replayed, so 2 is what recording without cameras
can come to. With ``--n-envs`` the same is measured over processes, start included.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_gym.assets.resolve import resolve_assets
from vla_gym.datasets.hdf5 import DemonstrationFile
from vla_gym.datasets.record import record_demonstrations
from vla_gym.datasets.recorder import EpisodeRecorder, RecordingSettings, part_path

CASES: dict[str, dict[str, Any]] = {
    "no images": {"cameras": ()},
    "agentview 128 fast": {"cameras": ("agentview",)},
    "agentview and wrist 128 fast": {"cameras": ("agentview", "wrist")},
}


def clock(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(settings: RecordingSettings, task_id: int, n_episodes: int, folder: Path) -> dict[str, float]:
    """Seconds per demonstration, seconds for its commands alone, control steps and bytes."""
    record = EpisodeRecorder(settings, folder, [task_id])
    record((task_id, n_episodes))  # loads the scene
    outcomes: list[str] = []
    seconds = clock(lambda: outcomes.extend(record((task_id, i)) for i in range(n_episodes)))
    env = settings.make_env([task_id], settings.cameras)
    env.reset(options={"init_state_id": 0})
    kept, floor, steps, size = 0, 0.0, 0, 0
    for i, outcome in enumerate(outcomes):
        if outcome != "kept":
            continue
        path = part_path(folder, settings.spec.task(task_id), i)
        with DemonstrationFile(path) as file:
            commands = file[0].commands
        floor += clock(lambda commands=commands, i=i: step_through(env, commands, i))
        kept, steps, size = kept + 1, steps + len(commands), size + path.stat().st_size
    env.close()
    return {"seconds": seconds / kept, "floor": floor / kept, "steps": steps / kept, "bytes": size / kept, "kept": kept}


def step_through(env: Any, commands: np.ndarray, init_state_id: int) -> None:
    env.reset(options={"init_state_id": init_state_id})
    for command in commands:
        env.step(command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", default="auto")
    parser.add_argument("--suite", default="goal")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--n-envs", type=int, default=0)
    args = parser.parse_args()
    base = RecordingSettings(args.suite, assets=args.assets)
    pack = resolve_assets(args.assets).name
    print(f"{base.spec.task(args.tasks).name}; assets: {pack}; medians of {args.repeats} x {args.episodes} episodes")
    for name, changes in CASES.items():
        settings = replace(base, **changes)
        runs = []
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(measure(settings, args.tasks, args.episodes, Path(folder)))
        median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        ratios = [run["seconds"] / run["floor"] for run in runs]
        print(
            f"  {name:30s} {60 / median['seconds']:7.1f} per minute and core; {median['kept']:.0f} kept; "
            f"{median['steps']:.0f} steps, {median['bytes'] / 1e6:.2f} MB each; ratio to its commands alone "
            f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]",
            flush=True,
        )
        if args.n_envs:
            report_workers(settings, args.tasks, args.episodes, args.n_envs)


def report_workers(settings: RecordingSettings, task_id: int, n_episodes: int, workers: int) -> None:
    """Seconds of one process over those of several, for the same episodes, start and end included."""
    seconds = []
    for n in (1, workers):
        with tempfile.TemporaryDirectory() as folder:
            record = lambda folder=folder, n=n: record_demonstrations(settings, folder, n_episodes, [task_id], n)  # noqa: E731
            seconds.append(clock(record))
    print(f"  {'':30s} 1 process / {workers} processes: {seconds[0] / seconds[1]:.2f}", flush=True)


if __name__ == "__main__":
    main()
