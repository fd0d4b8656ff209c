"""Vector environments go on in mid-episode, wrappers included, on every back end."""

from __future__ import annotations

import os
import random
import signal
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import NormalizeReward, RecordEpisodeStatistics, TimeLimit

from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.errors import SnapshotError
from vla_gym.snapshots import restore_snapshot, take_snapshot
from vla_gym.vector import BACKENDS, vector_env_class
from vla_gym.wrappers import EpisodeSequence

N_ENVS = 3


class Moments:
    """State of a wrapper in an object of its own, with code beside it."""

    def __init__(self) -> None:
        self.mean, self.recent, self.scale = np.zeros(1), deque(maxlen=3), abs


class Restless(gym.Wrapper):
    """Forgets actions and changes rewards at random, from generators of every kind, and remembers what it did."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.generators = {"new": np.random.default_rng(1), "old": np.random.RandomState(2)}
        self.python = random.Random(3)
        self.moments = [Moments()]
        self.previous: Any = None

    def step(self, action: Any) -> Any:
        if self.previous is not None and self.python.random() < 0.3:
            action = self.previous
        self.previous = np.array(action)
        observation, reward, *rest = self.env.step(action)
        reward += self.generators["new"].normal() + self.generators["old"].normal() + self.moments[0].mean[0]
        self.moments[0].recent.append(float(reward))
        self.moments[0].mean = np.array([np.mean(self.moments[0].recent)])
        return observation, reward, *rest


def wrapped(limit: int = 4, horizon: int = 50) -> gym.Env:
    env = TimeLimit(Restless(ToyLiberoEnv(image_size=16, horizon=horizon)), limit)
    return NormalizeReward(RecordEpisodeStatistics(env))


def make(backend: str, env_fn: Any = wrapped, n_envs: int = N_ENVS, **kwargs: Any) -> Any:
    return vector_env_class(backend)([env_fn] * n_envs, **kwargs)


@pytest.fixture
def closing() -> Iterator[Any]:
    """Closes what it is given."""
    kept: list[Any] = []

    def keep(env: Any) -> Any:
        kept.append(env)
        return env

    yield keep
    for env in kept:
        env.close()


def without_clocks(info: Any) -> Any:
    """Infos without the seconds that RecordEpisodeStatistics reports."""
    if isinstance(info, dict):
        return {key: without_clocks(part) for key, part in info.items() if key not in ("t", "_t")}
    return info


def trace(env: Any, n_steps: int, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(n_steps):
        observations, *rest, infos = env.step(rng.integers(0, 256, env.action_space.shape))
        seen.append(({name: array.copy() for name, array in observations.items()}, *rest, without_clocks(infos)))
    return seen


def assert_same(one: Any, other: Any) -> None:
    assert data_equivalence(one, other, exact=True)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize(("backend", "other"), [("sync", "sync"), ("thread", "process"), ("process", "thread")])
def test_a_vector_environment_goes_on_in_another_with_the_same_bits(
    backend: str, other: str, mode: Any, closing: Any
) -> None:
    env, restored = (closing(make(name, autoreset_mode=mode)) for name in (backend, other))
    env.reset(seed=[5, 6, 7])
    # after the fourth step, or in it, episodes end
    trace(env, 4, seed=0)
    snapshot = env.snapshot()
    observations = restored.restore(snapshot)
    assert_same(observations, snapshot["observations"])
    first, second = trace(env, 11, seed=1), trace(restored, 11, seed=1)
    assert_same(first, second)
    assert any(step[3].any() for step in first), "an episode should have come to its limit"


def test_taking_a_snapshot_changes_nothing_and_what_was_taken_stays(closing: Any) -> None:
    env, undisturbed = (closing(make("sync")) for _ in range(2))
    for each in (env, undisturbed):
        each.reset(seed=1)
        trace(each, 3, seed=0)
    snapshot = env.snapshot()
    first = trace(env, 6, seed=1)
    assert_same(first, trace(undisturbed, 6, seed=1))
    env.restore(snapshot)
    assert_same(first, trace(env, 6, seed=1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_environment_that_needs_a_reset_still_does_after_it_is_restored(backend: str, closing: Any) -> None:
    one_step = partial(ToyLiberoEnv, image_size=16, horizon=1)
    env, restored = (closing(make(backend, one_step)) for _ in range(2))
    env.reset(seed=0)
    env.step_some([1], np.zeros((1, 7), dtype=np.int64), autoreset=False)
    restored.restore(env.snapshot())
    with pytest.raises(gym.error.ResetNeeded, match=r"environments \[1\] ended"):
        restored.step(np.zeros((N_ENVS, 7), dtype=np.int64))


@pytest.mark.parametrize(
    ("env_fn", "n_envs", "message"),
    [
        (wrapped, 2, "The snapshot is of 3 environments; there are 2"),
        (
            partial(wrapped, limit=5),
            N_ENVS,
            r"TimeLimit has keywords .*5.*; the snapshot is of .*4.*Make the environment",
        ),
        (partial(wrapped, horizon=60), N_ENVS, "The snapshot has horizon=50, this environment 60"),
        (
            partial(ToyLiberoEnv, image_size=16),
            N_ENVS,
            "The environment is .*ToyLiberoEnv; the snapshot is of .* around",
        ),
        (partial(ToyLiberoEnv, image_size=17), N_ENVS, r"The snapshot has observations .*\(3, 16, 16, 3\).*expected"),
    ],
)
def test_snapshots_of_other_environments_are_refused_by_name(
    env_fn: Any, n_envs: int, message: str, closing: Any
) -> None:
    env, other = closing(make("sync")), closing(make("process", env_fn, n_envs))
    env.reset(seed=0)
    with pytest.raises(SnapshotError, match=message):
        other.restore(env.snapshot())


def test_folders_of_recordings_may_change() -> None:
    class Recording(gym.Wrapper, gym.utils.RecordConstructorArgs):
        def __init__(self, env: Any, folder: str, every: int) -> None:
            gym.utils.RecordConstructorArgs.__init__(self, folder=folder, every=every)
            gym.Wrapper.__init__(self, env)

    toy = partial(ToyLiberoEnv, image_size=16)
    snapshot = take_snapshot(Recording(toy(), "here", 3))
    assert snapshot is not None
    restore_snapshot(Recording(toy(), "there", 3), snapshot)
    with pytest.raises(SnapshotError, match="Recording has keywords"):
        restore_snapshot(Recording(toy(), "here", 4), snapshot)


def test_what_a_wrapper_of_another_version_lacks_is_an_error_with_its_name() -> None:
    env = Restless(ToyLiberoEnv(image_size=16))
    snapshot = take_snapshot(env)
    assert snapshot is not None
    env.moments = []
    with pytest.raises(SnapshotError, match=r"Restless does not take its part of the snapshot \(TypeError"):
        restore_snapshot(env, snapshot)


def test_what_refers_to_itself_and_what_is_no_data_is_left_as_it_is() -> None:
    class Tangled(gym.Wrapper):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.count, self.file, self.whole = 0, open(os.devnull), Moments()
            self.whole.back = self
            self.code = [abs]

    env = Tangled(ToyLiberoEnv(image_size=16))
    env.count = 7
    snapshot = take_snapshot(env)
    assert snapshot is not None
    other = Tangled(ToyLiberoEnv(image_size=16))
    file, whole = other.file, other.whole
    restore_snapshot(other, snapshot)
    assert other.count == 7 and other.file is file and other.whole is whole and other.whole.back is other
    for each in (env, other):
        each.file.close()


def test_a_list_of_episodes_goes_on_where_it_was() -> None:
    episodes = [(0, 1), (1, 2), (0, 3)]
    env, other = (EpisodeSequence(ToyLiberoEnv(image_size=16), episodes) for _ in range(2))
    for _ in range(2):
        env.reset()
    snapshot = take_snapshot(env)
    assert snapshot is not None
    restore_snapshot(other, snapshot)
    action = np.zeros(7, dtype=np.int64)
    assert_same(other.step(action), env.step(action))
    assert other.reset()[1]["init_state_id"] == 3 and other.reset()[1]["sequence_finished"]


def test_while_a_restarted_worker_waits_to_be_reported_there_is_no_snapshot(closing: Any) -> None:
    env = closing(make("process", n_envs=2))
    env.reset(seed=0)
    trace(env, 1, seed=0)
    os.kill(env.worker_pids[1], signal.SIGKILL)
    assert env.snapshot() is None
    trace(env, 1, seed=1)
    assert env.snapshot() is not None


def test_a_worker_that_dies_after_it_was_restored_ends_its_episode_with_the_infos_from_before(closing: Any) -> None:
    env, restored = (closing(make("process", n_envs=2)) for _ in range(2))
    env.reset(seed=0)
    trace(env, 1, seed=0)
    restored.restore(env.snapshot())
    os.kill(restored.worker_pids[1], signal.SIGKILL)
    *_, truncations, infos = restored.step(np.zeros((2, 7), dtype=np.int64))
    assert truncations.tolist() == [False, True]
    assert infos["final_info"]["worker_restarted"][1] and "task_id" in infos["final_info"]
