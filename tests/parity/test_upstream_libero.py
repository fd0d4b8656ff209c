"""Our environment against upstream LIBERO, run side by side on LIBERO's own assets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import vla_gym  # noqa: F401  (registers the environments)
from vla_gym.datasets.hdf5 import DemonstrationFile
from vla_gym.datasets.record import record_demonstrations
from vla_gym.datasets.recorder import RecordingSettings
from vla_gym.sim.libero_files import task_files, write_libero_config
from vla_gym.tasks.registry import SETTLE_COMMAND, TaskSpec, get_suite

pytestmark = [pytest.mark.assets, pytest.mark.slow]

UPSTREAM = """
import json, sys
import numpy as np
import libero.libero as libero_package
assets, bddl, init, commands, out, resets = sys.argv[1:]
libero_package._assets_path_cache = assets
from libero.libero.envs.env_wrapper import ControlEnv
env = ControlEnv(bddl_file_name=bddl, has_offscreen_renderer=False, use_camera_obs=False)
env.seed(0)
for _ in range(int(resets)):
    env.reset()
env.set_init_state(np.load(init))
states, done = [], []
for command in np.load(commands):
    _, _, success, _ = env.step(command)
    states.append(env.get_sim_state())
    done.append(bool(success))
np.savez(out, states=np.stack(states), done=np.array(done))
"""


def run_upstream(
    task: TaskSpec, init_state: np.ndarray, commands: np.ndarray, init_state_id: int, assets: Path, folder: Path
) -> Mapping[str, np.ndarray]:
    """States and success flags of upstream LIBERO under ten settle commands and these."""
    write_libero_config(folder)
    np.save(folder / "init.npy", init_state)
    np.save(folder / "commands.npy", np.concatenate([np.tile(SETTLE_COMMAND, (10, 1)), commands]))
    files = [task_files(task)[0], folder / "init.npy", folder / "commands.npy", folder / "out.npz"]
    subprocess.run(
        [sys.executable, "-c", UPSTREAM, str(assets), *map(str, files), str(init_state_id + 1)],
        env={**os.environ, "LIBERO_CONFIG_PATH": str(folder), "MUJOCO_GL": "glx"},
        stdin=subprocess.DEVNULL,
        check=True,
        capture_output=True,
        timeout=300,
    )
    return np.load(folder / "out.npz")


@pytest.mark.parametrize(
    ("suite_name", "task_id"),
    [("spatial", 5), ("object", 3), ("goal", 1), ("goal", 7), ("10", 3), ("10", 9), ("90", 26), ("90", 61)],
)
def test_same_commands_same_states(suite_name: str, task_id: int, libero_assets: Path, tmp_path: Path) -> None:
    suite = get_suite(suite_name)
    rng = np.random.default_rng(task_id)
    waves = np.sin(np.linspace(0, 6, 40)[:, None] * rng.uniform(0.5, 2, 6) + rng.uniform(0, 6, 6)) * 0.7
    actions = np.concatenate([waves, np.repeat([-1.0, 1.0], 20)[:, None]], axis=1)
    actions[:, 2] -= 0.3

    env = gym.make(
        suite.env_id, task_ids=[task_id], assets=libero_assets, cameras=(), action_type="continuous"
    ).unwrapped
    env.reset(options={"init_state_id": 2})  # upstream's third reset
    ours, success = [], []
    for action in actions:
        _, _, terminated, _, _ = env.step(action)
        ours.append(env.get_state())
        success.append(terminated)

    upstream = run_upstream(suite.task(task_id), env.bundle.init_states[2], actions, 2, libero_assets, tmp_path)
    np.testing.assert_allclose(np.stack(ours), upstream["states"][10:], atol=1e-3)
    np.testing.assert_allclose(np.stack(ours)[:10], upstream["states"][10:20], atol=1e-6)
    assert success == list(upstream["done"][10:]), json.dumps(success)


def test_recorded_demonstrations_succeed_upstream(libero_assets: Path, tmp_path: Path) -> None:
    settings = RecordingSettings("goal", cameras=(), assets=str(libero_assets))
    (report,) = record_demonstrations(settings, tmp_path, 3, [8], workers=0)
    assert report.kept == 3 and report.path is not None
    with DemonstrationFile(report.path) as file:
        for episode in file:
            assert file.task is not None and episode.trace is not None
            upstream = run_upstream(
                file.task, episode.trace.init_state, episode.commands, episode.init_state_id, libero_assets, tmp_path
            )
            assert upstream["done"][-1] and not upstream["done"][:-1].any()
            # row t is from before command t, that is after ten settle commands and t others; a grasp, later on,
            # magnifies rounding
            np.testing.assert_allclose(episode.trace.states[:30], upstream["states"][9:39], atol=1e-6)
