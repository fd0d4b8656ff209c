"""
How far our trajectories are from recorded ones of upstream LIBERO.

    VLA_GYM_ASSETS=FOLDER VLA_GYM_GOLDEN=FOLDER python benchmarks/parity.py

Replays the recorded commands of each file (10 settle steps and 60 commands, initial states 0 and 7) and prints the
largest difference of any qpos (m, rad) over the first 10 and over all 70 steps, and whether success flags are equal.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from vla_gym.assets.resolve import resolve_assets
from vla_gym.sim.bundle import load_bundles
from vla_gym.sim.core import SimCore
from vla_gym.tasks.registry import SETTLE_COMMAND, SETTLE_STEPS, SUITES


def main() -> None:
    pack = resolve_assets("auto")
    suites = {suite.name: suite for suite in SUITES.values()}
    print(f"assets: {pack.name}")
    print(f"{'task':42s} {'state':>5s} {'10 steps':>10s} {'70 steps':>10s}  success flags")
    for file in sorted((Path(os.environ["VLA_GYM_GOLDEN"]) / "libero").glob("*.npz")):
        recording = np.load(file, allow_pickle=False)
        meta = json.loads(str(recording["meta"]))
        if meta["suite"] not in suites:
            continue
        (bundle,) = load_bundles([suites[meta["suite"]].task(meta["task_id"])], pack)
        core = SimCore(bundle)
        for k in (0, 7):
            core.reset(bundle.init_states[k], bundle.fixture_pos[k], bundle.fixture_quat[k])
            commands = np.concatenate([np.tile(SETTLE_COMMAND, (SETTLE_STEPS, 1)), recording[f"actions_k{k}"]])
            states, flags = [], []
            for command in commands:
                core.step(command)
                states.append(core.get_state())
                flags.append(core.is_success())
            qpos = slice(1, 1 + core.model.nq)
            difference = np.abs(np.stack(states)[:, qpos] - recording[f"states_k{k}"][1:, qpos]).max(axis=1)
            equal = "equal" if flags == [bool(done) for done in recording[f"done_k{k}"][1:]] else "DIFFERENT"
            print(f"{meta['name']:42s} {k:5d} {difference[:10].max():10.1e} {difference.max():10.1e}  {equal}")


if __name__ == "__main__":
    main()
