"""One environment for all tests of the experts, as building scenes takes longer than most of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gymnasium as gym
import pytest

import vla_gym  # noqa: F401
from vla_gym.sim.core import SimCore

Start = Callable[..., SimCore]


@pytest.fixture(scope="package")
def env() -> Iterator[gym.Env]:
    tasks = [0, 1, 3, 6, 7, 8]
    env = gym.make("LIBERO-Goal-v0", task_ids=tasks, action_type="continuous", cameras=(), assets="primitive")
    yield env
    env.close()


@pytest.fixture
def start(env: gym.Env) -> Start:
    """Starts an episode, of the task that puts the bowl on the plate unless another is named, joints as given."""

    def start(task_id: int = 8, init_state_id: int = 0, **joints: float) -> SimCore:
        env.reset(options={"task_id": task_id, "init_state_id": init_state_id})
        core: SimCore = env.unwrapped.core
        state = core.get_state()
        for name, value in joints.items():
            state[1 + int(core.model.joint(name).qposadr[0])] = value
        core.set_state(state)
        return core

    return start
