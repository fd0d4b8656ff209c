"""What becomes of advantages before they are learned from."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from vla_algos import TokenPPO
from vla_algos.common.losses import token_ppo_loss
from vla_gym.envs.toy_env import ToyLiberoEnv


class OnRolloutEnd(BaseCallback):
    """Calls a function with the buffer, before it is trained on."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.function(self.model.rollout_buffer)


class Hopeless(gym.Wrapper):
    """No episode succeeds."""

    def __init__(self):
        super().__init__(ToyLiberoEnv(image_size=32, horizon=100))
        self.steps = 0

    def reset(self, **kwargs):
        self.steps = 0
        return self.env.reset(**kwargs)

    def step(self, action):
        self.steps += 1
        obs, *_, info = self.env.step(action)
        return obs, 0.0, False, self.steps == 5, {**info, "is_success": False}


def make_model(env, **kwargs):
    defaults = {"n_steps": 8, "batch_size": 4, "learning_rate": 1e-3, "critic_warmup_iterations": 0, "seed": 0}
    policy_kwargs = {"vla": "nano", "seed": 0, **kwargs.pop("policy_kwargs", {})}
    return TokenPPO("VLAPolicy", env, device="cpu", policy_kwargs=policy_kwargs, **{**defaults, **kwargs})


def learned_from(model, monkeypatch, change):
    """The advantages that reach the loss, of all minibatches of a roll-out whose buffer was changed."""
    seen = []

    def spy(log_probs, old_log_probs, advantages, token_mask, *rest):
        seen.append(advantages[token_mask.any(dim=1)])
        return token_ppo_loss(log_probs, old_log_probs, advantages, token_mask, *rest)

    monkeypatch.setattr("vla_algos.algorithms.token_ppo.token_ppo_loss", spy)
    model.learn(16, callback=OnRolloutEnd(change))
    return th.cat(seen).numpy()


def test_moments_are_those_of_the_roll_out_without_what_is_masked(toy_vec_env, monkeypatch):
    advantages = np.arange(16, dtype=np.float32).reshape(8, 2)

    def change(buffer):
        buffer.advantages[:] = advantages
        buffer.advantages[3] = 1e6
        buffer.token_mask[3] = False

    model = make_model(toy_vec_env(2))
    seen = learned_from(model, monkeypatch, change)
    counted = np.delete(advantages, 3, axis=0)
    expected = (counted - counted.mean()) / counted.std(ddof=1)
    np.testing.assert_allclose(np.sort(seen), np.sort(expected.flatten()), rtol=1e-5)
    assert model.logger.name_to_value["train/advantage_std"] == pytest.approx(counted.std(ddof=1))
    assert model.logger.name_to_value["train/learning_rate"] == 1e-3


def test_small_advantages_stay_small_and_so_do_steps(toy_vec_env, monkeypatch):
    advantages = np.tile([0.01, -0.01], 8).reshape(8, 2).astype(np.float32)

    def change(buffer):
        buffer.advantages[:] = advantages

    model = make_model(toy_vec_env(2), min_advantage_std=0.1)
    np.testing.assert_allclose(np.abs(learned_from(model, monkeypatch, change)), 0.1, rtol=1e-5)
    std = advantages.std(ddof=1)
    rates = {group["name"]: group["lr"] for group in model.policy.optimizer.param_groups}
    assert rates["actor"] == pytest.approx(1e-3 * std / 0.1)
    assert rates["actor"] == model.logger.name_to_value["train/learning_rate"]
    assert rates["value"] == 1e-3
    # the next roll-out has the whole rate to begin with
    model._update_learning_rate(model.policy.optimizer)
    assert {group["lr"] for group in model.policy.optimizer.param_groups} == {1e-3}


@pytest.mark.parametrize("policy_kwargs", [{}, {"detach_value": True}])
def test_where_nothing_succeeds_the_policy_stays(policy_kwargs):
    def walked(**kwargs):
        model = make_model(make_vec_env(partial(Hopeless), 4), policy_kwargs=policy_kwargs, n_epochs=2, **kwargs)
        start = {n: p.detach().clone() for n, p in model.policy.named_parameters() if "value_head" not in n}
        model.learn(32 * 2)
        return sum((dict(model.policy.named_parameters())[n] - p).square().sum() for n, p in start.items()).sqrt()

    assert walked() < 0.02 * walked(min_advantage_std=0.0)


def test_wrong_floors_are_named(toy_vec_env):
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"min_advantage_std is {value}; expected a number from 0 on"):
            make_model(toy_vec_env(1), min_advantage_std=value)
