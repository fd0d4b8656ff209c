from __future__ import annotations

import itertools
import math
from collections import Counter
from functools import partial

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from vla_algos import CurriculumCallback, SuccessSampler, TokenPPO
from vla_algos.common.vec_env import SB3VecEnv
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.vector import vector_env_class

STARTS = list(itertools.product(range(2), range(8)))
TOY = partial(ToyLiberoEnv, image_size=36, horizon=1)


class ListeningEnv(ToyLiberoEnv):
    """Keeps the weights it is sent, reports restarts and diverged physics in the steps given (counted from 1)."""

    def __init__(self, restarts=(), horizon=1, unstable=()):
        super().__init__(image_size=36, horizon=horizon)
        self.restarts, self.unstable = restarts, unstable
        self.sent = []
        self.steps = 0

    def set_start_weights(self, weights):
        self.sent.append(weights)
        super().set_start_weights(weights)

    def step(self, action):
        *rest, info = super().step(action)
        self.steps += 1
        if self.steps in self.restarts:
            info["worker_restarted"] = True
        info["unstable"] = self.steps in self.unstable
        return *rest, info


class Episodes(BaseCallback):
    """Keeps the info of every step that ended an episode."""

    def __init__(self):
        super().__init__()
        self.infos = []

    def _on_step(self):
        self.infos += itertools.compress(self.locals["infos"], self.locals["dones"])
        return True

    def starts(self):
        return [(info["task_id"], info["init_state_id"]) for info in self.infos]


class Captured(KVWriter):
    def __init__(self):
        self.written = []

    def write(self, key_values, key_excluded, step=0):
        self.written.append(dict(key_values))


def ppo(env, n_steps=8):
    return PPO("MultiInputPolicy", env, n_steps=n_steps, batch_size=8, n_epochs=1, seed=0, device="cpu")


def token_ppo(env):
    return TokenPPO("VLAPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"vla": "nano"}, seed=0, device="cpu")


def solved_but_for_task_1():
    """Statistics that leave nothing but task 1 to practise."""
    sampler = SuccessSampler(STARTS, tau=0.01, floor=0.0, half_life=math.inf)
    for start in STARTS * 50:
        sampler.record(start, start[0] == 0)
    return sampler


def test_episodes_are_counted_and_weights_sent():
    envs = [ListeningEnv(horizon=3), ListeningEnv(horizon=3)]
    sampler, seen, captured = SuccessSampler(STARTS, half_life=math.inf), Episodes(), Captured()
    model = ppo(VecMonitor(DummyVecEnv([lambda env=env: env for env in envs])), n_steps=16)
    model.set_logger(Logger(None, [captured]))
    model.learn(128, callback=[seen, CurriculumCallback(sampler, every=2)])

    counts = Counter(seen.starts())
    successes = Counter(itertools.compress(seen.starts(), [info["is_success"] for info in seen.infos]))
    state = sampler.state_dict()
    assert state["episodes"] == [counts[start] for start in STARTS]
    assert sampler.n_episodes == len(seen.infos) < 128
    assert state["successes"] == [successes[start] for start in STARTS] and 0 < sum(state["successes"]) < len(
        seen.infos
    )

    # when training starts, and after the second and the fourth roll-out
    for env in envs:
        first, _, last = env.sent
        assert list(first.values()) == pytest.approx([1 / 16] * 16) and last == sampler.weights()
        assert len({tuple(weights.values()) for weights in env.sent}) == 3
    assert len(captured.written) == 4
    last = captured.written[-1]
    assert last["curriculum/episodes"] == sampler.n_episodes > captured.written[-2]["curriculum/episodes"]
    assert last["curriculum/entropy"] == sampler.entropy() < math.log(16)
    for task_id, (successes, episodes) in sampler.task_counts().items():
        assert last[f"curriculum/episodes/{task_id}"] == episodes
        assert last[f"curriculum/success/{task_id}"] == pytest.approx(successes / episodes)


@pytest.mark.parametrize("backend", ["sync", "process"])
def test_workers_draw_what_is_to_be_practised(backend):
    venv = SB3VecEnv(vector_env_class(backend)([TOY, TOY]))
    sampler, seen = solved_but_for_task_1(), Episodes()
    ppo(venv).learn(32, callback=[seen, CurriculumCallback(sampler)])
    venv.close()
    # the first episode of each was drawn before training started
    assert {task_id for task_id, _ in seen.starts()[2:]} == {1} and len(seen.starts()) == 32
    assert sampler.n_episodes == 800 + 32


def test_weights_are_sent_again_after_a_restart_and_the_broken_episode_is_not_counted():
    envs = [ListeningEnv(restarts=(5,)), ListeningEnv()]
    sampler = SuccessSampler(STARTS)
    model = ppo(DummyVecEnv([lambda env=env: env for env in envs]))
    model.learn(16, callback=CurriculumCallback(sampler))
    assert sampler.n_episodes == 15
    assert [len(env.sent) for env in envs] == [3, 3]


def test_an_episode_whose_physics_diverged_is_not_counted():
    envs = [ListeningEnv(unstable=(2, 5)), ListeningEnv()]
    sampler = SuccessSampler(STARTS)
    model = ppo(DummyVecEnv([lambda env=env: env for env in envs]))
    model.learn(16, callback=CurriculumCallback(sampler))
    assert sampler.n_episodes == 14
    assert [len(env.sent) for env in envs] == [2, 2], "nothing has forgotten its weights"


def test_episodes_of_starts_that_are_not_the_samplers_do_not_count():
    starts, seen = [(1, 2), (1, 3)], Episodes()
    sampler = SuccessSampler(starts)
    ppo(DummyVecEnv([TOY] * 4)).learn(32, callback=[seen, CurriculumCallback(sampler)])
    counts = Counter(start in starts for start in seen.starts())
    assert 0 < counts[False] <= 4 and sampler.n_episodes == counts[True] == 32 - counts[False]


@pytest.mark.parametrize(("make", "algorithm"), [(ppo, PPO), (token_ppo, TokenPPO)])
def test_the_sampler_is_saved_with_the_model_and_goes_on(make, algorithm, tmp_path):
    sampler = SuccessSampler(STARTS, "frontier", tau=0.3)
    model = make(DummyVecEnv([TOY] * 2)).learn(32, callback=CurriculumCallback(sampler))
    assert sampler.n_episodes == 32 and len(set(sampler.weights().values())) > 2
    model.save(tmp_path / "model.zip")
    env = ListeningEnv()
    loaded = algorithm.load(tmp_path / "model.zip", env=DummyVecEnv([lambda: env]), device="cpu")
    loaded.learn(8, reset_num_timesteps=False, callback=CurriculumCallback(loaded.success_sampler))
    assert env.sent[0] == sampler.weights()
    assert loaded.success_sampler.n_episodes == 40 and sampler.n_episodes == 32
    assert (loaded.success_sampler.scheme, loaded.success_sampler.tau) == ("frontier", 0.3)


def test_every_must_be_a_number_of_roll_outs():
    with pytest.raises(ValueError, match="every is 0; expected at least 1"):
        CurriculumCallback(SuccessSampler(STARTS), every=0)
