"""Every algorithm improves a policy that imitates an unreliable expert, on a task that learns in seconds."""

from functools import partial

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from vla_algos import BC, TPO, TokenGRPO, TokenPPO, TokenRLOO, evaluate_policy_on_suite
from vla_algos.models import save_vla
from vla_gym.envs.toy_env import ToyLiberoEnv

# An episode is one decision, and a failed one ends by the time limit. That is bootstrapped: with a discount above zero,
# what a success is worth would come to be expected after every failure, and nothing would be left to tell them apart.
PPO = {"n_steps": 16, "temperature": 1.0, "critic_warmup_iterations": 1, "gamma": 0.0}
GROUPS = {"group_size": 8, "n_groups": 32}


def sampled_success(model, repeats=8):
    """Mean over several evaluations of sampled actions, each of 16 one-step episodes."""
    env_fn = partial(ToyLiberoEnv, horizon=1)
    return np.mean(
        [
            evaluate_policy_on_suite(
                model, "toy", 8, n_envs=16, deterministic=False, env_fn=env_fn, vec_env_cls=DummyVecEnv
            ).success_rate
            for _ in range(repeats)
        ]
    )


@pytest.fixture(scope="module")
def start(tmp_path_factory, demonstrations):
    """Imitation makes a policy choose among few bins, on the average as badly as its expert."""
    folder = tmp_path_factory.mktemp("start") / "vla"
    bc = BC(
        "VLAPolicy",
        dataset=demonstrations(1000, reliability=0.75),
        policy_kwargs={"vla": "nano"},
        learning_rate=2e-3,
        batch_size=64,
        label_smoothing=0.0,
        seed=0,
        device="cpu",
    ).learn(250)
    assert sampled_success(bc) < 0.65
    save_vla(bc.policy.vla, folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "kwargs"),
    [
        (TokenPPO, {**PPO, "ratio_level": "action", "n_epochs": 2}),
        (TokenPPO, {**PPO, "ratio_level": "token", "n_epochs": 4}),
        (TokenPPO, {**PPO, "ratio_level": "token", "n_epochs": 4, "policy_kwargs": {"detach_value": True}}),
        (TokenGRPO, {**GROUPS, "n_epochs": 4}),
        (TokenRLOO, {**GROUPS, "learning_rate": 1e-3, "timesteps": 6144}),
        (TPO, {**GROUPS, "learning_rate": 1e-3, "timesteps": 6144}),
    ],
    ids=["ppo-action", "ppo-token", "ppo-detached", "grpo", "rloo", "tpo"],
)
def test_success_improves(algorithm, kwargs, start, toy_vec_env):
    policy_kwargs = {"vla": start, **kwargs.pop("policy_kwargs", {})}
    env = toy_vec_env(16, horizon=1)
    learning_rate, timesteps = kwargs.pop("learning_rate", 3e-4), kwargs.pop("timesteps", 3072)
    model = algorithm(
        "VLAPolicy", env, learning_rate=learning_rate, policy_kwargs=policy_kwargs, seed=0, device="cpu", **kwargs
    )
    model.learn(timesteps)
    assert sampled_success(model) > 0.8
