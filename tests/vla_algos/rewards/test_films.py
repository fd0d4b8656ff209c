"""Films hold what was seen, in order, and survive a file."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium.wrappers import TransformObservation

from vla_algos.common.vec_env import SB3VecEnv
from vla_algos.errors import FilmError
from vla_algos.rewards.films import Film, demonstration_film, load_films, record_films, save_films, split_films
from vla_gym.datasets.episode import Episode
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.vector import vector_env_class


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
    )
    return replace(made, **changes)


def assert_same(found: Film, expected: Film) -> None:
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value)
        assert type(getattr(found, name)) is type(value)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    films = [film(2 + i, task_id=i) for i in range(11)]
    films[1] = replace(films[1], privileged=None, trace=None, is_success=False)
    assert save_films(tmp_path / "films.hdf5", iter(films)) == 11
    found = load_films(tmp_path / "films.hdf5")
    assert len(found) == 11
    for one, other in zip(found, films, strict=True):
        assert_same(one, other)


class Sure:
    """Always the same two bins: solves what lies left and above."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.tile([10, 200, 0, 0, 0, 0, 0], (len(observation["proprio"]), 1)), state


def test_recorded_films_begin_and_end_where_episodes_do() -> None:
    venv = SB3VecEnv(vector_env_class("sync")([partial(ToyLiberoEnv, image_size=16, horizon=3)] * 2))
    venv.seed(0)
    films = list(record_films(Sure(), venv, 8, "sure"))
    assert len(films) == 8 and {each.source for each in films} == {"sure"}
    lengths = {(each.is_success, len(each)) for each in films}
    # success in the first decision, or three decisions in vain
    assert lengths == {(True, 2), (False, 4)}
    for each in films:
        # the toy environment shows the share of the horizon that has passed
        np.testing.assert_allclose(each.proprio[:, 0], np.arange(len(each)) / 3, atol=1e-6)
        assert each.steps.tolist() == list(range(len(each)))
        assert ("left" in each.instruction) == (each.task_id == 0)
        assert (each.frames == each.frames[0]).all(), "the square stays where it is"


def test_a_trace_of_every_control_step_comes_with_the_film():
    class Traced(ToyLiberoEnv):
        """Carries out two of three commands of each chunk."""

        def step(self, action):
            observation, reward, terminated, truncated, info = super().step(action)
            self.n = getattr(self, "n", 0) + 1
            rows = np.full((3, 8), np.nan, np.float32)
            rows[:2] = [[2 * self.n], [2 * self.n + 1]]
            return observation, reward, terminated, truncated, {**info, "executed_steps": 2, "trace": rows}

    venv = SB3VecEnv(vector_env_class("sync")([partial(Traced, image_size=16, horizon=3)]))
    found = next(each for each in record_films(Sure(), venv, 6, "sure") if not each.is_success)
    assert found.steps.tolist() == [0, 2, 4, 6] and found.trace.shape == (6, 8)
    assert (np.diff(found.trace[:, 0]) == 1).all()


def test_frames_are_copies_of_what_the_environment_reuses() -> None:
    blink = {"n": 0}

    def flash(observation):
        blink["n"] += 1
        return {**observation, "agentview": np.full_like(observation["agentview"], blink["n"])}

    def make():
        env = ToyLiberoEnv(image_size=16, horizon=4)
        return TransformObservation(env, flash, env.observation_space)

    venv = SB3VecEnv(vector_env_class("sync")([make]))
    found = next(each for each in record_films(Sure(), venv, 6, "sure") if not each.is_success)
    brightness = found.frames[:, 0, 0, 0].astype(int)
    assert (np.diff(brightness) == 1).all() and len(brightness) == 5


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


def test_held_out_states_and_policies_are_not_trained_on() -> None:
    films = [film(init_state_id=k, source=source) for k in range(4) for source in ("a", "b")]
    train, test = split_films(films, [2, 3], ["b"])
    assert [(each.init_state_id, each.source) for each in train] == [(0, "a"), (1, "a")]
    assert len(train) + len(test) == len(films)


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
        ({"privileged": np.zeros((2, 69), np.float32)}, r"privileged is \(2, 69\); expected one row for each of 3"),
    ],
)
def test_what_is_no_film_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(FilmError, match=message):
        film(**changes)


def test_files_of_something_else_are_named(tmp_path: Path) -> None:
    path = tmp_path / "films.hdf5"
    with pytest.raises(FilmError, match="is no file"):
        load_films(path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(FilmError, match=r"films\.hdf5: expected films"):
        load_films(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("film_0", data=[1])
    with pytest.raises(FilmError, match="expected films"):
        load_films(path)


def test_frames_that_lie_in_another_file_are_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "films.hdf5", tmp_path / "other.bin"
    other.write_bytes(bytes(2 * 16 * 3))
    save_films(path, [film(2)])
    with h5py.File(path, "a") as file:
        del file["film_0/frames"]
        file["film_0"].create_dataset("frames", (2, 4, 4, 3), np.uint8, external=str(other))
    with pytest.raises(FilmError, match="stored in other files"):
        load_films(path)
