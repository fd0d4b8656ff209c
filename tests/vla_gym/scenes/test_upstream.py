"""Upstream LIBERO in a process of its own, on the built-in assets."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import vla_gym  # noqa: F401  (registers the environments)
from vla_gym.assets.resolve import resolve_assets
from vla_gym.scenes.upstream import replay_upstream
from vla_gym.tasks.registry import get_suite

pytestmark = pytest.mark.slow


def test_states_before_and_after_commands_are_ours() -> None:
    env = gym.make("LIBERO-Goal-v0", task_ids=[8], cameras=(), action_type="continuous").unwrapped
    env.reset(options={"init_state_id": 1})
    commands = np.tile([0.3, -0.2, -0.3, 0.0, 0.1, 0.0, -1.0], (6, 1))
    ours = [env.get_state()]
    for command in commands:
        env.step(command)
        ours.append(env.get_state())

    pack = resolve_assets("primitive")
    upstream = replay_upstream(env.bundle.task, env.bundle.init_states[1], 1, commands, pack.path)
    np.testing.assert_allclose(upstream.states, np.stack(ours), atol=1e-6)
    assert upstream.success.shape == (6,) and not upstream.success.any()


def test_what_upstream_cannot_run_is_an_error_with_its_output() -> None:
    pack, task = resolve_assets("primitive"), get_suite("goal").task(8)
    with pytest.raises(RuntimeError, match=rf"could not replay 1 commands of {task.name}.*\n[\s\S]*Error"):
        replay_upstream(task, np.zeros(5), 0, np.zeros((1, 7)), pack.path)
