"""Films are recorded from every start once: of policies, of demonstrations, and of branches from them."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TransformObservation

from vla_algos.common.vec_env import SB3VecEnv
from vla_algos.errors import FilmError
from vla_algos.rewards.films import Film
from vla_algos.rewards.model import TrueProgress
from vla_algos.rewards.recording import Rest, all_starts, branches, played_actions, record_films, with_progress_under
from vla_gym.actions.tokenizer import ActionTokenizer
from vla_gym.datasets.episode import Episode
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.vector import vector_env_class
from vla_gym.wrappers import make_sequence

STARTS = all_starts([0, 1], range(4))


class Sure:
    """Always the same two bins: solves what lies left and above."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.tile([10, 200, 0, 0, 0, 0, 0], (len(observation["proprio"]), 1)), state


def walk(env_class=ToyLiberoEnv, n_envs=2, starts=STARTS, **kwargs):
    make = partial(env_class, **{"image_size": 16, "horizon": 3, "n_init_states": 4, **kwargs})
    return SB3VecEnv(vector_env_class("sync")([partial(make_sequence, make, starts[i::n_envs]) for i in range(n_envs)]))


@pytest.mark.parametrize("n_envs", [1, 2, 3])
def test_every_start_is_filmed_once_from_its_first_to_its_last_frame(n_envs) -> None:
    films = list(record_films(Sure(), walk(n_envs=n_envs), STARTS, "sure"))
    assert sorted((each.task_id, each.init_state_id) for each in films) == STARTS
    assert {each.source for each in films} == {"sure"}
    # success in the first decision, or three decisions in vain
    assert {(each.is_success, len(each)) for each in films} == {(True, 2), (False, 4)}
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

    films = record_films(Sure(), walk(Traced, n_envs=1), STARTS, "sure")
    found = next(each for each in films if not each.is_success)
    assert found.steps.tolist() == [0, 2, 4, 6] and found.trace.shape == (6, 8)
    assert (np.diff(found.trace[:, 0]) == 1).all()


def test_frames_are_copies_of_what_the_environment_reuses() -> None:
    blink = {"n": 0}

    def flash(observation):
        blink["n"] += 1
        return {**observation, "agentview": np.full_like(observation["agentview"], blink["n"])}

    def make(**kwargs):
        env = ToyLiberoEnv(**kwargs)
        return TransformObservation(env, flash, env.observation_space)

    films = record_films(Sure(), walk(make, n_envs=1, horizon=4), STARTS, "sure")
    found = next(each for each in films if not each.is_success)
    brightness = found.frames[:, 0, 0, 0].astype(int)
    assert (np.diff(brightness) == 1).all() and len(brightness) == 5


def test_episodes_that_broke_leave_a_warning_instead_of_a_film(caplog) -> None:
    class Unstable(ToyLiberoEnv):
        def step(self, action):
            observation, reward, terminated, truncated, info = super().step(action)
            is_broken = info["init_state_id"] == 2 and info["task_id"] == 1
            return observation, reward, terminated or is_broken, truncated, {**info, "unstable": is_broken}

    with caplog.at_level(logging.WARNING):
        films = list(record_films(Sure(), walk(Unstable), STARTS, "sure"))
    assert sorted((each.task_id, each.init_state_id) for each in films) == [s for s in STARTS if s != (1, 2)]
    assert "task 1, initial state 2 diverged" in caplog.text


def test_given_actions_come_first_and_the_policy_goes_on() -> None:
    class Noting(ToyLiberoEnv):
        def step(self, action):
            observation, reward, terminated, truncated, info = super().step(action)
            return {**observation, "proprio": np.full(8, action[2], np.float32)}, reward, terminated, truncated, info

    # bins of task 1 are wrong in every start, so its episodes last
    first = {(1, 0): np.full((2, 7), 7), (1, 1): np.zeros((0, 7), int), (1, 3): np.full((9, 7), 9)}
    first = {start: np.where(np.arange(7) == 0, 10, bins) for start, bins in first.items()}
    films = {f.init_state_id: f for f in record_films(Sure(), walk(Noting), STARTS, "it", first) if f.task_id == 1}
    done = {k: films[k].proprio[1:, 0].tolist() for k in range(4)}
    assert done == {0: [7, 7, 0], 1: [0, 0, 0], 2: [0, 0, 0], 3: [9, 9, 9]}


def episode(n_steps: int, task_id: int, init_state_id: int) -> Episode:
    commands = np.random.default_rng(n_steps).uniform(-1, 1, (n_steps, 7))
    commands[:, -1] = np.sign(commands[:, -1])
    images = np.zeros((n_steps, 0, 0, 3), np.uint8)
    proprio = np.zeros((n_steps, 8), np.float32)
    return Episode(images, proprio, commands, "do it", task_id, init_state_id, True)


def test_demonstrations_are_played_in_chunks_and_end_in_rest() -> None:
    tokenizer = ActionTokenizer()
    given = episode(10, 0, 3)
    played = played_actions([given, episode(5, 0, 3), episode(5, -1, 2), episode(8, 1, 0)], 4, tokenizer)
    assert {start: len(actions) for start, actions in played.items()} == {(0, 3): 3, (1, 0): 2}
    commands = tokenizer.decode(played[0, 3].reshape(-1, 7))
    np.testing.assert_allclose(commands[:10], given.commands, atol=1 / 255)
    np.testing.assert_allclose(commands[10:, :6], 0, atol=1 / 255)
    assert (commands[10:, 6] == given.commands[-1, 6]).all()
    exact = played_actions([given], 4)[0, 3].reshape(-1, 7)
    np.testing.assert_array_equal(exact[:10], given.commands)
    assert not exact[10:, :6].any() and (exact[10:, 6] == given.commands[-1, 6]).all()


def test_rest_stands_still_with_an_open_gripper() -> None:
    actions, state = Rest(chunk_size=2).predict({"proprio": np.zeros((3, 8))}, state="kept")
    assert actions.tolist() == [[0, 0, 0, 0, 0, 0, -1] * 2] * 3 and state == "kept"


def test_branches_begin_as_the_demonstration_does_and_then_move_at_random() -> None:
    played = {(0, k): np.arange(20 * 14).reshape(20, 14) % 256 for k in range(200)}
    made = branches(played, np.random.default_rng(0), max_random=3)
    assert made.keys() == played.keys()
    lengths = set()
    for actions in made.values():
        n_kept = sum(map(np.array_equal, actions, played[0, 0]))
        drawn = actions[n_kept:]
        assert (actions[:n_kept] == played[0, 0][:n_kept]).all() and len(drawn) <= 3
        assert (drawn[:, :7] == drawn[:, 7:]).all()
        lengths.add((n_kept, len(drawn)))
    assert {n for n, _ in lengths} == set(range(20)) and {m for _, m in lengths} == set(range(4))


def test_the_simulator_says_what_a_film_is_under_other_instructions() -> None:
    kwargs = {"assets": "primitive", "cameras": (), "settle_steps": 0, "task_ids": [8, 1, 7]}
    with gym.make("LIBERO-Goal-v0", privileged_obs=True, **kwargs) as env:
        libero = env.unwrapped
        before, _ = env.reset(options={"task_id": 8, "init_state_id": 0})
        states = np.stack([libero.get_state()] * 2)
        # the bowl 20 cm above where it stood
        states[1, libero.state_names.index("qpos/akita_black_bowl_1_joint0/z")] += 0.2
        after = libero.set_state(states[1], return_observation=True)
        pair = np.stack([[before["privileged"], after["privileged"]]])
        expected = TrueProgress().score(pair, [""])[0]
        frames = np.zeros((2, 4, 4, 3), np.uint8)
        of_the_stove = Film(
            frames, np.array([0, 8]), np.zeros((2, 8), np.float32), "", 1, 0, False, "it", states=states
        )
        found = with_progress_under(of_the_stove, env).progress_under
        with pytest.raises(FilmError, match="no states"):
            with_progress_under(replace(of_the_stove, states=None), env)
    assert list(found) == ["put the bowl on the plate", "turn on the stove"]
    np.testing.assert_allclose(found["put the bowl on the plate"], [0, expected], atol=1e-6)
    assert expected > 0.2 and found["turn on the stove"].max() < 0.01
