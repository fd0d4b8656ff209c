"""Reinforcement learning on a CUDA device; on a machine without one the same is run on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from vla_algos import TPO, TokenGRPO, TokenPPO, TokenRLOO
from vla_gym.envs.toy_env import ToyLiberoEnv

GROUPS = {"group_size": 4, "n_groups": 2}
CASES = {
    "shared critic, KL": (TokenPPO, {"n_steps": 8, "kl_coef": 0.1, "critic_warmup_iterations": 1}, {}),
    "critic of its own": (TokenPPO, {"n_steps": 8, "critic_warmup_iterations": 1}, {"detach_value": True}),
    "frozen vision": (TokenPPO, {"n_steps": 8, "critic_warmup_iterations": 0}, {"freeze_vision": True}),
    "adapters": (TokenPPO, {"n_steps": 8, "critic_warmup_iterations": 0}, {"lora": {"rank": 2}}),
    "TokenGRPO": (TokenGRPO, GROUPS, {"freeze_vision": True}),
    "TokenRLOO": (TokenRLOO, GROUPS, {}),
    "TPO": (TPO, GROUPS, {}),
}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("case", CASES)
def test_it_learns_saves_and_goes_on_there(case, device, tmp_path):
    if device == "cuda" and not th.cuda.is_available():
        pytest.skip("needs a CUDA device and a CUDA build of torch")
    algorithm, kwargs, policy_kwargs = CASES[case]
    env = DummyVecEnv([lambda: ToyLiberoEnv(image_size=32, horizon=3)] * 2)
    model = algorithm(
        "VLAPolicy",
        env,
        learning_rate=1e-2,
        micro_batch_size=4,
        use_bf16=True,
        seed=0,
        device=device,
        policy_kwargs={"vla": "nano", **policy_kwargs},
        checkpoint_folder=tmp_path,
        checkpoint_interval=1,
        **kwargs,
    )
    assert {parameter.device.type for parameter in model.policy.parameters()} == {device}
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters() if p.requires_grad}
    n_steps = 32 if algorithm is TokenPPO else 48
    model.learn(n_steps)
    assert any(not th.equal(p, before[name]) for name, p in model.policy.named_parameters() if name in before)
    loaded = algorithm.load(tmp_path / "last.zip", env=env, device=device)
    loaded.learn(n_steps, reset_num_timesteps=False)
    assert loaded.num_timesteps > model.num_timesteps
    assert all(np.isfinite(p.detach().float().cpu().numpy()).all() for p in loaded.policy.parameters())
