from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import pytest

import vla_gym
from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.errors import UnknownNameError

KEYWORDS: dict[str, Any] = {"assets": "primitive", "cameras": (), "settle_steps": 0, "task_ids": [1, 4, 8]}


@pytest.fixture(scope="module")
def env() -> Iterator[LiberoEnv]:
    env = gym.make("LIBERO-Goal-v0", **KEYWORDS)
    yield env.unwrapped  # type: ignore[misc]
    env.close()


def draws(env: LiberoEnv, n: int, seed: int = 0) -> list[tuple[int, int]]:
    infos = [env.reset(seed=seed if i == 0 else None)[1] for i in range(n)]
    return [(info["task_id"], info["init_state_id"]) for info in infos]


def test_weights_are_frequencies(env: LiberoEnv) -> None:
    env.set_task_weights({8: 3.0, 1: 1})
    counts = Counter(task_id for task_id, _ in draws(env, 400))
    assert set(counts) == {1, 8}
    assert abs(counts[8] / 400 - 0.75) < 0.1  # 4.6 standard deviations
    assert env.reset(options={"task_id": 4})[1]["task_id"] == 4
    assert draws(env, 5) == draws(env, 5)


def test_no_weights_leave_the_stream_of_random_numbers_as_it_was(env: LiberoEnv) -> None:
    fresh = gym.make("LIBERO-Goal-v0", **KEYWORDS).unwrapped
    env.set_task_weights({1: 1.0})
    env.set_task_weights(None)
    assert draws(env, 10) == draws(fresh, 10)  # type: ignore[arg-type]


def test_wrong_weights_are_named_and_change_nothing(env: LiberoEnv) -> None:
    env.set_task_weights({4: 1.0})
    with pytest.raises(UnknownNameError, match="Unknown task_id 2"):
        env.set_task_weights({2: 1.0})
    for wrong in ({1: -1.0, 4: 2.0}, {1: float("nan")}, {1: 0.0}, {}):
        with pytest.raises(ValueError, match="expected finite numbers >= 0, one of them positive"):
            env.set_task_weights(wrong)
    assert {task_id for task_id, _ in draws(env, 5)} == {4}


def test_a_curriculum_reaches_every_worker() -> None:
    env = vla_gym.make_vec("LIBERO-Goal-v0", 2, "process", **KEYWORDS)
    env.call("set_task_weights", {4: 1.0})
    for seed in range(3):
        assert env.reset(seed=seed)[1]["task_id"].tolist() == [4, 4]
    env.close()
