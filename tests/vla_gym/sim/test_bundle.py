from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from vla_gym.assets.resolve import AssetPack, cache_dir, resolve_assets
from vla_gym.errors import SceneBuildError
from vla_gym.sim.bundle import load_bundles
from vla_gym.tasks.registry import get_suite

SUITE = get_suite("goal")


@pytest.fixture(scope="module")
def pack() -> AssetPack:
    return resolve_assets("primitive")


def test_all_tasks_of_the_suite_share_one_model(pack: AssetPack) -> None:
    bundles = load_bundles(SUITE.tasks, pack)
    assert len({bundle.scene for bundle in bundles}) == len({bundle.model_file("physics") for bundle in bundles}) == 1
    model = bundles[0].load_model()
    for bundle in bundles:
        assert bundle.init_states.shape == (50, 1 + model.nq + model.nv)
        assert bundle.fixture_pos.shape == (50, 3, 3) and bundle.fixture_quat.shape == (50, 3, 4)
        assert bundle.pack == "primitive"
    assert model.opt.timestep == 0.002


def test_fixture_draws_lie_in_their_regions_and_differ(pack: AssetPack) -> None:
    (bundle,) = load_bundles([SUITE.task(0)], pack)
    assert len(np.unique(bundle.fixture_pos[:, 0, 0])) == 50
    for i, name in enumerate(bundle.fixture_names):
        region = bundle.fixture_regions[name]
        for axis, ranges in enumerate((region["x_ranges"], region["y_ranges"])):
            inside = [
                (low <= bundle.fixture_pos[:, i, axis]) & (bundle.fixture_pos[:, i, axis] <= high)
                for low, high in ranges
            ]
            assert np.any(inside, axis=0).all()


def test_collision_geoms_alone_give_mass(pack: AssetPack) -> None:
    # a model compiled from a re-saved XML would weigh the bowl's visual geoms too
    model = load_bundles([SUITE.task(0)], pack)[0].load_model()
    assert 0.0056 * 0.8 < model.body("akita_black_bowl_1_main").subtreemass[0] < 0.0056 * 1.2


@pytest.mark.parametrize("victim", ["arrays.npz", "meta.json", "model"])
def test_a_damaged_entry_is_rebuilt_with_a_log_line(
    victim: str, pack: AssetPack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load_bundles([SUITE.task(0)], pack)
    shutil.copytree(cache_dir(), tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path))
    (before,) = load_bundles([SUITE.task(0)], pack)
    folder = next(p.parent for p in tmp_path.rglob("meta.json") if SUITE.task(0).name in p.read_text())
    file = before.model_file("physics") if victim == "model" else folder / victim
    file.write_bytes(file.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        (after,) = load_bundles([SUITE.task(0)], pack)
    assert "damaged" in caplog.text and SUITE.task(0).name in caplog.text
    np.testing.assert_array_equal(after.init_states, before.init_states)
    assert isinstance(after.load_model(), mujoco.MjModel)
    assert not list(tmp_path.rglob("building-*"))


def test_building_asks_nothing_and_leaves_the_home_folder_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "from vla_gym.assets.resolve import resolve_assets\n"
        "from vla_gym.sim.bundle import load_bundles\n"
        "from vla_gym.tasks.registry import get_suite\n"
        "load_bundles([get_suite('goal').task(0)], resolve_assets('primitive'))\n"
    )
    environment = {**os.environ, "HOME": str(home), "VLA_GYM_CACHE": str(tmp_path / "cache")}
    environment.pop("LIBERO_CONFIG_PATH", None)
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdin=subprocess.PIPE,  # never answered: a question would block
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert not (home / ".libero").exists()
    assert "Do you want" not in output


def test_a_scene_that_cannot_be_built_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_GYM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pack").mkdir()
    with pytest.raises(SceneBuildError, match=r"could not build \['open_the_middle_drawer_of_the_cabinet'\]"):
        load_bundles([SUITE.task(0)], AssetPack("custom:pack", tmp_path / "pack"))
    assert not list((tmp_path / "cache").rglob("meta.json"))
