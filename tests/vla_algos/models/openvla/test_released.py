"""Checkpoints in the layout of the original code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch as th
from safetensors.torch import load_file

from vla_algos.errors import CheckpointError
from vla_algos.models import OpenVLA, OpenVLAConfig, load_vla, save_vla
from vla_algos.models.openvla.released import DINOV2_ID, SIGLIP_ID
from vla_algos.policies import env_kwargs

SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2}
CONFIG = {
    "architectures": ["OpenVLAForActionPrediction"],
    "model_type": "openvla",
    "image_resize_strategy": "resize-naive",
    "image_sizes": [28, 28],
    "n_action_bins": 256,
    "norm_stats": {"goal": {"action": {"q01": [-0.5] * 7, "q99": [0.5] * 7, "mask": [True] * 6 + [False]}}},
    "pad_to_multiple_of": 64,
    "text_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "model_type": "llama",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "vocab_size": 832,
    },
    "timm_model_ids": [DINOV2_ID, SIGLIP_ID],
    "timm_model_overrides": [SMALL, SMALL],
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "something_else": 1,
}
PREPROCESSOR = {"tvf_normalize_params": [{"mean": [0.1] * 3, "std": [0.2] * 3}, {"mean": [0.3] * 3, "std": [0.4] * 3}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny checkpoint that the original code could load."""
    model = OpenVLA(OpenVLAConfig.from_dict(CONFIG, PREPROCESSOR))
    save_vla(model, tmp_path / "released")
    return tmp_path / "released"


def change_config(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


def test_sizes_and_statistics_are_read(folder: Path) -> None:
    config = load_vla(folder).config
    dinov2, siglip = config.towers
    assert (dinov2.width, dinov2.depth, dinov2.heads, dinov2.mlp_width, dinov2.registers) == (16, 2, 2, 64, 4)
    # as timm has it: int(width * 3.7362)
    assert (siglip.mlp_width, siglip.attention_pool, siglip.layer_scale) == (59, True, None)
    assert (dinov2.mean, siglip.std) == ([0.1] * 3, [0.4] * 3)
    assert (config.llm.vocab, config.llm.rows, config.llm.rms_eps) == (768, 832, 1e-6)
    assert config.norm_stats == CONFIG["norm_stats"]


def test_cameras_show_what_the_pipeline_starts_from(folder: Path) -> None:
    # the published numbers come from images of 256 px, whatever the size of the model's input
    assert env_kwargs(folder)["image_size"] == 256
    config = load_vla(folder, config_changes={"image_pipeline": []}).config
    assert config.camera_size == config.image_size == 28


def test_images_of_further_training_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    model = load_vla(folder)
    model.config.trained_camera_size = 128
    save_vla(model, tmp_path / "own")
    saved = json.loads((tmp_path / "own" / "config.json").read_text())
    assert saved == {**CONFIG, "vla_gym": {"trained_camera_size": 128}}
    assert env_kwargs(tmp_path / "own")["image_size"] == 128


def test_data_sets_that_the_statistics_file_leaves_out_are_not_lost(folder: Path, tmp_path: Path) -> None:
    mine = {"mine": CONFIG["norm_stats"]["goal"]}
    (folder / "dataset_statistics.json").write_text(json.dumps(mine))
    model = load_vla(folder)
    assert model.config.norm_stats == mine
    save_vla(model, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["norm_stats"] == {
        **CONFIG["norm_stats"],
        **mine,
    }
    assert json.loads((tmp_path / "again" / "dataset_statistics.json").read_text()) == mine


def test_silence_means_the_full_size() -> None:
    values = {**CONFIG, "text_config": {"model_type": "llama"}, "timm_model_overrides": None, "image_sizes": [224, 224]}
    config = OpenVLAConfig.from_dict(values)
    assert (config.llm.hidden, config.llm.layers, config.llm.vocab, config.llm.rows) == (4096, 32, 32000, 32064)
    assert [tower.width for tower in config.towers] == [1024, 1152]
    assert config.towers[1].mlp_width == 4304


def test_saving_keeps_layout_and_every_bit(folder: Path, tmp_path: Path) -> None:
    assert json.loads((folder / "config.json").read_text()) == CONFIG
    assert json.loads((folder / "preprocessor_config.json").read_text()) == PREPROCESSOR
    save_vla(load_vla(folder), tmp_path / "again")
    for name in ("config.json", "preprocessor_config.json", "dataset_statistics.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_what_the_original_lacks_is_kept_apart(folder: Path, tmp_path: Path) -> None:
    model = load_vla(folder)
    model.add_value_head(8)
    assert model.value_head(th.ones(1, 16)).abs() < 0.02
    with pytest.raises(ValueError, match="already, of width 8"):
        model.add_value_head(8)
    save_vla(model, tmp_path / "own")
    assert load_file(tmp_path / "own" / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    assert json.loads((tmp_path / "own" / "config.json").read_text()) == {**CONFIG, "vla_gym": {"value_head_width": 8}}
    loaded = load_vla(tmp_path / "own")
    assert th.equal(loaded.value_head.fc1.weight, model.value_head.fc1.weight)
    # saved into the same folder without it, nothing of it is left
    save_vla(load_vla(folder), tmp_path / "own")
    assert not load_vla(tmp_path / "own").config.value_head_width


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "prismatic"}, r"model_type='prismatic'; expected 'openvla'"),
        ({"model_type": "llama"}, r"model_type='llama'; expected 'openvla'"),
        ({"n_action_bins": 128}, "n_action_bins=128; expected 256"),
        ({"image_resize_strategy": "letterbox"}, "'letterbox'; only 'resize-naive'"),
        ({"image_sizes": [28, 56]}, r"image_sizes=\[28, 56\]; expected one size"),
        ({"timm_model_ids": ["vit_tiny", SIGLIP_ID]}, rf"vision tower 'vit_tiny'. Known: {DINOV2_ID}"),
        ({"text_config": {**CONFIG["text_config"], "num_key_value_heads": 1}}, "share heads"),
        ({"timm_model_overrides": [{"img_size": 28}, SMALL]}, "overrides 'img_size' of a tower. Known: embed_dim"),
        ({"text_config": 5}, "lacks or garbles"),
        ({"vla_gym": {"valu_head": 8}}, "valu_head.*Expected the keys"),
    ],
)
def test_other_kinds_are_refused_by_name(folder: Path, changes: dict, message: str) -> None:
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_vla(folder)


def test_a_missing_entry_is_named(folder: Path) -> None:
    values = {key: value for key, value in CONFIG.items() if key != "timm_model_ids"}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="lacks or garbles 'timm_model_ids'"):
        load_vla(folder)


def test_another_size_than_that_of_the_weights_is_listed(folder: Path) -> None:
    change_config(folder, timm_model_overrides=[{**SMALL, "depth": 3}, SMALL])
    with pytest.raises(CheckpointError, match=r"Missing: vision_backbone.featurizer.blocks.2"):
        load_vla(folder)


def test_stored_checkpoints_of_the_original_survive_a_round_trip(golden: Path, tmp_path: Path) -> None:
    for name in ("dinosiglip", "siglip"):
        source, target = golden / name, tmp_path / name
        save_vla(load_vla(source), target)
        for file in ("config.json", "preprocessor_config.json", "generation_config.json", "special_tokens_map.json"):
            assert json.loads((target / file).read_text()) == json.loads((source / file).read_text())
        for file in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json"):
            assert (target / file).read_bytes() == (source / file).read_bytes()
        stored: dict[str, th.Tensor] = {}
        for file in source.glob("*.safetensors"):
            stored |= load_file(file)
        saved = load_file(target / "model.safetensors")
        assert saved.keys() == stored.keys()
        assert all(th.equal(saved[key], stored[key]) and saved[key].dtype == stored[key].dtype for key in stored)
