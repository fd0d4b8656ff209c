"""A run whose process reward rises while success falls says so, once."""

from __future__ import annotations

import math
import warnings

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from vla_algos import ProcessRewardCallback, TokenGRPO, TokenPPO
from vla_algos.common.vec_env import SB3VecEnv
from vla_algos.errors import RewardHackingWarning
from vla_algos.experiments import rl
from vla_algos.experiments.settings import RLSettings
from vla_algos.rewards.callback import change
from vla_algos.rewards.vec_process_reward import VecProcessReward
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.vector import vector_env_class


class Script(gym.Wrapper):
    """Each episode is one step, with the success and the progress that a script says; the last entry goes on."""

    def __init__(self, script, broken=()):
        super().__init__(ToyLiberoEnv(image_size=36, horizon=5))
        self.script, self.broken, self.n = script, broken, 0

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        obs["proprio"][0] = 0.0
        return obs, info

    def step(self, action):
        obs, _, _, _, info = self.env.step(action)
        is_success, progress = self.script[min(self.n, len(self.script) - 1)]
        obs["proprio"][0] = progress
        info = {**info, "is_success": is_success, "unstable": self.n in self.broken}
        self.n += 1
        return obs, float(is_success), is_success, not is_success, info


class Told:
    key = "proprio"

    def score(self, seen, instructions):
        return seen[:, 1, 0]


def make_env(script, vector=DummyVecEnv, **kwargs):
    return VecProcessReward(VecMonitor(vector([lambda: Script(script, **kwargs)])), Told())


def make_model(script, **kwargs):
    return PPO(
        "MultiInputPolicy", make_env(script, **kwargs), n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu"
    )


HONEST = [(True, 0.5)] * 7 + [(False, 0.3)]
HACKED = [(False, 0.9)] * 7 + [(True, 0.9)]


def test_a_change_is_the_difference_of_means_and_its_standard_error():
    values = [9.0, 0.0, 2.0, 5.0, 7.0]
    # variances of (0, 2) and (5, 7) are 2 each
    assert change(values, 2) == (pytest.approx(5.0), pytest.approx(math.sqrt((2.0 + 2.0) / 2)))
    assert change([True, True, False, False], 2) == (-1.0, 0.0)


def test_it_warns_once_when_the_process_reward_rises_while_success_falls():
    model, callback = make_model(HONEST + HACKED * 4), ProcessRewardCallback(window=8)
    with pytest.warns(RewardHackingWarning) as caught:
        model.learn(40, callback=callback)
    texts = [str(each.message) for each in caught if each.category is RewardHackingWarning]
    assert len(texts) == 1
    assert texts[0].startswith(
        "After 16 decisions: the process reward per episode rose from 0.475 to 0.9 while success fell from 88 % to "
        "12 % (8 episodes each)."
    )


def test_it_is_raised_again_after_a_turn():
    # up and down again: the way back is a turn of both
    model, callback = make_model(HONEST + HACKED + HONEST + HACKED), ProcessRewardCallback(window=8)
    with pytest.warns(RewardHackingWarning) as caught:
        model.learn(32, callback=callback)
    assert [str(each.message).split(":")[0] for each in caught] == ["After 16 decisions", "After 32 decisions"]
    assert model.process_reward_history["is_raised"]


@pytest.mark.parametrize(
    "script",
    [
        # both rise, both fall, the process reward alone moves, success alone moves, neither
        HACKED[::-1] + [(True, 1.0)] * 8,
        [(True, 0.9)] * 8 + [(False, 0.1)] * 8,
        [(True, 0.2)] * 8 + [(True, 0.9)] * 8,
        [(True, 0.5)] * 8 + [(False, 0.5)] * 8,
        HONEST + HONEST,
        # a rise within its standard error
        [(True, 0.0), (True, 1.0)] * 4 + [(False, 0.1), (False, 1.0)] * 4,
        # one episode that failed less
        HONEST + [(True, 0.6)] * 6 + [(False, 0.6)] * 2,
    ],
)
def test_it_is_silent_otherwise(script):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RewardHackingWarning)
        make_model(script).learn(16, callback=ProcessRewardCallback(window=8))


def test_broken_episodes_do_not_count():
    model = make_model([(True, 0.5)] * 4 + [(False, 0.9)] * 4, broken=range(4, 8))
    model.learn(8, callback=ProcessRewardCallback(window=8))
    history = model.process_reward_history
    assert history["paid"] == pytest.approx([0.5] * 4) and history["is_success"] == [True] * 4


def test_figures_are_logged_and_the_environments_return_stays_its_own():
    model = make_model([(True, 0.5)] * 4 + [(True, 0.7)] * 4)
    figures = {}
    callback = ProcessRewardCallback(window=4)
    callback.on_rollout_end = lambda: (
        ProcessRewardCallback.on_rollout_end(callback),
        figures.update(model.logger.name_to_value),
    )
    model.learn(8, callback=callback)
    assert figures["rollout/ep_process_rew_mean"] == pytest.approx(0.7)
    assert figures["rollout/process_rew_alarm"] == 0
    assert 0 < figures["time/reward_share"] < 1 and figures["time/reward_seconds"] > 0
    assert np.mean([info["r"] for info in model.ep_info_buffer]) == 1.0


@pytest.mark.parametrize("algorithm", [TokenPPO, TokenGRPO])
def test_a_resumed_run_goes_on_with_its_episodes_and_a_new_one_starts_afresh(algorithm, tmp_path):
    def script_env():
        return VecProcessReward(
            VecMonitor(SB3VecEnv(vector_env_class("sync")([lambda: Script(HONEST, broken=())] * 2))), Told()
        )

    own = {"n_steps": 4, "batch_size": 8} if algorithm is TokenPPO else {"group_size": 2, "n_groups": 2}
    model = algorithm("VLAPolicy", script_env(), seed=0, device="cpu", policy_kwargs={"vla": "nano", "seed": 0}, **own)
    model.learn(4, callback=ProcessRewardCallback(window=50))
    n = len(model.process_reward_history["paid"])
    assert n >= 4
    model.process_reward_history["is_raised"] = True
    model.save(tmp_path / "model.zip")
    loaded = algorithm.load(tmp_path / "model.zip", env=script_env(), device="cpu")
    assert loaded.process_reward_history == model.process_reward_history
    loaded.learn(4, callback=ProcessRewardCallback(window=50), reset_num_timesteps=False)
    assert len(loaded.process_reward_history["paid"]) == 2 * n and loaded.process_reward_history["is_raised"]
    loaded.learn(4, callback=ProcessRewardCallback(window=50))
    assert len(loaded.process_reward_history["paid"]) == n and not loaded.process_reward_history["is_raised"]


def test_history_is_bounded():
    model = make_model(HONEST)
    model.learn(40, callback=ProcessRewardCallback(window=3))
    assert len(model.process_reward_history["paid"]) == len(model.process_reward_history["is_success"]) == 6


def test_runs_of_a_recipe_have_one_alarm():
    settings = RLSettings(callbacks=({"vla_algos.ProcessRewardCallback": {"window": 20}},))
    env = make_env(HONEST)
    assert [callback.window for callback in rl._callbacks(settings, env)] == [20]
    assert [callback.window for callback in rl._callbacks(RLSettings(), env)] == [50]
    assert rl._callbacks(RLSettings(), env.venv) == []


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="window is 1; expected at least 2 episodes"):
        ProcessRewardCallback(window=1)
    for threshold in (-1.0, float("nan"), math.inf):
        with pytest.raises(ValueError, match=f"threshold is {threshold}; expected a finite number"):
            ProcessRewardCallback(threshold=threshold)
    model = PPO("MultiInputPolicy", make_env(HONEST).venv, n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match="watches a VecProcessReward, and the environment has none"):
        model.learn(8, callback=ProcessRewardCallback())
