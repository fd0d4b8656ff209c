"""Presets, and the round trip of a configuration through JSON."""

from __future__ import annotations

import json

import pytest
import torch as th

from vla_algos.errors import CheckpointError, UnknownNameError
from vla_algos.models import OpenVLA, OpenVLAConfig
from vla_algos.models.hub import load_config
from vla_algos.models.openvla.config import PRESETS, get_preset


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    config = get_preset(name)
    config.norm_stats = {"data": {"action": {"q01": [0.0] * 7, "q99": [1.0] * 7, "mask": [True] * 6 + [False]}}}
    assert OpenVLAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_presets_are_copies():
    get_preset("nano").llm.layers = 99
    assert get_preset("nano").llm.layers != 99


def test_unknown_preset_lists_the_known():
    with pytest.raises(UnknownNameError, match=r"Unknown preset 'nana'. Did you mean 'nano'\?.*openvla-7b, .*compact"):
        get_preset("nana")


@pytest.mark.parametrize("change", [{"chunksize": 3}, {"llm": {"width": 3}}, {"towers": None}])
def test_damaged_config(change):
    with pytest.raises(CheckpointError, match="does not describe an OpenVLA of this library"):
        OpenVLAConfig.from_dict({**get_preset("nano").to_dict(), **change})


@pytest.mark.parametrize(("name", "most"), [("nano", 0.5e6), ("compact", 4.2e6)])
def test_small_presets_are_small(name, most):
    with th.device("meta"):
        assert sum(p.numel() for p in OpenVLA(get_preset(name)).parameters()) < most


def test_fields_of_a_preset_can_be_changed():
    config = get_preset("nano", image_size=32, cameras=["agentview", "wrist"], proprio_dim=0)
    assert config.image_size == 32 and config.patches == 4 and config.proprio_dim == 0
    assert get_preset("nano").cameras == ["agentview"]
    with pytest.raises(UnknownNameError, match=r"Unknown field of a preset 'image_sice'. Did you mean 'image_size'"):
        get_preset("nano", image_sice=32)


def test_cameras_show_what_the_model_was_trained_on():
    config = get_preset("nano")
    assert config.camera_size == config.image_size
    config.trained_camera_size = 96
    assert config.camera_size == 96 and OpenVLAConfig.from_dict(config.to_dict()) == config


def test_checkpoints_of_before_do_not_name_it():
    values = get_preset("nano", image_size=32).to_dict()
    del values["trained_camera_size"]
    assert OpenVLAConfig.from_dict(values).camera_size == 32
    assert load_config("compact-libero-goal").camera_size == 96
