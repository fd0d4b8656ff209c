"""Films of a policy, of demonstrations and of branches, a file per source, recorded once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_algos.errors import FilmError, UnknownNameError
from vla_algos.experiments.reward_data import RewardDataSettings, record_reward_data
from vla_algos.models import save_vla
from vla_algos.models.openvla.config import get_preset
from vla_algos.models.openvla.model import OpenVLA
from vla_algos.rewards.films import describe_films, load_films
from vla_gym.datasets.hdf5 import demonstration_files
from vla_gym.datasets.record import record_demonstrations
from vla_gym.datasets.recorder import RecordingSettings

SETTINGS = RewardDataSettings(vlas=("nano",), task_ids=(8,), n_init_states=2, assets="primitive", n_envs=1)


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demonstrations")
    settings = RecordingSettings("goal", cameras=(), assets="primitive")
    record_demonstrations(settings, folder, episodes=1, task_ids=[8], workers=0)
    assert demonstration_files(folder)
    return str(folder)


@pytest.mark.slow
def test_every_source_gets_a_file_which_is_recorded_once(tmp_path, demonstrations, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_vla(OpenVLA(get_preset("nano", chunk_size=8)), "own")
    settings = replace(SETTINGS, vlas=("./own",), demonstrations=demonstrations, has_branches=True)
    seen: list[tuple[str, int, int]] = []
    found = record_reward_data(settings, "data", lambda *counts: seen.append(counts))
    # of the two starts, one has a demonstration
    assert found == {"./own": (2, 0), "demonstration": (1, 1), "branch of ./own": (1, 0)}
    assert seen == [("./own", 1, 2), ("./own", 2, 2), ("demonstration", 1, 1), ("branch of ./own", 1, 1)]
    assert {path.stem for path in Path("data").glob("*.hdf5")} == {"own", "demonstration", "branch-of-.-own"}
    films = {(film.source, film.init_state_id): film for film in load_films("data")}
    played, branch = films["demonstration", 0], films["branch of ./own", 0]
    assert played.privileged is not None and len(played.trace) == played.steps[-1]
    assert len(played.progress_under) == 9 and played.instruction not in played.progress_under
    assert max(rows[-1] for rows in played.progress_under.values()) < 1.0 and played.is_success
    n_alike = sum(map(np.array_equal, played.frames, branch.frames))
    assert 1 <= n_alike < len(played) and np.array_equal(played.frames[:n_alike], branch.frames[:n_alike])
    about, _ = describe_films("data/own.hdf5")
    assert about["checkpoint"]["vla"] == "./own" and about["env_kwargs"]["chunk_size"] == 8
    assert record_reward_data(settings, "data", lambda *_: pytest.fail("recorded again")) == found
    with pytest.raises(FilmError, match=r"own\.hdf5 was recorded with .*'seed': 0.*; expected .*'seed': 1"):
        record_reward_data(replace(settings, seed=1), "data")


def test_what_cannot_be_filmed_is_named_and_leaves_nothing(tmp_path, demonstrations) -> None:
    folder = tmp_path / "data"
    for changes, error, message in (
        ({"vlas": ()}, FilmError, "There is no model"),
        ({"vlas": ("compact-libero-gaol",)}, UnknownNameError, "compact-libero-goal"),
        ({"task_ids": (8, 12)}, UnknownNameError, "12"),
    ):
        with pytest.raises(error, match=message):
            record_reward_data(replace(SETTINGS, **changes), folder)
    assert not folder.exists()
