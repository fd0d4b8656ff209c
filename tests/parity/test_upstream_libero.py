"""Our environment against upstream LIBERO, run side by side on LIBERO's own assets."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import vla_gym  # noqa: F401  (registers the environments)
from vla_gym.datasets.hdf5 import DemonstrationFile
from vla_gym.datasets.record import record_demonstrations
from vla_gym.datasets.recorder import RecordingSettings
from vla_gym.scenes.upstream import replay_upstream
from vla_gym.tasks.registry import get_suite

pytestmark = [pytest.mark.assets, pytest.mark.slow]


@pytest.mark.parametrize(
    ("suite_name", "task_id"),
    [("spatial", 5), ("object", 3), ("goal", 1), ("goal", 7), ("10", 3), ("10", 9), ("90", 26), ("90", 61)],
)
def test_same_commands_same_states(suite_name: str, task_id: int, libero_assets: Path) -> None:
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

    upstream = replay_upstream(suite.task(task_id), env.bundle.init_states[2], 2, actions, libero_assets)
    np.testing.assert_allclose(np.stack(ours), upstream.states[1:], atol=1e-3)
    np.testing.assert_allclose(np.stack(ours)[:10], upstream.states[1:11], atol=1e-6)
    assert success == list(upstream.success), json.dumps(success)


def test_recorded_demonstrations_succeed_upstream(libero_assets: Path, tmp_path: Path) -> None:
    settings = RecordingSettings("goal", cameras=(), assets=str(libero_assets))
    (report,) = record_demonstrations(settings, tmp_path, 3, [8], workers=0)
    assert report.kept == 3 and report.path is not None
    with DemonstrationFile(report.path) as file:
        for episode in file:
            assert file.task is not None and episode.trace is not None
            upstream = replay_upstream(
                file.task, episode.trace.init_state, episode.init_state_id, episode.commands, libero_assets
            )
            assert upstream.success[-1] and not upstream.success[:-1].any()
            # a grasp, later on, magnifies rounding
            np.testing.assert_allclose(episode.trace.states[:30], upstream.states[:30], atol=1e-6)
