import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from vla_gym.envs.toy_env import INSTRUCTIONS, ToyLiberoEnv
from vla_gym.errors import InvalidActionError, UnknownNameError
from vla_gym.instructions import decode_instruction

GOAL_BINS = {(0, True): (0, 255), (0, False): (0, 0), (1, True): (255, 255), (1, False): (255, 0)}


def goal_command(task_id: int, is_up: bool) -> np.ndarray:
    return np.array([*GOAL_BINS[task_id, is_up], 7, 7, 7, 7, 7])


@pytest.mark.filterwarnings("ignore:.*Box observation space.*")
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_env_checkers_pass(chunk_size):
    env = ToyLiberoEnv(chunk_size=chunk_size, horizon=2 * chunk_size)
    gymnasium_check_env(env, skip_render_check=True)
    sb3_check_env(env)


@pytest.mark.parametrize("task_id", [0, 1])
@pytest.mark.parametrize("init_state_id", range(8))
def test_exactly_one_quadrant_reaches_the_goal(task_id, init_state_id):
    env = ToyLiberoEnv()
    outcomes = []
    for first, second in ((0, 0), (0, 255), (255, 0), (255, 255)):
        env.reset(seed=0, options={"task_id": task_id, "init_state_id": init_state_id})
        _, reward, terminated, truncated, info = env.step(np.array([first, second, 0, 0, 0, 0, 0]))
        assert reward == float(terminated) == float(info["is_success"]) and not truncated
        outcomes.append((first == 255, second == 255, terminated))
    assert [o[:2] for o in outcomes if o[2]] == [(task_id == 1, init_state_id < 4)]


def test_the_observation_shows_instruction_and_square():
    env = ToyLiberoEnv(image_size=32)
    rows = []
    for init_state_id in range(8):
        obs, _ = env.reset(options={"task_id": 1, "init_state_id": init_state_id})
        assert decode_instruction(obs["instruction"]) == INSTRUCTIONS[1]
        red = (obs["agentview"] == [220, 40, 40]).all(axis=-1)
        assert red.sum() == 8 * 8
        rows.append(red.any(axis=1).nonzero()[0].mean())
    assert rows == sorted(rows) and rows[3] < 15.5 < rows[4]


def test_horizon_truncates_and_chunk_stops_at_success():
    env = ToyLiberoEnv(horizon=3, chunk_size=2)
    wrong, right = goal_command(0, True), goal_command(1, True)
    env.reset(options={"task_id": 1, "init_state_id": 0})
    *_, truncated, info = env.step(np.concatenate([wrong, wrong]))
    assert (truncated, info["executed_steps"]) == (False, 2)
    obs, _, terminated, truncated, info = env.step(np.concatenate([wrong, wrong]))
    assert (terminated, truncated, info["executed_steps"]) == (False, True, 1)
    assert obs["proprio"][0] == 1.0
    env.reset(options={"task_id": 1, "init_state_id": 0})
    _, reward, terminated, truncated, info = env.step(np.concatenate([right, wrong]))
    assert (reward, terminated, truncated, info["executed_steps"]) == (1.0, True, False, 1)


def test_invalid_input_is_named():
    env = ToyLiberoEnv()
    env.reset()
    with pytest.raises(InvalidActionError, match=r"shape \(3,\)"):
        env.step(np.zeros(3, dtype=np.int64))
    with pytest.raises(UnknownNameError, match="task_id 2"):
        env.reset(options={"task_id": 2})
    with pytest.raises(UnknownNameError, match="init_state_id -1"):
        env.reset(options={"init_state_id": -1})
    with pytest.raises(ValueError, match="horizon is 0"):
        ToyLiberoEnv(horizon=0)


def test_same_seed_same_episodes():
    env: gym.Env = ToyLiberoEnv()
    env.reset(seed=3)
    first = [env.reset()[1] for _ in range(20)]
    env.reset(seed=3)
    assert first == [env.reset()[1] for _ in range(20)]
    assert {info["task_id"] for info in first} == {0, 1}
