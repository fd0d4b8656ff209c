"""A run trains its reward model on its own newest episodes."""

from __future__ import annotations

import json
import logging

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor

from vla_algos import RewardRefreshCallback, TokenGRPO, TokenPPO
from vla_algos.common.vec_env import SB3VecEnv
from vla_algos.errors import FilmError, SpaceError
from vla_algos.rewards.compact import CompactRewardModel
from vla_algos.rewards.films import load_films, save_films
from vla_algos.rewards.training import BEST
from vla_algos.rewards.vec_process_reward import VecProcessReward
from vla_gym import make_vec
from vla_gym.envs.privileged import PRIVILEGED_NAMES
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.snapshots import restore_snapshot, take_snapshot


class Knob(gym.Wrapper):
    """The toy with the simulator's side of a knob that turns with time; a broken episode now and then, if asked for."""

    def __init__(self, env, broken_every=0):
        super().__init__(env)
        state = spaces.Box(-10, 10, (len(PRIVILEGED_NAMES),), np.float32)
        self.observation_space = spaces.Dict({**env.observation_space.spaces, "privileged": state})
        self.broken_every, self.n_episodes = broken_every, 0

    def _seen(self, obs):
        privileged = np.zeros(len(PRIVILEGED_NAMES), np.float32)
        for name, value in (("exists", 1.0), ("is_turnon", 1.0), ("joint_distance", 1.0 - obs["proprio"][0])):
            privileged[PRIVILEGED_NAMES.index(f"atom0/{name}")] = value
        return {**obs, "privileged": privileged}

    def reset(self, **kwargs):
        self.n_episodes += 1
        obs, info = self.env.reset(**kwargs)
        return self._seen(obs), info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        is_broken = bool(self.broken_every) and self.n_episodes % self.broken_every == 0
        return self._seen(obs), reward, terminated, truncated, {**info, "unstable": is_broken and truncated}


def make_env(n_envs=2, model=None, wrapper=Knob, **kwargs):
    workers = make_vec(ToyLiberoEnv, n_envs, wrappers=[wrapper] if wrapper else [], image_size=36, horizon=3)
    model = model or CompactRewardModel.start_from("nano", seed=0)
    return VecProcessReward(VecMonitor(SB3VecEnv(workers)), model, **kwargs)


def make_model(env=None, algorithm=TokenPPO, **kwargs):
    own = {"n_steps": 8, "batch_size": 16, "critic_warmup_iterations": 100}
    own = own if algorithm is TokenPPO else {"group_size": 2, "n_groups": 2, "resampling_rounds": 0}
    defaults = {"seed": 0, "device": "cpu", "policy_kwargs": {"vla": "nano", "seed": 0}}
    return algorithm("VLAPolicy", env or make_env(), **{**own, **defaults, **kwargs})


def refresh(folder, **kwargs):
    return RewardRefreshCallback(**{"folder": folder, "held_out_every": 2, "batch_size": 16, "epochs": 1, **kwargs})


class Figures(BaseCallback):
    """Keeps what is logged at the end of a roll-out."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.found = dict(self.model.logger.name_to_value)


def weights(env):
    return {name: tensor.clone() for name, tensor in env.model.vla.state_dict().items()}


def differ(one, other):
    return any(not th.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("algorithm", [TokenPPO, TokenGRPO, PPO])
def test_films_are_the_whole_episodes_of_the_run(algorithm, tmp_path):
    if algorithm is PPO:
        model = PPO("MultiInputPolicy", make_env(), n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu")
    else:
        model = make_model(algorithm=algorithm)
    callback = refresh(tmp_path, every=100)
    model.learn(16, callback=callback)
    films = callback.films
    assert len(films) > 2
    for film in films:
        n = len(film)
        assert film.frames.shape == (n, 36, 36, 3) and film.steps.tolist() == list(range(n))
        np.testing.assert_allclose(film.proprio[:, 0], np.arange(n) / 3, atol=1e-6)
        assert film.is_success or n == 4
        assert film.source == algorithm.__name__ and film.privileged is not None
        # the square does not move within an episode
        assert (film.frames == film.frames[0]).all()
    assert [film.steps.tolist() for film in load_films(tmp_path)] == [film.steps.tolist() for film in films]


def test_every_so_many_roll_outs_the_model_learns(tmp_path):
    env = make_env()
    model, before = make_model(env), weights(env)
    model.learn(32, callback=refresh(tmp_path, every=3))
    assert not differ(weights(env), before) and not list(tmp_path.glob("model_*"))
    model = make_model(env)
    figures = Figures()
    model.learn(48, callback=[refresh(tmp_path / "other", every=3), figures])
    assert differ(weights(env), before) and model.reward_refresh == {"rollouts": 3, "refreshed_at": 3}
    kept = CompactRewardModel.load(tmp_path / "other" / "model_000003" / BEST)
    assert not differ(weights(env), kept.vla.state_dict())
    assert figures.found["reward/films"] > 0 and np.isfinite(figures.found["reward/held_out_loss"])


def test_the_same_seed_learns_the_same(tmp_path):
    learned = []
    for name in ("one", "other"):
        env = make_env()
        make_model(env).learn(16, callback=refresh(tmp_path / name, every=1))
        learned.append(weights(env))
    assert not differ(*learned)


def test_scores_of_the_model_before_pay_nothing_in_episodes_in_progress():
    class Level:
        key, level = "agentview", 0.2

        def score(self, seen, instructions):
            return np.full(len(instructions), self.level, np.float32)

    env = make_env(1, Level())
    env.reset()
    env.model.level = 0.9
    assert env.step(np.full((1, 7), 0))[3][0]["process_reward"] == pytest.approx(0.7)
    env.model.level = 0.3
    env.forget_progress()
    assert env.step(np.full((1, 7), 0))[3][0]["process_reward"] == 0.0


def test_a_run_is_resumed_with_its_films_and_its_model(tmp_path):
    env = make_env()
    model = make_model(env, checkpoint_folder=tmp_path / "run", checkpoint_interval=1)
    callback = refresh(None, every=2)
    model.learn(32, callback=callback)
    assert (tmp_path / "run" / "reward" / "model_000002").is_dir()
    # what came after the checkpoint was undone
    save_films(tmp_path / "run" / "reward" / "films_000003.hdf5", callback.films[:1])
    (tmp_path / "run" / "reward" / "model_000004").mkdir()
    other = make_env(model=CompactRewardModel.start_from("nano", seed=5))
    loaded = TokenPPO.load(tmp_path / "run" / "last.zip", env=other, device="cpu")
    resumed = refresh(None, every=100)
    resumed.init_callback(loaded)
    loaded.num_timesteps = 32
    resumed.on_training_start({}, {})
    assert not differ(weights(other), weights(env))
    assert [film.steps.tolist() for film in resumed.films] == [film.steps.tolist() for film in callback.films]
    names = sorted(path.name for path in (tmp_path / "run" / "reward").iterdir())
    assert names == ["films_000001.hdf5", "films_000002.hdf5", "model_000002"]
    loaded.learn(16, callback=refresh(None, every=100), reset_num_timesteps=False)
    assert loaded.reward_refresh == {"rollouts": 3, "refreshed_at": 2}


def test_episodes_whose_start_is_not_known_are_not_filmed(tmp_path):
    env, other = make_env(1), make_env(1)
    callback, model = refresh(tmp_path), make_model(other, n_steps=2)
    callback.init_callback(model)
    callback.on_training_start({}, {})
    for each in (env, other):
        each.reset()
    env.step(np.full((1, 7), 0))
    assert other.recorder.reels
    restore_snapshot(other, take_snapshot(env))
    assert not other.recorder.reels


def test_films_are_bounded_and_failures_are_half_of_them(tmp_path):
    callback = refresh(tmp_path, every=100, newest=3)
    make_model().learn(64, callback=callback)
    assert sorted(film.is_success for film in callback.films) == [False] * 2 + [True]
    # files that are not used go, those of the last roll-outs stay for a run that is resumed
    assert len(list(tmp_path.glob("films_*.hdf5"))) <= 4


def test_broken_episodes_give_no_film(tmp_path):
    callback = refresh(tmp_path, every=100)
    env = make_env(wrapper=lambda env: Knob(env, broken_every=1))
    make_model(env).learn(32, callback=callback)
    assert callback.films and all(film.is_success for film in callback.films)


def test_films_from_before_are_learned_from_too(tmp_path):
    first = refresh(tmp_path / "first", every=100)
    make_model().learn(16, callback=first)
    save_films(tmp_path / "data.hdf5", first.films)
    model = make_model()
    callback = refresh(tmp_path / "run", every=1, data=tmp_path / "data.hdf5")
    figures = Figures()
    model.learn(16, callback=[callback, figures])
    assert figures.found["reward/films"] == len(first.films) + len(callback.films)
    with pytest.raises(FilmError, match="holds no films"):
        refresh(tmp_path, data=tmp_path / "nowhere")


def test_without_films_on_both_sides_the_model_stays_and_says_so(tmp_path, caplog):
    env = make_env()
    before = weights(env)
    with caplog.at_level(logging.WARNING):
        make_model(env).learn(16, callback=refresh(tmp_path, every=1, held_out_every=100))
    assert not differ(weights(env), before)
    assert "stays as it is after roll-out 1" in caplog.text and "held_out_every=100" in caplog.text


def test_targets_that_need_a_trace_are_refused_with_the_first_films(tmp_path):
    with pytest.raises(FilmError, match=r"targets='progress' needs.*trace=True \(in a recipe under env.train_kwargs\)"):
        make_model().learn(16, callback=refresh(tmp_path, targets="progress"))


class NoLearner:
    key = "agentview"

    def score(self, seen, instructions):
        return np.zeros(len(instructions), np.float32)


def test_what_makes_no_sense_is_refused(tmp_path):
    for name, value, least in (("every", 0, 1), ("newest", 1, 2), ("held_out_every", 1, 2)):
        with pytest.raises(ValueError, match=f"{name} is {value}; expected at least {least}"):
            RewardRefreshCallback(**{name: value})
    with pytest.raises(ValueError, match="the environment has one with a NoLearner"):
        make_model(make_env(model=NoLearner())).learn(16, callback=refresh(tmp_path))
    with pytest.raises(ValueError, match="the environment has none"):
        make_model(make_env(model=NoLearner()).venv).learn(16, callback=refresh(tmp_path))
    with pytest.raises(ValueError, match="folder is None, and the algorithm has no checkpoint_folder"):
        make_model().learn(16, callback=refresh(None))
    with pytest.raises(SpaceError, match=r"a refresh needs 'privileged'.*env\.train_kwargs"):
        make_model(make_env(wrapper=None)).learn(16, callback=refresh(tmp_path))


def test_its_state_is_plain(tmp_path):
    model = make_model()
    model.learn(16, callback=refresh(tmp_path, every=100))
    assert json.loads(json.dumps(model.reward_refresh)) == {"rollouts": 1, "refreshed_at": 0}
