"""
How far our trajectories are from recorded ones of upstream LIBERO.

    VLA_GYM_ASSETS=FOLDER VLA_GYM_GOLDEN=FOLDER python benchmarks/parity.py

Replays the recorded commands of each file (10 settle steps and 60 commands, initial states 0 and 7) in both kinds of
physics. Prints the largest difference of any qpos (m, rad) over the 10 settle steps and over all 70 steps, both states
together; how many success flags are equal; and for how many of the recorded goal states and near misses the verdict is
upstream's.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from vla_gym.assets.resolve import resolve_assets
from vla_gym.scenes.store import load_bundles
from vla_gym.sim.core import PHYSICS, SimCore
from vla_gym.tasks.registry import SETTLE_COMMAND, SETTLE_STEPS, SUITES


def main() -> None:
    pack = resolve_assets("auto")
    suites = {suite.name: suite for suite in SUITES.values()}
    print(f"assets: {pack.name}")
    print(f"{'':14s} {'exact':>17s} {'fast':>17s}  flags    goal states")
    print(f"{'recording':14s} {'10':>8s} {'70':>8s} {'10':>8s} {'70':>8s}")
    for file in sorted((Path(os.environ["VLA_GYM_GOLDEN"]) / "libero").glob("*.npz")):
        recording = np.load(file, allow_pickle=False)
        meta = json.loads(str(recording["meta"]))
        (bundle,) = load_bundles([suites[meta["suite"]].task(meta["task_id"])], pack)
        columns, equal, total = "", 0, 0
        for physics in PHYSICS:
            core = SimCore(bundle, physics)
            errors = []
            for k in (0, 7):
                difference, flags = replay(core, recording, k)
                errors.append((difference[:10].max(), difference.max()))
                equal, total = equal + int(flags.sum()), total + len(flags)
            columns += " {:8.1e} {:8.1e}".format(*np.max(errors, axis=0))
        verdicts = judge(core, recording)
        print(f"{file.stem:14s}{columns}  {equal}/{total}  {sum(verdicts)}/{len(verdicts)}", flush=True)


def replay(core: SimCore, recording: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest difference of any qpos after each step, and whether success flags are equal, (70,) each."""
    bundle = core.bundle
    core.reset(bundle.init_states[k], bundle.fixture_pos[k], bundle.fixture_quat[k])
    states, flags = [], []
    for command in np.concatenate([np.tile(SETTLE_COMMAND, (SETTLE_STEPS, 1)), recording[f"actions_k{k}"]]):
        core.step(command)
        states.append(core.get_state())
        flags.append(core.is_success())
    qpos = slice(1, 1 + core.model.nq)
    difference = np.abs(np.stack(states)[:, qpos] - recording[f"states_k{k}"][1:, qpos]).max(axis=1)
    return difference, np.array(flags) == recording[f"done_k{k}"][1:]


def judge(core: SimCore, recording: Any) -> list[bool]:
    """Whether success and every predicate equal upstream's, per recorded goal state or near miss."""
    bundle = core.bundle
    core.reset(bundle.init_states[0], bundle.fixture_pos[0], bundle.fixture_quat[0])
    verdicts = []
    for state, success, predicates in zip(
        recording["goal_states"], recording["goal_success"], recording["goal_pred"], strict=True
    ):
        core.set_state(state)
        same = list(core.goal.evaluate(core.data).values()) == list(predicates)
        verdicts.append(same and core.is_success() == bool(success))
    return verdicts


if __name__ == "__main__":
    main()
