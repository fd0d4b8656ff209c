"""How often each task and initial state is drawn, from the class alone to worker processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.envs.starts import Starts
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.errors import UnknownNameError
from vla_gym.vector import BACKENDS, vector_env_class

pytestmark = pytest.mark.usefixtures("goal_scenes")

KEYWORDS: dict[str, Any] = {"assets": "primitive", "cameras": (), "settle_steps": 0, "task_ids": [1, 4, 8]}
TOY = partial(ToyLiberoEnv, image_size=16)


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    env = gym.make("LIBERO-Goal-v0", **KEYWORDS)
    yield env.unwrapped  # type: ignore[misc]
    env.close()


@pytest.fixture
def starts() -> Starts:
    return Starts(10, 50, [1, 4, 8], [0, 7, 9])


def drawn(starts: Starts, n: int, **given: int) -> Counter[tuple[int, int]]:
    rng = np.random.default_rng(0)
    return Counter(starts.draw(rng, **given) for _ in range(n))


def test_weights_are_frequencies(starts: Starts) -> None:
    starts.set_weights({(8, 0): 3.0, (1, 7): 1, (1, 9): 4.0, (4, 0): 0.0})
    counts = drawn(starts, 4000)
    assert set(counts) == {(8, 0), (1, 7), (1, 9)}
    for start, share in {(8, 0): 3 / 8, (1, 7): 1 / 8, (1, 9): 4 / 8}.items():
        assert abs(counts[start] / 4000 - share) < 0.035  # at least 4.4 standard deviations


def test_what_is_given_conditions_the_rest(starts: Starts) -> None:
    starts.set_weights({(8, 0): 3.0, (1, 7): 1.0, (1, 9): 4.0, (4, 9): 12.0})
    counts = drawn(starts, 2000, task_id=1)
    assert set(counts) == {(1, 7), (1, 9)} and abs(counts[1, 9] / 2000 - 0.8) < 0.04  # 4.5 standard deviations
    counts = drawn(starts, 2000, init_state_id=9)
    assert set(counts) == {(1, 9), (4, 9)} and abs(counts[4, 9] / 2000 - 0.75) < 0.045
    assert drawn(starts, 5, task_id=4, init_state_id=7) == {(4, 7): 5}


def test_what_is_given_is_drawn_around_uniformly_if_it_has_no_weight(starts: Starts) -> None:
    starts.set_weights({(8, 0): 3.0, (4, 0): 0.0})
    for given, possible in (
        ({"task_id": 4}, {(4, 0), (4, 7), (4, 9)}),
        ({"task_id": 1}, {(1, 0), (1, 7), (1, 9)}),
        ({"init_state_id": 7}, {(1, 7), (4, 7), (8, 7)}),
        ({"init_state_id": 30}, {(1, 30), (4, 30), (8, 30)}),  # exists, though it is not drawn by itself
    ):
        counts = drawn(starts, 900, **given)
        assert set(counts) == possible and min(counts.values()) > 240  # 4.2 standard deviations below 300


def test_the_order_of_the_weights_does_not_matter(starts: Starts) -> None:
    weights = {(task_id, k): 1.0 + task_id + k for task_id in starts.task_ids for k in starts.init_state_ids}
    starts.set_weights(weights)
    expected = drawn(starts, 50)
    starts.set_weights(dict(reversed(weights.items())))
    assert drawn(starts, 50) == expected


def test_huge_weights_are_no_trouble(starts: Starts) -> None:
    starts.set_weights({(1, 0): 1e308, (4, 0): 1e308, (8, 0): 1e308})
    assert set(drawn(starts, 50)) == {(1, 0), (4, 0), (8, 0)}


def test_wrong_weights_are_named_and_change_nothing(starts: Starts) -> None:
    starts.set_weights({(4, 7): 1.0})
    with pytest.raises(UnknownNameError, match=r"Unknown task_id 2\. Valid: 1, 4, 8"):
        starts.set_weights({(1, 0): 1.0, (2, 0): 1.0})
    with pytest.raises(UnknownNameError, match=r"Unknown init_state_id 8\. Valid: 0, 7, 9"):
        starts.set_weights({(1, 8): 0.0, (1, 0): 1.0})
    for key in (1, (1,), (1, 0, 0)):
        with pytest.raises(ValueError, match=r"expected a tuple \(task_id, init_state_id\)"):
            starts.set_weights({key: 1.0})  # type: ignore[dict-item]
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"start \(1, 0\) is {weight}; expected a finite number >= 0"):
            starts.set_weights({(1, 0): weight, (4, 0): 2.0})
    for weights in ({(1, 0): 0.0}, {}):
        with pytest.raises(ValueError, match="start weights is positive; expected at least one"):
            starts.set_weights(weights)
    assert set(drawn(starts, 5)) == {(4, 7)}


@pytest.mark.parametrize("toy", [False, True])
def test_no_weights_leave_the_stream_of_random_numbers_as_it_was(toy: bool, env: LiberoEnv) -> None:
    any_env: Any = TOY() if toy else env
    any_env.set_start_weights({(1, 0): 1.0})
    any_env.set_start_weights(None)
    rng, _ = gym.utils.seeding.np_random(3)
    n_init_states = 8 if toy else 50
    for seed in (3, *[None] * 9):
        _, info = any_env.reset(seed=seed)
        task_id = any_env.task_ids[rng.integers(len(any_env.task_ids))]
        assert (info["task_id"], info["init_state_id"]) == (task_id, rng.integers(n_init_states))


def test_libero_draws_by_weight(env: LiberoEnv) -> None:
    env.set_start_weights({(8, 49): 3.0, (1, 3): 1.0})
    infos = [env.reset(seed=0 if i == 0 else None)[1] for i in range(200)]
    counts = Counter((info["task_id"], info["init_state_id"]) for info in infos)
    assert set(counts) == {(8, 49), (1, 3)} and abs(counts[8, 49] / 200 - 0.75) < 0.13  # 4.2 standard deviations
    assert env.reset(options={"task_id": 1})[1]["init_state_id"] == 3
    assert env.reset(options={"init_state_id": 49})[1]["task_id"] == 8
    with pytest.raises(UnknownNameError, match="Unknown task_id 2"):
        env.set_start_weights({(2, 0): 1.0})
    env.set_start_weights(None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_reach_every_worker(backend: str) -> None:
    venv = vector_env_class(backend)([TOY, TOY])
    weights = {(task_id, k): float(task_id == 1 and k >= 6) * (k - 5) for task_id in range(2) for k in range(8)}
    venv.call("set_start_weights", weights)
    infos = [venv.reset(seed=0 if i == 0 else None)[1] for i in range(150)]
    for i in range(2):
        counts = Counter((int(info["task_id"][i]), int(info["init_state_id"][i])) for info in infos)
        assert set(counts) == {(1, 6), (1, 7)} and abs(counts[1, 7] / 150 - 2 / 3) < 0.16  # 4.2 standard deviations
    with pytest.raises(UnknownNameError, match="Unknown init_state_id 8"):
        venv.call("set_start_weights", {(0, 8): 1.0})
    venv.close()
