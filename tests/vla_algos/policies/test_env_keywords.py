from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vla_algos import env_kwargs_for
from vla_algos.errors import CheckpointError, SpaceError
from vla_algos.experiments.settings import RLSettings
from vla_algos.models import load_vla, save_vla
from vla_algos.policies import VLAPolicy
from vla_gym.envs.libero_env import LiberoEnv
from vla_gym.errors import ActionStatisticsError, UnknownNameError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = load_vla("nano", seed=0, config_changes={"image_size": 32, "cameras": ["agentview", "wrist"]})
    model.config = replace(model.config, chunk_size=3)
    action = {"q01": [-0.5] * 7, "q99": [0.5] * 7, "mask": [True] * 6 + [False]}
    stats = {"a": {"action": action}, "b": {"action": {**action, "q99": [0.25] * 7}}}
    model.record = replace(model.record, norm_stats=stats)
    save_vla(model, tmp_path / "model")
    return tmp_path / "model"


def test_an_environment_made_with_them_fits_the_model(folder: Path) -> None:
    kwargs = env_kwargs_for(folder, "b")
    assert kwargs["chunk_size"] == 3 and kwargs["image_size"] == 32 and kwargs["cameras"] == ("agentview", "wrist")
    assert (kwargs["action_tokenizer"].q99[:6] == 0.25).all()
    env = LiberoEnv("LIBERO-Goal-v0", **kwargs)
    policy = VLAPolicy.from_checkpoint(folder, env, unnorm_key="b")
    assert policy.action_tokenizer.agrees_with(env.action_tokenizer)
    env.close()


def test_presets_have_some() -> None:
    assert env_kwargs_for("nano") | {"action_tokenizer": None} == {
        "chunk_size": 1,
        "image_size": 64,
        "cameras": ("agentview",),
        "action_tokenizer": None,
    }


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="nanno"):
        env_kwargs_for("nanno")
    with pytest.raises(UnknownNameError, match="unnorm_key"):
        env_kwargs_for(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        env_kwargs_for(tmp_path / "empty")


ENTRY = {"action": {"q01": [-0.5] * 7, "q99": [0.5] * 7, "mask": [True] * 6 + [False]}}


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A checkpoint with statistics of two suites under OpenVLA's names."""
    model = load_vla("nano", seed=0, config_changes={"image_size": 32})
    goal = {"action": {**ENTRY["action"], "q99": [0.25] * 7}}
    stats = {"libero_goal_no_noops": goal, "libero_10_no_noops": ENTRY}
    model.record = replace(model.record, norm_stats=stats)
    save_vla(model, tmp_path / "several")
    return tmp_path / "several"


def test_the_suites_statistics_are_found(several: Path) -> None:
    for kwargs in (
        env_kwargs_for(several, env_id="LIBERO-Goal-v0"),
        env_kwargs_for(several, "libero_goal"),
        env_kwargs_for(several, "libero_goal_no_noops"),
    ):
        assert (kwargs["action_tokenizer"].q99 == 0.25).all()
    tokenizer = RLSettings(vla=str(several), env_id="LIBERO-10-v0").env_kwargs["action_tokenizer"]
    assert (tokenizer.q99[:6] == 0.5).all(), "a recipe names the suite"
    env = LiberoEnv("LIBERO-Goal-v0", **env_kwargs_for(several, env_id="LIBERO-Goal-v0"))
    policy = VLAPolicy.from_checkpoint(several, env)
    assert policy.unnorm_key == "libero_goal_no_noops"
    assert policy.action_tokenizer.agrees_with(env.action_tokenizer)
    with pytest.raises(SpaceError, match="other action statistics"):
        VLAPolicy.from_checkpoint(several, env, unnorm_key="libero_10")
    env.close()
    option = r"unnorm_key=\.\.\., or --unnorm-key"
    with pytest.raises(UnknownNameError, match=rf"unnorm_key None.*libero_10_no_noops.*{option}"):
        env_kwargs_for(several, env_id="LIBERO-Spatial-v0")


@pytest.mark.parametrize(
    ("q99", "message"),
    [([0.5] * 6 + [float("nan")], "is nan in dimension 6"), ([0.5] * 14, "has 14 dimensions; expected 7")],
)
@pytest.mark.parametrize("file", ["config.json", "dataset_statistics.json"])
def test_damaged_action_statistics_name_data_set_file_and_dimension(
    several: Path, q99: list[float], message: str, file: str
) -> None:
    stats = {"mine": {"action": {"q01": [-0.5] * len(q99), "q99": q99}}}
    if file == "config.json":
        (several / "dataset_statistics.json").unlink()
        values = json.loads((several / file).read_text())
        (several / file).write_text(json.dumps({**values, "norm_stats": stats}))
    else:
        (several / file).write_text(json.dumps(stats))
    with pytest.raises(ActionStatisticsError, match=message) as error:
        env_kwargs_for(several)
    assert f"of data set 'mine' in {several / file}" in str(error.value)
