"""A checkpoint changes nothing, and a run goes on from it in mid-episode, on every back end."""

from __future__ import annotations

import itertools
import logging
import os
import signal
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecMonitor

from vla_algos import CurriculumCallback, SuccessSampler, TokenGRPO, TokenPPO
from vla_algos.common.vec_env import SB3VecEnv
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.vector import vector_env_class

HORIZON = 12
STARTS = list(itertools.product(range(2), range(8)))
ALGORITHMS = {
    "TokenPPO": (TokenPPO, {"n_steps": 8, "batch_size": 8, "critic_warmup_iterations": 1}),
    "TokenGRPO": (TokenGRPO, {"group_size": 2, "n_groups": 2, "batch_size": 16}),
}
BACKENDS = ("sync", "thread", "process")


def make_env(backend="sync", horizon=HORIZON):
    return VecMonitor(SB3VecEnv(vector_env_class(backend)([partial(ToyLiberoEnv, image_size=32, horizon=horizon)] * 2)))


class Episodes(BaseCallback):
    """Keeps start, return and length of every episode, and may send a signal in the middle of a roll-out."""

    def __init__(self, number=None, at_step=0):
        super().__init__()
        self.number, self.at_step, self.ended = number, at_step, []

    def _on_step(self):
        for info in self.locals["infos"]:
            if "episode" in info:
                episode = info["episode"]
                self.ended.append((info["task_id"], info["init_state_id"], float(episode["r"]), int(episode["l"])))
        if self.n_calls == self.at_step:
            os.kill(os.getpid(), self.number)
        return True


def start(name, env, folder=None, interval=1, callback=None, iterations=5, **kwargs):
    algorithm, defaults = ALGORITHMS[name]
    model = algorithm(
        "VLAPolicy",
        env,
        policy_kwargs={"vla": "nano"},
        checkpoint_folder=folder,
        checkpoint_interval=interval,
        seed=7,  # with which episodes reach the horizon
        device="cpu",
        **{**defaults, **kwargs},
    )
    sampler = SuccessSampler(STARTS, half_life=5)
    return model.learn(16 * iterations, [CurriculumCallback(sampler), *([callback] if callback else [])])


def resume(name, env, folder, callback=None):
    model = ALGORITHMS[name][0].load(Path(folder) / "last.zip", env=env, device="cpu")
    callbacks = [CurriculumCallback(model.success_sampler), *([callback] if callback else [])]
    return model.learn(model.remaining_timesteps, callbacks, reset_num_timesteps=False)


def assert_same(one, other):
    assert (one.num_timesteps, one._n_iterations) == (other.num_timesteps, other._n_iterations)
    assert one.success_sampler.state_dict() == other.success_sampler.state_dict()
    states = [model.policy.state_dict() for model in (one, other)]
    assert all(th.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_episodes_reach_their_time_limit_however_often_a_run_is_saved(tmp_path):
    """Started anew at every save, no episode of 12 decisions would ever time out in roll-outs of 8."""
    ended = {}
    for interval in (1, 10, None):
        episodes = Episodes()
        folder = None if interval is None else tmp_path / str(interval)
        start("TokenPPO", make_env(), folder, interval or 1, episodes, iterations=12)
        ended[interval] = episodes.ended
    assert ended[1] == ended[10] == ended[None]
    assert {length for *_, length in ended[1]} >= {HORIZON}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_ctrl_c_leaves_a_run_that_goes_on_with_the_same_bits(name, backend, tmp_path):
    whole_episodes, episodes = Episodes(), Episodes(signal.SIGINT, 11)
    whole = start(name, make_env(), callback=whole_episodes)
    env = make_env(backend)
    with pytest.raises(KeyboardInterrupt):
        # no checkpoint is due: the one of Ctrl-C is an extra one
        start(name, env, tmp_path, 100, episodes)
    env.close()
    rest = Episodes()
    env = make_env(backend)
    resumed = resume(name, env, tmp_path, rest)
    assert_same(resumed, whole)
    assert episodes.ended + rest.ended == whole_episodes.ended
    env.close()


def test_weights_are_sent_in_the_same_iterations_after_a_resumption(tmp_path):
    def learn(folder, iterations):
        model = TokenPPO(
            "VLAPolicy",
            make_env(horizon=2),
            policy_kwargs={"vla": "nano"},
            checkpoint_folder=folder,
            checkpoint_interval=1,
            n_steps=8,
            batch_size=16,
            seed=3,
            device="cpu",
        )
        return model.learn(16 * iterations, CurriculumCallback(SuccessSampler(STARTS, half_life=5), every=3))

    whole = learn(None, 4)
    # between two sendings
    learn(tmp_path, 2)
    part = TokenPPO.load(tmp_path / "last.zip", env=make_env(horizon=2), device="cpu")
    part.learn(32, CurriculumCallback(part.success_sampler, every=3), reset_num_timesteps=False)
    assert_same(part, whole)
    weights = [model.get_env().env_method("snapshot")[0]["starts"]["weights"] for model in (part, whole)]
    np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize(("name", "backend"), [("TokenPPO", "process"), ("TokenGRPO", "thread")])
def test_a_killed_run_goes_on_with_the_same_bits(name, backend, tmp_path, run_in_child):
    script = (
        f"import signal\nfrom {Path(__file__).stem} import *\n"
        f"start({name!r}, make_env({backend!r}), {str(tmp_path)!r}, 1, Episodes(signal.SIGKILL, 31))\n"
    )
    assert run_in_child(script, Path(__file__).parent) == -signal.SIGKILL
    assert_same(resume(name, make_env(), tmp_path), start(name, make_env()))


def wrapped():
    return RecordEpisodeStatistics(TimeLimit(ToyLiberoEnv(image_size=32, horizon=1000), HORIZON))


def test_clocks_and_counters_of_wrappers_go_on_too(tmp_path):
    """Gymnasium's TimeLimit ends the episodes here, within SB3's DummyVecEnv and Monitor."""
    whole_episodes, episodes, rest = Episodes(), Episodes(signal.SIGINT, 11), Episodes()
    whole = start("TokenPPO", make_vec_env(wrapped, 2), callback=whole_episodes)
    with pytest.raises(KeyboardInterrupt):
        start("TokenPPO", make_vec_env(wrapped, 2), tmp_path, 100, episodes)
    assert_same(resume("TokenPPO", make_vec_env(wrapped, 2), tmp_path, rest), whole)
    assert episodes.ended + rest.ended == whole_episodes.ended
    assert HORIZON in {length for *_, length in whole_episodes.ended}


class WithoutSnapshots(gym.Env):
    """The toy environment behind an environment that offers nothing to go on from."""

    def __init__(self):
        self.toy = ToyLiberoEnv(image_size=32, horizon=3)
        self.observation_space, self.action_space = self.toy.observation_space, self.toy.action_space
        self.set_start_weights = self.toy.set_start_weights

    def reset(self, *, seed=None, options=None):
        return self.toy.reset(seed=seed, options=options)

    def step(self, action):
        return self.toy.step(action)


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_vec_env(WithoutSnapshots, 2),
        pytest.param(
            lambda: make_vec_env(lambda: ToyLiberoEnv(image_size=32), 2, vec_env_cls=SubprocVecEnv),
            marks=pytest.mark.slow,
        ),
        lambda: SB3VecEnv(vector_env_class("thread")([WithoutSnapshots] * 2)),
    ],
    ids=["own environment", "SubprocVecEnv", "vla_gym"],
)
def test_without_snapshots_a_resumed_run_starts_new_episodes_and_says_so(make, tmp_path, caplog):
    env = make()
    start("TokenPPO", env, tmp_path, 1, iterations=2)
    env.close()
    env = make()
    model = TokenPPO.load(tmp_path / "last.zip", env=env, device="cpu")
    with caplog.at_level(logging.WARNING):
        model.learn(16, reset_num_timesteps=False)
    assert "starts new episodes where it was saved" in caplog.text and "no snapshots" in caplog.text
    assert model.num_timesteps == 48
    env.close()


def test_a_run_that_is_put_into_other_environments_says_so(tmp_path, caplog):
    start("TokenPPO", make_env(), tmp_path, 1, iterations=1)
    env = make_vec_env(wrapped, 2)
    model = TokenPPO.load(tmp_path / "last.zip", env=env, device="cpu")
    with caplog.at_level(logging.WARNING):
        model.learn(16, reset_num_timesteps=False)
    assert "starts new episodes" in caplog.text and "the snapshot is of" in caplog.text


def test_a_model_that_was_saved_by_hand_starts_new_episodes_without_a_word(tmp_path, caplog):
    start("TokenPPO", make_env(), iterations=1).save(tmp_path / "model.zip")
    model = TokenPPO.load(tmp_path / "model.zip", env=make_env(), device="cpu")
    with caplog.at_level(logging.WARNING):
        model.learn(16, reset_num_timesteps=False)
    assert not caplog.text and np.isfinite(model.num_timesteps)
