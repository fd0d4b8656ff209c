import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.wrappers import EpisodeSequence

NEVER = np.zeros(7, dtype=np.int64)


def test_every_reset_takes_the_next_episode():
    episodes = [(1, 4), (0, 2), (1, 0)]
    env = EpisodeSequence(ToyLiberoEnv(), episodes)
    seen = []
    for _ in episodes:
        _, info = env.reset()
        seen.append((info["task_id"], info["init_state_id"]))
        assert info["sequence_finished"] is False
    assert seen == episodes


def test_exhausted_list_idles_without_touching_the_env():
    env = EpisodeSequence(ToyLiberoEnv(horizon=1), [(1, 0)])
    env.reset()
    last, *_ = env.step(NEVER)
    idle, info = env.reset()
    assert info == {"sequence_finished": True}
    env.env.step = None  # any further call would fail
    again, reward, terminated, truncated, info = env.step(NEVER)
    assert (reward, terminated, truncated, info) == (0.0, False, False, {"sequence_finished": True})
    assert all(np.array_equal(last[k], idle[k]) and np.array_equal(last[k], again[k]) for k in last)


def test_vector_env_with_lists_of_different_length_goes_on():
    venv = DummyVecEnv(
        [lambda e=e: EpisodeSequence(ToyLiberoEnv(horizon=1), e) for e in ([(1, 0)], [(1, 1), (1, 2), (1, 3)])]
    )
    venv.reset()
    ended = []
    for _ in range(5):
        _, _, dones, infos = venv.step(np.stack([NEVER, NEVER]))
        ended += [(i, info["init_state_id"]) for i, info in enumerate(infos) if dones[i]]
    assert ended == [(0, 0), (1, 1), (1, 2), (1, 3)]


def test_empty_list_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        EpisodeSequence(ToyLiberoEnv(), [])
