"""An episode that goes on from a snapshot has the same bits as one that was never interrupted."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.errors import SnapshotError, UnknownNameError

pytestmark = pytest.mark.usefixtures("goal_scenes")

# a drawer, a bowl that is pushed about, a burner whose site changes colour
TASKS = (3, 7, 8)


def make(**kwargs: Any) -> LiberoEnv:
    defaults = {"assets": "primitive", "cameras": (), "image_size": 32, "render_quality": "fast", "task_ids": TASKS}
    return LiberoEnv("LIBERO-Goal-v0", **{**defaults, "settle_steps": 2, "privileged_obs": True, **kwargs})


def random_actions(env: Any, n: int, seed: int) -> list[np.ndarray]:
    space = env.action_space
    space.seed(seed)
    return [space.sample() for _ in range(n)]


def trace(env: Any, actions: list[np.ndarray]) -> list[Any]:
    """What an environment shows and does; episodes that end are followed by the next that it draws."""
    seen: list[Any] = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append((observation, reward, terminated, truncated, info))
        if terminated or truncated:
            seen.append(env.reset())
    return seen


def assert_equal(a: Any, b: Any) -> None:
    """Equal to the bit, through lists, tuples and dictionaries."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"physics": "exact"},
        {"chunk_size": 3, "randomize_fixtures": True},
        {"cameras": ("agentview", "wrist"), "image_size": 16},
    ],
    ids=["fast", "exact", "chunks", "images"],
)
@pytest.mark.parametrize("task_id", TASKS)
def test_an_episode_goes_on_in_another_environment_with_the_same_bits(task_id: int, kwargs: dict[str, Any]) -> None:
    env, other = make(**kwargs), make(**kwargs)
    env.reset(seed=0, options={"task_id": task_id, "init_state_id": 4})
    weights = {(t, k): float(t + k) for t in TASKS for k in range(5)}
    env.set_start_weights(weights)
    trace(env, random_actions(env, 6, seed=1))
    # the other one is somewhere else, with contacts and a goal of its own
    other.reset(seed=9, options={"task_id": TASKS[0], "init_state_id": 2})
    trace(other, random_actions(other, 3, seed=5))

    snapshot = env.snapshot()
    other.restore(snapshot)
    assert_equal(other.snapshot(), snapshot)
    assert other.goal_predicates() == env.goal_predicates()
    actions = random_actions(env, 8, seed=2)
    assert_equal(trace(other, actions), trace(env, actions))
    # the next episodes, too: generator and weights came along
    assert_equal(other.reset(), env.reset())
    assert_equal(trace(other, actions[:2]), trace(env, actions[:2]))
    env.close()
    other.close()


def test_a_snapshot_is_a_copy_and_taking_one_changes_nothing() -> None:
    env, undisturbed = make(), make()
    actions = random_actions(env, 8, seed=3)
    for each in (env, undisturbed):
        each.reset(seed=1)
        trace(each, actions[:4])
    snapshot = env.snapshot()
    kept = env.snapshot()
    assert_equal(trace(env, actions[4:]), trace(undisturbed, actions[4:]))
    assert_equal(snapshot, kept)
    env.restore(snapshot)
    assert_equal(env.snapshot(), kept)
    env.close()
    undisturbed.close()


def test_time_limits_come_when_they_would_have() -> None:
    env, other = make(task_ids=[8]), make(task_ids=[8])
    env.reset(seed=0)
    env._elapsed_steps = env.suite.horizon - 2
    other.reset(seed=5)
    other.restore(env.snapshot())
    truncations = [other.step(action)[3] for action in random_actions(other, 2, seed=0)]
    assert truncations == [False, True]
    env.close()
    other.close()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"physics": "exact"}, r"physics='fast', this environment 'exact'\. Make the environment with the keywords"),
        ({"chunk_size": 2}, "chunk_size=1, this environment 2"),
        ({"task_ids": [0]}, "Unknown task_id 8"),
    ],
)
def test_snapshots_of_other_environments_are_refused(kwargs: dict[str, Any], message: str) -> None:
    env, other = make(task_ids=[8]), make(**{"task_ids": [8], **kwargs})
    env.reset(seed=0)
    with pytest.raises((ValueError, UnknownNameError), match=message):
        other.restore(env.snapshot())
    env.close()
    other.close()


def test_damaged_snapshots_are_refused_and_change_nothing() -> None:
    env = make(task_ids=[8])
    env.reset(seed=0)
    before = env.snapshot()
    for state in (np.zeros(3), before["core"]["state"] * np.nan, "text", None):
        damaged = {**before, "core": {**before["core"], "state": state}}
        with pytest.raises(ValueError, match=r"'state' of the snapshot is .*expected finite numbers of shape"):
            env.restore(damaged)
        assert_equal(env.snapshot(), before)
    env.close()


def test_toy_episodes_go_on_with_the_same_bits() -> None:
    env, other = (ToyLiberoEnv(image_size=36, horizon=3) for _ in range(2))
    env.reset(seed=0)
    env.set_start_weights({(0, 1): 1.0, (1, 3): 2.0})
    trace(env, random_actions(env, 4, seed=0))
    other.restore(env.snapshot())
    actions = random_actions(env, 20, seed=1)
    assert_equal(trace(other, actions), trace(env, actions))


def test_an_environment_that_was_never_reset_has_a_snapshot() -> None:
    env, other = make(), make()
    other.reset(seed=0)
    other.restore(env.snapshot())
    with pytest.raises(gym.error.ResetNeeded):
        other.step(random_actions(other, 1, seed=0)[0])
    assert_equal(other.reset(), env.reset())
    env.close()
    other.close()


def test_physics_that_diverges_right_after_a_restore_shows_what_there_was() -> None:
    env, other = make(cameras=("agentview",)), make(cameras=("agentview",))
    env.reset(seed=0)
    before, *_ = env.step(random_actions(env, 1, 0)[0])
    other.reset(seed=1)
    other.restore(env.snapshot())
    other.core.data.qvel[:] = 1e12
    observation, _, _, truncated, info = other.step(random_actions(env, 1, 1)[0])
    assert truncated and info["unstable"] and other.observation_space.contains(observation)
    for name in ("agentview", "proprio", "instruction"):
        np.testing.assert_array_equal(observation[name], before[name])
    env.close()
    other.close()


def test_an_episode_whose_physics_diverged_is_not_gone_on_with_but_those_after_it_are() -> None:
    env, other = make(task_ids=[8]), make(task_ids=[8])
    env.reset(seed=0)
    env.core.data.qvel[:] = 1e30
    (action,) = random_actions(env, 1, seed=0)
    assert env.step(action)[4]["unstable"]
    env.core.data.qpos[0] = np.nan
    other.reset(seed=5)
    other.restore(env.snapshot())
    with pytest.raises(gym.error.ResetNeeded):
        other.step(action)
    assert_equal(other.reset(), env.reset())
    assert_equal(trace(other, [action]), trace(env, [action]))
    env.close()
    other.close()


@pytest.mark.parametrize("kwargs", [{"horizon": 4}, {"n_init_states": 5}])
def test_toy_snapshots_of_other_keywords_are_refused(kwargs: dict[str, int]) -> None:
    toy = ToyLiberoEnv(image_size=16, horizon=3)
    toy.reset(seed=0)
    with pytest.raises(SnapshotError, match=rf"The snapshot has {next(iter(kwargs))}=.*Make the environment with"):
        ToyLiberoEnv(image_size=16, **{"horizon": 3, **kwargs}).restore(toy.snapshot())
