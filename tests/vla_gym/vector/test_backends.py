"""What holds on every back end, compared with Gymnasium's own SyncVectorEnv as the slow twin."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import vla_gym
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.errors import InvalidActionError, UnknownNameError
from vla_gym.tasks.registry import get_suite
from vla_gym.vector import BACKENDS, vector_env_class
from vla_gym.wrappers import EpisodeSequence, make_sequence

pytestmark = pytest.mark.usefixtures("goal_scenes")

ROOT = Path(__file__).resolve().parents[3]
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]
TOYS = [partial(ToyLiberoEnv, horizon=3, image_size=16)] * 3


@contextmanager
def make(backend: str, env_fns: Any = TOYS, **kwargs: Any) -> Iterator[Any]:
    env = vector_env_class(backend)(env_fns, **kwargs)
    try:
        yield env
    finally:
        env.close()


def assert_same(first: Any, second: Any) -> None:
    assert data_equivalence(first, second, exact=True), f"{first}\n{second}"


def copied(observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in observations.items()}


def roll_out(env: Any, n_steps: int, prepare: Callable[[Any], None] = lambda env: None) -> list[Any]:
    """Everything that a vector environment returns; actions come from a generator of their own."""
    rng = np.random.default_rng(0)
    observations, infos = env.reset(seed=[5, 7, 5])
    trace = [(copied(observations), infos)]
    prepare(env)
    for _ in range(n_steps):
        actions = rng.integers(0, 256, env.action_space.shape)
        observations, rewards, terminations, truncations, infos = env.step(actions)
        trace.append((copied(observations), rewards, terminations, truncations, infos))
    return trace


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_toy_episodes_are_those_of_gymnasium(backend: str, mode: AutoresetMode) -> None:
    expected = roll_out(SyncVectorEnv(TOYS, autoreset_mode=mode), 20)
    assert any(step[2].any() for step in expected[1:]) and any(step[3].any() for step in expected[1:])
    with make(backend, autoreset_mode=mode) as env:
        assert env.metadata["autoreset_mode"] is mode
        assert_same(roll_out(env, 20), expected)


@pytest.mark.parametrize(("chunk_size", "cameras"), [(1, ("agentview",)), (2, ())], ids=["seeing", "blind"])
def test_libero_episodes_are_the_same_bits_on_every_backend(chunk_size: int, cameras: tuple[str, ...]) -> None:
    keywords = {
        "assets": "primitive",
        "cameras": cameras,
        "image_size": 32,
        "settle_steps": 1,
        "chunk_size": chunk_size,
    }
    keywords |= {"render_quality": "fast", "task_ids": [2, 8]}

    def end_soon(env: Any) -> None:
        env.set_attr("suite", dataclasses.replace(get_suite("goal"), horizon=3))

    traces = []
    for backend in BACKENDS:
        env = vla_gym.make_vec("LIBERO-Goal-v0", 3, backend, **keywords)
        traces.append(roll_out(env, 4, end_soon))
        assert env.spec.id == "LIBERO-Goal-v0"
        env.close()
    assert any(step[3].all() for step in traces[0][1:])
    assert set(traces[0][0][0]) == {"proprio", "instruction", *cameras}
    for trace in traces[1:]:
        assert_same(trace, traces[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_integer_seeds_all_and_none_goes_on(backend: str) -> None:
    with make(backend) as env, make("sync") as twin:
        first, _ = env.reset(seed=3)
        seeds = [int(np.random.SeedSequence([3, i]).generate_state(1)[0]) for i in range(3)]
        expected, _ = twin.reset(seed=seeds)
        assert_same(copied(first), expected)
        assert env.np_random_seed == tuple(seeds)
        assert_same(copied(env.reset()[0]), twin.reset(seed=[None] * 3)[0])
        with pytest.raises(ValueError, match="seed has 2 values for 3 environments"):
            env.reset(seed=[1, 2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_options_go_to_all_or_one_each(backend: str) -> None:
    with make(backend) as env:
        _, infos = env.reset(options={"task_id": 1, "init_state_id": np.array([4, 5, 6])})
        assert infos["task_id"].tolist() == [1, 1, 1] and infos["init_state_id"].tolist() == [4, 5, 6]
        _, drawn = env.reset(seed=0)
        _, infos = env.reset(seed=0, options={"task_id": (1 - drawn["task_id"][0], None, None)})
        assert infos["task_id"].tolist() == [1 - drawn["task_id"][0], *drawn["task_id"][1:]]
        with pytest.raises(ValueError, match="option 'task_id' has 2 values for 3 environments"):
            env.reset(options={"task_id": [0, 1]})


@pytest.mark.parametrize("backend", BACKENDS)
def test_observations_hold_until_the_next_but_one_step(backend: str) -> None:
    with make(backend, [partial(ToyLiberoEnv, horizon=50)] * 2) as env:
        misses = np.full((2, 7), 255), np.full((2, 7), 0)
        env.reset(options={"task_id": 0, "init_state_id": 0})
        observations = [env.step(misses[0])[0]]
        held = copied(observations[0])
        observations.append(env.step(misses[0])[0])
        assert_same(observations[0], held)
        assert not np.array_equal(observations[0]["proprio"], observations[1]["proprio"])
        observations.append(env.step(misses[0])[0])
        assert_same(observations[0], observations[2])
        assert np.shares_memory(observations[0]["proprio"], observations[2]["proprio"])
    assert observations[2]["proprio"][0, 0] > 0  # readable after the end
    with make(backend, copy=True) as env:
        first, _ = env.reset(seed=0)
        held = copied(first)
        for seed in (1, 2):
            env.reset(seed=seed)
        assert_same(first, held)


@pytest.mark.parametrize("backend", BACKENDS)
def test_last_observations_of_episodes_are_kept(backend: str) -> None:
    with make(backend, [partial(ToyLiberoEnv, horizon=1)] * 2) as env:
        env.reset(options={"task_id": [0, 1], "init_state_id": 0})
        *_, infos = env.step(np.zeros((2, 7), dtype=int))
        final = infos["final_obs"]
        held = [copied(each) for each in final]
        assert all(each["proprio"][0] == 1 for each in final)
        assert [bytes(each["instruction"]).strip(b"\0").split()[3] for each in final] == [b"left", b"right"]
        env.step(np.zeros((2, 7), dtype=int))
        env.step(np.zeros((2, 7), dtype=int))
        assert_same(list(final), held)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gymnasium_wrappers_work(backend: str, mode: AutoresetMode) -> None:
    def episodes(env: Any) -> tuple[list[float], list[int]]:
        wrapped = RecordEpisodeStatistics(env)
        roll_out(wrapped, 20)
        return [float(r) for r in wrapped.return_queue], [int(n) for n in wrapped.length_queue]

    with make(backend, autoreset_mode=mode) as env:
        returns, lengths = episodes(env)
    assert (returns, lengths) == episodes(SyncVectorEnv(TOYS, autoreset_mode=mode))
    assert len(set(lengths)) > 1 and len(set(returns)) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_methods_and_attributes(backend: str) -> None:
    sequences = [partial(make_sequence, ToyLiberoEnv, [(0, i)]) for i in range(3)]
    with make(backend, sequences) as env:
        env.reset()
        assert env.get_attr("init_state_id") == (0, 1, 2)
        assert env.call("is_goal_command", np.array([0, 255, 0, 0, 0, 0, 0])) == (True, True, True)
        assert env.call_some([2, 0], "get_wrapper_attr", "init_state_id") == (2, 0)
        env.set_attr("horizon", [7, 8, 9])
        assert env.get_attr("horizon") == (7, 8, 9)
        env.set_attr("horizon", 1)
        assert env.get_attr("horizon") == (1, 1, 1)
        assert env.step(np.full((3, 7), 255))[3].all()
        assert f"{EpisodeSequence.__module__}.EpisodeSequence" in env.class_names()[1]
        with pytest.raises(ValueError, match="horizon has 2 values"):
            env.set_attr("horizon", [1, 2])
        with pytest.raises(AttributeError, match="nonsense"):
            env.get_attr("nonsense")


@pytest.mark.parametrize("backend", BACKENDS)
def test_render_gives_one_image_each(backend: str) -> None:
    keywords = {"assets": "primitive", "cameras": (), "image_size": 32, "settle_steps": 0, "render_mode": "rgb_array"}
    keywords |= {"render_quality": "fast", "task_ids": [8]}
    env = vla_gym.make_vec("LIBERO-Goal-v0", 2, backend, **keywords)
    env.reset(options={"task_id": 8, "init_state_id": [0, 9]})
    first, second = env.render()
    env.close()
    assert first.shape == second.shape == (32, 32, 3) and not np.array_equal(first, second)


@pytest.mark.parametrize("backend", BACKENDS)
def test_exceptions_of_environments_arrive_as_they_are(backend: str) -> None:
    with make(backend) as env:
        with pytest.raises(gym.error.ResetNeeded):
            env.step(np.zeros((3, 7), dtype=int))
        env.reset(seed=0)
        actions = np.zeros((3, 7), dtype=int)
        actions[1] = 999
        with pytest.raises(InvalidActionError) as caught:
            env.step(actions)
        with pytest.raises(InvalidActionError) as expected:
            ToyLiberoEnv().step(actions[1])
        assert str(caught.value) == str(expected.value)
        with pytest.raises(UnknownNameError, match=r"Unknown task_id 9. Valid: 0..1"):
            env.reset(options={"task_id": [0, 1, 9]})
        with pytest.raises(ValueError, match="2 actions for 3 environments"):
            env.step(np.zeros((2, 7), dtype=int))
        with make("sync") as twin:
            assert_same(roll_out(env, 6), roll_out(twin, 6))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_episode_that_ends_beside_an_exception_is_over(backend: str) -> None:
    with make(backend, [partial(ToyLiberoEnv, horizon=1)] * 2, autoreset_mode="NextStep") as env:
        env.reset(seed=0)
        with pytest.raises(InvalidActionError):
            env.step(np.array([[0] * 7, [999] * 7]))
        _, rewards, terminations, truncations, infos = env.step(np.zeros((2, 7), dtype=int))
        assert (rewards[0], terminations[0], truncations[0], infos["executed_steps"][0]) == (0.0, False, False, 0)
        assert terminations[1] or truncations[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_arguments_are_named(backend: str) -> None:
    cls = vector_env_class(backend)
    with pytest.raises(ValueError, match="no environments"):
        cls([])
    with pytest.raises(UnknownNameError, match=r"autoreset_mode 'never'. Valid: SameStep, NextStep"):
        cls(TOYS, autoreset_mode="never")
    with pytest.raises(ValueError, match="Environment 1 has spaces"):
        cls([ToyLiberoEnv, partial(ToyLiberoEnv, image_size=32)])
    with pytest.raises(ValueError, match="horizon is 0; expected at least 1"):
        cls([ToyLiberoEnv, partial(ToyLiberoEnv, horizon=0)])
    env = cls(TOYS)
    env.close()
    env.close()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        env.reset()


def test_unknown_backends_and_sizes_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown backend 'ray'. Valid: sync, thread, process"):
        vla_gym.make_vec("LIBERO-Goal-v0", 2, "ray")
    with pytest.raises(ValueError, match="n_envs is 0; expected at least 1"):
        vla_gym.make_vec("LIBERO-Goal-v0", 0)


def test_unsupported_observations_are_named() -> None:
    class TextEnv(gym.Env[Any, Any]):
        observation_space = gym.spaces.Dict({"a": gym.spaces.Dict({"b": gym.spaces.Discrete(2)})})
        action_space = gym.spaces.Discrete(2)

    with pytest.raises(ValueError, match="cannot be batched; expected arrays"):
        vector_env_class("sync")([TextEnv])


def test_plain_arrays_are_observations_too() -> None:
    cart_poles = [partial(gym.make, "CartPole-v1")] * 2
    with make("process", cart_poles) as env:
        twin = SyncVectorEnv(cart_poles, autoreset_mode=AutoresetMode.SAME_STEP)
        np.testing.assert_array_equal(env.reset(seed=[0, 1])[0], twin.reset(seed=0)[0])
        for _ in range(30):
            assert_same(env.step([0, 1]), twin.step(np.array([0, 1])))


def test_the_package_loads_no_backend_before_it_is_asked_for() -> None:
    program = "import vla_gym, sys; print([m for m in sys.modules if m.startswith('vla_gym.vector.')])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "['vla_gym.vector.factory']"


@pytest.mark.parametrize("backend", BACKENDS)
def test_some_environments_step_as_in_a_step_of_all(backend: str) -> None:
    rng = np.random.default_rng(1)
    with make(backend) as env, make("sync") as twin:
        env.reset(seed=0), twin.reset(seed=0)
        for _ in range(8):
            actions = rng.integers(0, 256, (3, 7))
            some = env.step_some([2, 0], actions[[2, 0]])
            every = twin.step(actions)
            rows = [0, 2]
            assert_same({k: v[rows] for k, v in some[0].items()}, {k: v[rows] for k, v in every[0].items()})
            for ours, expected in zip(some[1:4], every[1:4], strict=True):
                assert ours[rows].tolist() == expected[rows].tolist() and not ours[1]
            assert_same(some[4]["task_id"][rows], every[4]["task_id"][rows])
            assert some[4]["_task_id"].tolist() == [True, False, True]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_autoreset_an_episode_stays_at_its_end(backend: str, mode: AutoresetMode) -> None:
    with make(backend, [partial(ToyLiberoEnv, horizon=1, image_size=16)] * 2, autoreset_mode=mode) as env:
        first = copied(env.reset(seed=0)[0])
        for _ in range(2):
            drawn = env.np_random[1].bit_generator.state
            observations, _, terminations, truncations, infos = env.step_some([1], np.zeros((1, 7), int), False)
            assert (terminations | truncations).tolist() == [False, True] and "final_obs" not in infos
            # the last observation, with the whole horizon gone; the other keeps its own
            assert observations["proprio"][:, 0].tolist() == [0.0, 1.0]
            assert_same(observations["agentview"][0], first["agentview"][0])
            # nothing was drawn for a next episode
            assert env.np_random[1].bit_generator.state == drawn
            with pytest.raises(gym.error.ResetNeeded, match=r"environments \[1\] ended in a step with autoreset=False"):
                env.step(np.zeros((2, 7), int))
            first = copied(env.reset()[0])


def test_wrong_indices_are_named() -> None:
    with make("sync") as env:
        env.reset()
        with pytest.raises(ValueError, match=r"Indices \[1, 1\] name an environment twice"):
            env.step_some([1, -2], np.zeros((2, 7), int))
        with pytest.raises(ValueError, match="Got 1 actions for 2 environments"):
            env.step_some([0, 1], np.zeros((1, 7), int))
        with pytest.raises(IndexError):
            env.step_some([3], np.zeros((1, 7), int))


def test_runs_of_neighbouring_seeds_have_no_seed_in_common() -> None:
    with make("sync") as env:
        found = []
        for seed in (0, 1, 2, 2**70):
            env.reset(seed=seed)
            found += env.np_random_seed
        assert len(set(found)) == len(found) == 12
