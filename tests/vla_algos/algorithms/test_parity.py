"""With one ratio per action, no warm-up and no value clipping, TokenPPO is SB3's PPO."""

import inspect
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from vla_algos import TokenPPO
from vla_algos.common.vec_env import seed_environments
from vla_algos.models.openvla.config import OpenVLAConfig
from vla_algos.policies import VLAPolicy
from vla_gym.envs.toy_env import ToyLiberoEnv

N_TOKENS = 7

SHARED = {
    "n_steps": 8,
    # the whole roll-out, as advantages are normalised over it here, and over the minibatch there
    "batch_size": 32,
    "n_epochs": 6,
    "learning_rate": 1e-3,
    "gamma": 0.9,
    "clip_range": 0.05,
    "max_grad_norm": 0.5,
    "policy_kwargs": {"vla": "nano", "seed": 0},
    "seed": 5,
    "device": "cpu",
}


def assert_parity(own, sb3):
    """Same weights, which have moved, and the same figures."""
    assert own.logger.name_to_value["train/clip_fraction"] > 0, "clipping must have had something to do"
    start = VLAPolicy(own.observation_space, own.action_space, lambda _: 0.0, vla="nano", seed=0).parameters()
    for (name, p), q, before in zip(own.policy.named_parameters(), sb3.policy.parameters(), start, strict=True):
        th.testing.assert_close(p, q, atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
        assert not p.requires_grad or not th.equal(p, before) or name.endswith(("fc2.bias", "lm_head.weight"))
    for name in ("train/value_loss", "train/policy_gradient_loss", "train/clip_fraction"):
        assert own.logger.name_to_value[name] == pytest.approx(sb3.logger.name_to_value[name], rel=5e-2, abs=1e-5)


@pytest.mark.parametrize(
    ("ent_coef", "normalize_advantage", "micro_batch_size"),
    [(0.0, True, None), (0.0, False, None), (0.0, True, 7), (0.05, True, None)],
)
def test_same_seeds_same_updates_same_weights(ent_coef, normalize_advantage, micro_batch_size, toy_vec_env):
    # each is trained right after it was made, which seeds the generators that both draw from
    shared = {**SHARED, "normalize_advantage": normalize_advantage}
    if not normalize_advantage:
        shared |= {"batch_size": 8, "n_epochs": 3}
    own = TokenPPO(
        "VLAPolicy",
        toy_vec_env(4, horizon=3),
        critic_warmup_iterations=0,
        clip_range_vf=None,
        temperature=1.0,
        ratio_level="action",
        min_advantage_std=0.0,
        micro_batch_size=micro_batch_size,
        # per token here, per action there
        ent_coef=ent_coef * N_TOKENS,
        **shared,
    ).learn(4 * 8 * 3)
    sb3 = PPO(VLAPolicy, toy_vec_env(4, horizon=3), ent_coef=ent_coef, **shared)
    seed_environments(sb3.env, SHARED["seed"])
    sb3.learn(4 * 8 * 3)
    assert_parity(own, sb3)
    entropy = own.logger.name_to_value["train/entropy_loss"] * N_TOKENS
    assert entropy == pytest.approx(sb3.logger.name_to_value["train/entropy_loss"], rel=1e-4)


class FirstToken(gym.ActionWrapper):
    """An action of one token; the rest of the command follows from it."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = spaces.MultiDiscrete([256])

    def action(self, action):
        return np.repeat(action, N_TOKENS)


@pytest.mark.parametrize("ratio_level", ["token", "action"])
def test_one_token_per_action(ratio_level, monkeypatch):
    monkeypatch.setattr("vla_algos.policies.spaces.COMMAND_DIM", 1)
    monkeypatch.setattr(OpenVLAConfig, "action_tokens", 1)
    make_env = partial(make_vec_env, lambda: FirstToken(ToyLiberoEnv(horizon=3)), 4)
    own = TokenPPO(
        "VLAPolicy",
        make_env(),
        critic_warmup_iterations=0,
        clip_range_vf=None,
        temperature=1.0,
        ratio_level=ratio_level,
        min_advantage_std=0.0,
        ent_coef=0.05,
        **SHARED,
    ).learn(4 * 8 * 3)
    assert own.rollout_buffer.actions.shape[-1] == 1
    sb3 = PPO(VLAPolicy, make_env(), ent_coef=0.05, **SHARED)
    seed_environments(sb3.env, SHARED["seed"])
    assert_parity(own, sb3.learn(4 * 8 * 3))


def test_arguments_by_position_are_those_of_sb3():
    kinds = inspect.Parameter
    own = inspect.signature(TokenPPO).parameters.values()
    positional = [p.name for p in own if p.kind is kinds.POSITIONAL_OR_KEYWORD]
    assert len(positional) > 10
    assert positional == list(inspect.signature(PPO).parameters)[: len(positional)]
