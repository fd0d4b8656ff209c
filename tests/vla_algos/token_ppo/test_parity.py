"""With one ratio per action, no warm-up and no value clipping, TokenPPO is SB3's PPO."""

import pytest
import torch as th
from stable_baselines3 import PPO

from vla_algos import TokenPPO
from vla_algos.policies import VLAPolicy

SHARED = {
    "n_steps": 8,
    "batch_size": 8,
    "n_epochs": 3,
    "learning_rate": 1e-3,
    "gamma": 0.9,
    "clip_range": 0.05,
    "max_grad_norm": 0.5,
    "policy_kwargs": {"vla": "nano", "seed": 0},
    "seed": 5,
    "device": "cpu",
}


@pytest.mark.parametrize("micro_batch_size", [None, 3])
@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_same_seeds_same_updates_same_weights(normalize_advantage, micro_batch_size, toy_vec_env):
    # each is trained right after it was made, which seeds the generators that both draw from
    own = TokenPPO(
        "VLAPolicy",
        toy_vec_env(4, horizon=3),
        critic_warmup_iterations=0,
        clip_range_vf=None,
        temperature=1.0,
        ratio_level="action",
        normalize_advantage=normalize_advantage,
        micro_batch_size=micro_batch_size,
        **SHARED,
    ).learn(4 * 8 * 3)
    sb3 = PPO(VLAPolicy, toy_vec_env(4, horizon=3), normalize_advantage=normalize_advantage, **SHARED).learn(4 * 8 * 3)
    start = VLAPolicy(own.observation_space, own.action_space, lambda _: 0.0, vla="nano", seed=0).parameters()
    assert own.logger.name_to_value["train/clip_fraction"] > 0, "clipping must have had something to do"
    for (name, p), q, before in zip(own.policy.named_parameters(), sb3.policy.parameters(), start, strict=True):
        th.testing.assert_close(p, q, atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
        assert not p.requires_grad or not th.equal(p, before) or name.endswith(("fc2.bias", "lm_head.weight"))
    for name in ("train/value_loss", "train/policy_gradient_loss", "train/clip_fraction"):
        assert own.logger.name_to_value[name] == pytest.approx(sb3.logger.name_to_value[name], rel=5e-2, abs=1e-5)
