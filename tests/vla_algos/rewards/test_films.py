"""Films hold what was seen, in order, and survive a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from vla_algos.errors import FilmError
from vla_algos.rewards.films import Film, demonstration_film, describe_films, load_films, save_films, split_films
from vla_gym.datasets.episode import Episode


def film(n: int = 3, **changes: object) -> Film:
    rng = np.random.default_rng(n)
    made = Film(
        frames=rng.integers(0, 256, (n, 4, 4, 3), np.uint8),
        steps=np.arange(n) * 8,
        proprio=rng.normal(size=(n, 8)).astype(np.float32),
        instruction="open it — wide",
        task_id=3,
        init_state_id=7,
        is_success=True,
        source="mine",
        privileged=rng.normal(size=(n, 69)).astype(np.float32),
        trace=rng.normal(size=(8 * n - 8, 8)).astype(np.float32),
        states=rng.normal(size=(n, 5)),
        progress_under={"shut it": rng.random(n, np.float32), "lift it": rng.random(n, np.float32)},
    )
    return replace(made, **changes)


def assert_same(found: Film, expected: Film) -> None:
    for name, value in vars(expected).items():
        if name == "progress_under":
            assert (found.progress_under is None) == (value is None)
            assert list(found.progress_under or {}) == list(value or {})
            for text, row in (value or {}).items():
                np.testing.assert_array_equal(found.progress_under[text], row)
            continue
        np.testing.assert_array_equal(getattr(found, name), value)
        assert type(getattr(found, name)) is type(value)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    films = [film(2 + i, task_id=i) for i in range(11)]
    films[1] = replace(films[1], privileged=None, trace=None, states=None, progress_under=None, is_success=False)
    films[2] = replace(films[2], progress_under={})
    about = {"seed": 3, "vla": "mine — own"}
    assert save_films(tmp_path / "films.hdf5", iter(films), about) == 11
    assert describe_films(tmp_path / "films.hdf5") == (about, [each.is_success for each in films])
    found = load_films(tmp_path / "films.hdf5")
    assert len(found) == 11
    for one, other in zip(found, films, strict=True):
        assert_same(one, other)


def test_a_demonstration_is_seen_as_by_a_policy_with_chunks() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 4, 4, 3), np.uint8)
    proprio = rng.normal(size=(20, 8)).astype(np.float32)
    episode = Episode(images, proprio, np.zeros((20, 7)), "do it", 1, 2, True)
    found = demonstration_film(episode, 8)
    assert found.steps.tolist() == [0, 8, 16, 19] and found.source == "demonstration"
    np.testing.assert_array_equal(found.frames, images[[0, 8, 16, 19]])
    np.testing.assert_array_equal(found.proprio, proprio[[0, 8, 16, 19]])
    np.testing.assert_array_equal(found.trace, proprio[:19])
    with pytest.raises(FilmError, match="has no images"):
        demonstration_film(replace(episode, images=np.zeros((20, 0, 0, 3), np.uint8)), 8)


def test_held_out_states_policies_and_tasks_are_not_trained_on() -> None:
    films = [film(init_state_id=k, source=source) for k in range(4) for source in ("a", "b")]
    train, test = split_films(films, [2, 3], ["b"])
    assert [(each.init_state_id, each.source) for each in train] == [(0, "a"), (1, "a")]
    assert len(train) + len(test) == len(films)
    train, test = split_films([film(task_id=i) for i in range(3)], held_out_tasks=[1])
    assert [each.task_id for each in train] == [0, 2] and [each.task_id for each in test] == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"frames": np.zeros((3, 4, 4, 3), np.float32)},
            r"frames is \(3, 4, 4, 3\) float32; expected \(K, H, W, 3\) uint8",
        ),
        ({"frames": np.zeros((3, 4, 4), np.uint8)}, r"frames is \(3, 4, 4\)"),
        ({"frames": np.zeros((1, 4, 4, 3), np.uint8), "trace": None}, r"has 1 frame\(s\); expected at least 2"),
        ({"steps": np.array([0, 8, 8]), "trace": None}, r"steps is \[0, 8, 8\]; expected 3 numbers that ascend from 0"),
        ({"steps": np.array([1, 2, 3])}, r"steps is \[1, 2, 3\]"),
        ({"proprio": np.zeros((3, 7), np.float32)}, r"proprio is \(3, 7\)"),
        ({"trace": np.full((16, 8), np.inf, np.float32)}, "trace holds NaN or infinity"),
        ({"proprio": np.full((3, 8), np.nan, np.float32)}, "proprio holds NaN"),
        ({"trace": np.zeros((3, 8), np.float32)}, r"trace is \(3, 8\); expected \(16, 8\)"),
        ({"states": np.zeros((2, 5))}, r"states is \(2, 5\); expected one row for each of 3 frames"),
        (
            {"progress_under": {"shut it": np.zeros(2, np.float32)}},
            r"shut it is \(2,\); expected one row for each of 3",
        ),
        ({"progress_under": {"shut it": np.full(3, np.nan, np.float32)}}, "shut it holds NaN"),
        ({"privileged": np.zeros((2, 69), np.float32)}, r"privileged is \(2, 69\); expected one row for each of 3"),
    ],
)
def test_what_is_no_film_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(FilmError, match=message):
        film(**changes)


def test_files_of_something_else_are_named(tmp_path: Path) -> None:
    path = tmp_path / "films.hdf5"
    with pytest.raises(FilmError, match=r"holds no films.*vla-rl reward data"):
        load_films(path)
    with pytest.raises(FilmError, match="holds no films"):
        load_films(tmp_path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(FilmError, match=r"films\.hdf5: expected films"):
        load_films(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("film_0", data=[1])
    with pytest.raises(FilmError, match="expected films"):
        load_films(path)


def test_a_folder_is_one_data_set(tmp_path: Path) -> None:
    save_films(tmp_path / "b.hdf5", [film(2, source="b")])
    save_films(tmp_path / "a.hdf5", [film(3, source="a"), film(4, source="a")])
    assert [(each.source, len(each)) for each in load_films(tmp_path)] == [("a", 3), ("a", 4), ("b", 2)]


def test_frames_that_lie_in_another_file_are_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "films.hdf5", tmp_path / "other.bin"
    other.write_bytes(bytes(2 * 16 * 3))
    save_films(path, [film(2)])
    with h5py.File(path, "a") as file:
        del file["film_0/frames"]
        file["film_0"].create_dataset("frames", (2, 4, 4, 3), np.uint8, external=str(other))
    with pytest.raises(FilmError, match="stored in other files"):
        load_films(path)
