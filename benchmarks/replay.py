"""
Whether upstream LIBERO reaches the goal under the commands of recorded demonstrations.

    VLA_GYM_ASSETS=FOLDER python benchmarks/replay.py [--suite spatial object goal 10 90] [--episodes 4] [--states 8]
        [--seed 0] [--out table.md]

Of each suite draws tasks and initial states until the scripted expert has recorded so many episodes, with the settings
of ``vla-rl collect`` but without images. Reads each back from its file and replays its commands, open-loop, in upstream
LIBERO, in a process of its own. Initial state k takes k + 1 resets of upstream, so only the first ones are drawn from.
The last columns are the largest difference of any qpos (m, rad) to the recorded states, over the first 30 steps and
over all: contacts magnify rounding.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vla_algos.evaluation.statistics import wilson_interval
from vla_gym.assets.resolve import AssetPack, resolve_assets
from vla_gym.datasets.episode import Episode
from vla_gym.datasets.hdf5 import DemonstrationFile
from vla_gym.datasets.recorder import KEPT, EpisodeRecorder, RecordingSettings, part_path
from vla_gym.scenes.store import load_bundles
from vla_gym.scenes.upstream import replay_upstream
from vla_gym.tasks.registry import TaskSpec, get_suite

BEGINNING = 30
"""Control steps in which the hand is mostly still on its way."""
HEADER = (
    "| suite | task | name | initial state | steps | success upstream | largest difference, 30 steps | all steps |\n"
    "|---|---|---|---|---|---|---|---|"
)


def draw(suite: str, n_states: int, rng: np.random.Generator) -> Iterator[tuple[TaskSpec, int]]:
    """Tasks and initial states, none twice; tasks repeat only after all of them."""
    tasks = get_suite(suite).tasks
    states = np.stack([rng.permutation(n_states) for _ in tasks])
    for round_ in range(n_states):
        for task_id in rng.permutation(len(tasks)):
            yield tasks[task_id], int(states[task_id, round_])


def record(settings: RecordingSettings, task: TaskSpec, init_state_id: int) -> tuple[str, Episode | None]:
    """Outcome of an attempt, and the episode as it is read back from disk."""
    with tempfile.TemporaryDirectory() as folder:
        # the episode of this number starts in the initial state of this number
        outcome = EpisodeRecorder(settings, Path(folder), [task.task_id])((task.task_id, init_state_id))
        if outcome != KEPT:
            return outcome, None
        with DemonstrationFile(part_path(Path(folder), task, init_state_id)) as file:
            return outcome, file[0]


def replay(task: TaskSpec, episode: Episode, pack: AssetPack) -> tuple[bool, float, float]:
    """Whether upstream reaches the goal, and the largest difference of any qpos in the beginning and in all."""
    assert episode.trace is not None
    upstream = replay_upstream(task, episode.trace.init_state, episode.init_state_id, episode.commands, pack.path)
    (bundle,) = load_bundles([task], pack)
    difference = np.abs(episode.trace.states - upstream.states[:-1])[:, 1 : 1 + bundle.load_model().nq].max(axis=1)
    return bool(upstream.success.any()), float(difference[:BEGINNING].max()), float(difference.max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", default=["spatial", "object", "goal", "10", "90"])
    parser.add_argument("--episodes", type=int, default=4, help="per suite")
    parser.add_argument("--states", type=int, default=8, help="initial states to draw from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--assets", default="auto")
    parser.add_argument("--out", type=Path, help="file the table is written to")
    args = parser.parse_args()

    pack = resolve_assets(args.assets)
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        print(line, flush=True)
        if args.out:
            args.out.write_text("\n".join(lines) + "\n")

    report(HEADER)
    verdicts: list[bool] = []
    not_recorded: list[str] = []
    rng = np.random.default_rng(args.seed)
    for suite in args.suite:
        settings = RecordingSettings(suite, cameras=(), assets=str(pack.path))
        n_recorded = 0
        for task, state in draw(suite, args.states, rng):
            outcome, episode = record(settings, task, state)
            if episode is None:
                not_recorded.append(f"{suite} {task.task_id} state {state} ({outcome})")
                continue
            success, beginning, whole = replay(task, episode, pack)
            verdicts.append(success)
            row = (
                f"| {suite} | {task.task_id} | {task.name} | {state} | {len(episode)} | {'yes' if success else 'NO'} |"
            )
            report(f"{row} {beginning:.1e} | {whole:.1e} |")
            n_recorded += 1
            if n_recorded == args.episodes:
                break
    low, high = wilson_interval(sum(verdicts), len(verdicts))
    total = f"{sum(verdicts)} of {len(verdicts)} succeed upstream, 95 % interval {low:.2f}-{high:.2f}"
    report(f"\n{total}; assets: {pack.name}")
    report(f"drawn but not recorded: {', '.join(not_recorded) or 'none'}")


if __name__ == "__main__":
    main()
