"""Reinforcement learning from a checkpoint in the layout of the original OpenVLA."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from vla_algos import TokenPPO
from vla_algos.errors import UnknownNameError
from vla_algos.models import ModelInfo, OpenVLA, load_vla, save_vla
from vla_algos.models.openvla.processor import BUILTIN_TOKENIZER, load_tokenizer
from vla_gym.envs.toy_env import ToyLiberoEnv

_TOWER = {"embed_dim": 16, "depth": 2, "num_heads": 2}
_STATISTICS = {"action": {"q01": [-1.0] * 7, "q99": [1.0] * 7, "mask": [True] * 6 + [False]}}
TINY = {
    "model_type": "openvla",
    "image_sizes": [28, 28],
    "norm_stats": {"libero_goal_no_noops": _STATISTICS, "other": _STATISTICS},
    "pad_to_multiple_of": 64,
    "text_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        # text and action tokens of the tokenizer of this package, and padding
        "vocab_size": 498 + 256 + 64,
    },
    "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
    "timm_model_overrides": [_TOWER, _TOWER],
}


@pytest.fixture(params=["made here", "dinosiglip", "siglip"])
def folder(request, tmp_path):
    """A checkpoint in the original's layout: a tiny one, or one of those that its own code wrote."""
    if request.param != "made here":
        return request.getfixturevalue("golden") / request.param
    info = ModelInfo.from_dict(TINY)
    save_vla(OpenVLA(info.config, load_tokenizer(BUILTIN_TOKENIZER), info.record), tmp_path / "tiny")
    return tmp_path / "tiny"


def test_three_updates_with_adapters(folder, tmp_path):
    pytest.importorskip("peft")
    pytest.importorskip("simplejpeg")
    env = DummyVecEnv([lambda: ToyLiberoEnv(image_size=64, horizon=3)] * 2)
    policy_kwargs = {"vla": str(folder), "unnorm_key": "libero_goal_no_noops", "lora": {"rank": 2}}
    model = TokenPPO(
        "VLAPolicy",
        env,
        learning_rate=1e-3,
        n_steps=4,
        batch_size=4,
        micro_batch_size=2,
        critic_warmup_iterations=1,
        kl_coef=0.1,
        seed=0,
        policy_kwargs=policy_kwargs,
        device="cpu",
    )
    before = {key: tensor.clone() for key, tensor in model.policy.vla.state_dict().items()}
    model.learn(3 * 8)
    assert model.logger.name_to_value["train/ratio_deviation"] < 1e-3
    after = model.policy.vla.state_dict()
    changed = {key for key in before if not th.equal(before[key], after[key])}
    assert changed and all(".lora_" in key or key.startswith("value_head.") for key in changed)
    assert any("vision_backbone" in key for key in changed) and any("language_model" in key for key in changed)

    model.save(tmp_path / "model.zip")
    loaded = TokenPPO.load(tmp_path / "model.zip", env=env, device="cpu")
    observation = env.reset()
    actions = [m.predict(observation, deterministic=True)[0] for m in (model, loaded)]
    np.testing.assert_array_equal(*actions)

    # merged, it is a checkpoint of the original's layout again
    save_vla(model.policy.vla, tmp_path / "merged")
    assert load_vla(tmp_path / "merged").record.released is not None


def test_several_data_sets_need_a_name(golden):
    env = DummyVecEnv([lambda: ToyLiberoEnv(image_size=64, horizon=3)])
    model = TokenPPO("VLAPolicy", env, n_steps=4, policy_kwargs={"vla": str(golden / "siglip")}, device="cpu")
    with pytest.raises(UnknownNameError, match=r"unnorm_key.*libero_goal_no_noops"):
        _ = model.policy.action_tokenizer
