"""Fresh fixture poses are distributed as LIBERO's own draws."""

from __future__ import annotations

import numpy as np
import pytest

from vla_gym.assets.resolve import resolve_assets
from vla_gym.scenes.bundle import SceneBundle
from vla_gym.scenes.fixtures import sample_fixture_poses
from vla_gym.scenes.store import load_bundles
from vla_gym.tasks.registry import get_suite

pytestmark = pytest.mark.usefixtures("goal_scenes")


def assert_alike(bundle: SceneBundle) -> None:
    fresh = [sample_fixture_poses(bundle, np.random.default_rng(seed)) for seed in range(50)]
    pos, quat = (np.stack(draws) for draws in zip(*fresh, strict=True))
    for i, name in enumerate(bundle.fixture_names):
        where = f"{bundle.task.name}, {name}"
        np.testing.assert_allclose(
            pos[:, i].mean(axis=0), bundle.fixture_pos[:, i].mean(axis=0), atol=0.02, err_msg=where
        )
        yaws = [np.unwrap(2 * np.arctan2(q[:, i, 3], q[:, i, 0])) for q in (quat, bundle.fixture_quat)]
        for edge in (np.min, np.max):
            assert abs(np.sin((edge(yaws[0]) - edge(yaws[1])) / 2)) < 0.1, where
        if name not in bundle.fixture_regions:  # stands where the scene has it
            assert (quat[:, i] == bundle.fixture_quat[:, i]).all(), where


def test_goal_suite() -> None:
    assert_alike(load_bundles([get_suite("goal").task(0)], resolve_assets("primitive"))[0])


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["spatial", "object", "10", "90"])
def test_other_suites(suite: str) -> None:
    for bundle in load_bundles(get_suite(suite).tasks, resolve_assets("primitive")):
        assert_alike(bundle)
