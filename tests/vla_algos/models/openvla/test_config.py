"""Presets, and the round trip of a configuration through JSON."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest
import torch as th

from vla_algos import BC
from vla_algos.errors import CheckpointError, UnknownNameError
from vla_algos.models import ModelInfo, OpenVLA, TrainingRecord, load_vla, save_vla
from vla_algos.models.loading import load_info
from vla_algos.models.openvla.config import PRESETS, get_preset


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    stats = {"data": {"action": {"q01": [0.0] * 7, "q99": [1.0] * 7, "mask": [True] * 6 + [False]}}}
    info = ModelInfo(get_preset(name), TrainingRecord(norm_stats=stats, trained_temperature=1.5, detach_value=True))
    assert ModelInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info


def test_an_architecture_never_changes():
    config = get_preset("nano")
    for part in (config, config.llm, config.towers[0]):
        with pytest.raises(FrozenInstanceError):
            part.mean = part.layers = part.chunk_size = 99
    assert isinstance(get_preset("nano", cameras=["wrist"]).cameras, tuple)
    hash(config)


def test_training_writes_beside_the_architecture(demonstrations):
    bc = BC("VLAPolicy", dataset=demonstrations(16), policy_kwargs={"vla": "nano", "detach_value": True}, device="cpu")
    config, record = bc.policy.vla.config, bc.policy.vla.record
    bc.learn(1)
    vla = bc.policy.vla
    assert vla.config is config
    assert vla.record == replace(record, trained_camera_size=64, trained_temperature=1.0)
    assert vla.info.record.detach_value and not record.detach_value


def test_an_architecture_and_a_record_are_one_file(tmp_path):
    model = load_vla("nano", seed=0)
    model.detach_value = True
    model.record = replace(model.record, trained_render_quality="full", norm_stats={})
    save_vla(model, tmp_path)
    names = list(json.loads((tmp_path / "config.json").read_text()))
    assert names[-6:] == [
        *("value_head_width", "detach_value", "trained_camera_size", "trained_render_quality"),
        *("trained_temperature", "norm_stats"),
    ]
    loaded = load_vla(tmp_path)
    assert loaded.detach_value and loaded.record.render_quality == "full"


def test_unknown_preset_lists_the_known():
    with pytest.raises(UnknownNameError, match=r"Unknown preset 'nana'. Did you mean 'nano'\?.*openvla-7b, .*compact"):
        get_preset("nana")


@pytest.mark.parametrize("change", [{"chunksize": 3}, {"llm": {"width": 3}}, {"towers": None}])
def test_damaged_config(change):
    with pytest.raises(CheckpointError, match="does not describe an OpenVLA of this library"):
        ModelInfo.from_dict({**ModelInfo(get_preset("nano")).to_dict(), **change})


@pytest.mark.parametrize(("name", "most"), [("nano", 0.5e6), ("compact", 4.2e6)])
def test_small_presets_are_small(name, most):
    with th.device("meta"):
        assert sum(p.numel() for p in OpenVLA(get_preset(name)).parameters()) < most


def test_fields_of_a_preset_can_be_changed():
    config = get_preset("nano", image_size=32, cameras=["agentview", "wrist"], proprio_dim=0)
    assert config.image_size == 32 and config.patches == 4 and config.proprio_dim == 0
    assert get_preset("nano").cameras == ("agentview",)
    with pytest.raises(UnknownNameError, match=r"Unknown field of a preset 'image_sice'. Did you mean 'image_size'"):
        get_preset("nano", image_sice=32)


def test_cameras_show_what_the_model_was_trained_on():
    config = get_preset("nano")
    assert ModelInfo(config).camera_size == config.image_size
    info = ModelInfo(config, TrainingRecord(trained_camera_size=96))
    assert info.camera_size == 96 and ModelInfo.from_dict(info.to_dict()) == info


def test_checkpoints_of_before_do_not_name_it():
    values = ModelInfo(get_preset("nano", image_size=32)).to_dict()
    del values["trained_camera_size"]
    assert ModelInfo.from_dict(values).camera_size == 32
    assert load_info("compact-libero-goal").camera_size == 96
