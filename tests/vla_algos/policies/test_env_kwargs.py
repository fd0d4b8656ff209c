from __future__ import annotations

from pathlib import Path

import pytest

from vla_algos import env_kwargs
from vla_algos.errors import CheckpointError
from vla_algos.models import load_vla, save_vla
from vla_algos.policies import VLAPolicy
from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.errors import UnknownNameError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = load_vla("nano", seed=0, config_changes={"image_size": 32, "cameras": ["agentview", "wrist"]})
    model.config.chunk_size = 3
    action = {"q01": [-0.5] * 7, "q99": [0.5] * 7, "mask": [True] * 6 + [False]}
    model.config.norm_stats = {"a": {"action": action}, "b": {"action": {**action, "q99": [0.25] * 7}}}
    save_vla(model, tmp_path / "model")
    return tmp_path / "model"


def test_an_environment_made_with_them_fits_the_model(folder: Path) -> None:
    kwargs = env_kwargs(folder, "b")
    assert kwargs["chunk_size"] == 3 and kwargs["image_size"] == 32 and kwargs["cameras"] == ("agentview", "wrist")
    assert (kwargs["action_tokenizer"].q99[:6] == 0.25).all()
    env = LiberoEnv("LIBERO-Goal-v0", **kwargs)
    policy = VLAPolicy.from_checkpoint(folder, env, unnorm_key="b")
    assert policy.action_tokenizer.agrees_with(env.action_tokenizer)
    env.close()


def test_presets_have_some() -> None:
    assert env_kwargs("nano") | {"action_tokenizer": None} == {
        "chunk_size": 1,
        "image_size": 64,
        "cameras": ("agentview",),
        "action_tokenizer": None,
    }


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="nanno"):
        env_kwargs("nanno")
    with pytest.raises(UnknownNameError, match="unnorm_key"):
        env_kwargs(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        env_kwargs(tmp_path / "empty")
