"""Checkpoints in the layout of the original code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch as th
from safetensors.torch import load_file, save_file

from vla_algos.errors import CheckpointError
from vla_algos.models import ModelInfo, OpenVLA, load_vla, save_vla
from vla_algos.models.openvla.released import DINOV2_ID, SIGLIP_ID
from vla_algos.policies import env_kwargs_for

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


def model_of(*files: dict[str, Any]) -> OpenVLA:
    info = ModelInfo.from_dict(*files)
    return OpenVLA(info.config, record=info.record)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny checkpoint that the original code could load."""
    model = model_of(CONFIG, PREPROCESSOR)
    save_vla(model, tmp_path / "released")
    return tmp_path / "released"


def change_config(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


def test_sizes_and_statistics_are_read(folder: Path) -> None:
    vla = load_vla(folder)
    config = vla.config
    dinov2, siglip = config.towers
    assert (dinov2.width, dinov2.depth, dinov2.heads, dinov2.mlp_width, dinov2.registers) == (16, 2, 2, 64, 4)
    # as timm has it: int(width * 3.7362)
    assert (siglip.mlp_width, siglip.attention_pool, siglip.layer_scale) == (59, True, None)
    assert (dinov2.mean, siglip.std) == ((0.1,) * 3, (0.4,) * 3)
    assert (config.llm.vocab, config.llm.rows, config.llm.rms_eps) == (768, 832, 1e-6)
    assert vla.record.norm_stats == CONFIG["norm_stats"]


def test_cameras_show_what_the_pipeline_starts_from(folder: Path) -> None:
    # the published numbers come from images of 256 px, whatever the size of the model's input
    assert env_kwargs_for(folder)["image_size"] == 256
    info = load_vla(folder, config_changes={"image_pipeline": []}).info
    assert info.camera_size == info.config.image_size == 28


def test_images_of_further_training_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    model = load_vla(folder)
    model.record = replace(model.record, trained_camera_size=128)
    save_vla(model, tmp_path / "own")
    saved = json.loads((tmp_path / "own" / "config.json").read_text())
    assert saved == {**CONFIG, "vla_gym": {"trained_camera_size": 128}}
    assert env_kwargs_for(tmp_path / "own")["image_size"] == 128


def test_data_sets_that_the_statistics_file_leaves_out_are_not_lost(folder: Path, tmp_path: Path) -> None:
    mine = {"mine": CONFIG["norm_stats"]["goal"]}
    (folder / "dataset_statistics.json").write_text(json.dumps(mine))
    model = load_vla(folder)
    assert model.record.norm_stats == mine
    save_vla(model, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["norm_stats"] == {
        **CONFIG["norm_stats"],
        **mine,
    }
    assert json.loads((tmp_path / "again" / "dataset_statistics.json").read_text()) == mine


def test_silence_means_the_full_size() -> None:
    values = {**CONFIG, "text_config": {"model_type": "llama"}, "timm_model_overrides": None, "image_sizes": [224, 224]}
    config = ModelInfo.from_dict(values).config
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
        ({"image_sizes": 28}, "lacks or garbles"),
        ({"timm_model_ids": [[SIGLIP_ID], SIGLIP_ID]}, "names the vision tower"),
        ({"timm_model_overrides": [3, 3]}, "lacks or garbles"),
        ({"pad_to_multiple_of": None}, "lacks or garbles"),
        ({"vla_gym": 3}, "lacks or garbles"),
        ({"text_config": {**CONFIG["text_config"], "hidden_size": "16"}}, r"llm\.hidden='16', expected a whole number"),
        ({"vla_gym": {"valu_head": 8}}, "valu_head.*Expected the keys"),
    ],
)
def test_other_kinds_are_refused_by_name(folder: Path, changes: dict, message: str) -> None:
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_vla(folder)


def text_config(**changes: object) -> dict:
    return {"text_config": {**CONFIG["text_config"], **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (text_config(model_type="qwen2"), r"\(text_config\) has model_type='qwen2'; only 'llama' is read"),
        (text_config(model_type="mistral"), "model_type='mistral'"),
        (text_config(model_type=None), "model_type=None"),
        (text_config(rope_scaling={"type": "linear", "factor": 2.0}), "'rope_scaling'.*changes what it computes"),
        (text_config(rope_parameters={"rope_type": "llama3", "factor": 8.0}), "'rope_parameters'"),
        (text_config(rope_parameters=[1]), "'rope_parameters'"),
        (text_config(hidden_act="gelu"), "'hidden_act': 'gelu'"),
        (text_config(attention_bias=True), "'attention_bias'"),
        (text_config(tie_word_embeddings=True), "'tie_word_embeddings'"),
        (text_config(head_dim=16), "'head_dim': 16"),
    ],
)
def test_other_language_models_are_refused_by_name(folder: Path, changes: dict, message: str) -> None:
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_vla(folder)


def test_a_language_model_that_says_what_is_usual_is_read(folder: Path) -> None:
    usual = {"head_dim": 8, "hidden_act": "silu", "rope_scaling": None, "num_key_value_heads": 2, "mlp_bias": False}
    change_config(folder, **text_config(**usual, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}))
    assert load_vla(folder).config.llm.hidden == 16


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_action_chunks", 8),
        ("num_images_in_input", 2),
        ("num_images_in_input", 1),
        ("use_proprio", False),
        ("proprio_dim", 8),
        ("use_film", True),
        ("use_l1_regression", True),
        ("use_diffusion", False),
        ("action_head", "l1"),
        ("action_chunk_size", 8),
    ],
)
def test_openvla_oft_is_recognised_by_its_configuration(folder: Path, name: str, value: object) -> None:
    change_config(folder, **{name: value})
    for load in (load_vla, env_kwargs_for):
        with pytest.raises(CheckpointError, match=rf"config\.json says {name}={value!r}: this is OpenVLA-OFT"):
            load(folder)


@pytest.mark.parametrize(
    "name",
    [
        "action_head--150000_checkpoint.pt",
        "action_head--latest_checkpoint.pt",
        "proprio_projector--50000_checkpoint.pt",
        "noisy_action_projector--50000_checkpoint.pt",
        "vision_backbone--50000_checkpoint.pt",
        "action_head.safetensors",
    ],
)
def test_openvla_oft_is_recognised_by_its_files(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    for load in (load_vla, env_kwargs_for):
        with pytest.raises(CheckpointError, match=rf"has {name}: this is OpenVLA-OFT \(parallel decoding"):
            load(folder)


def test_openvla_oft_is_recognised_by_its_code_and_its_weights(folder: Path) -> None:
    code = folder / "modeling_prismatic.py"
    code.write_text("from prismatic.vla.constants import NUM_ACTIONS_CHUNK\n")
    with pytest.raises(CheckpointError, match=r"comes with OpenVLA-OFT's modeling_prismatic\.py"):
        load_vla(folder)
    code.write_text("class OpenVLAForActionPrediction: ...\n")
    load_vla(folder)
    state = load_file(folder / "model.safetensors")
    save_file({**state, "proprio_projector.fc1.weight": th.zeros(16, 8)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has the weights proprio_projector\.fc1\.weight: this is OpenVLA-OFT"):
        load_vla(folder)


@pytest.mark.parametrize("name", ["tokens_2cam_proprio", "l1_2cam_proprio", "film_l1_2cam_proprio"])
def test_folders_of_openvla_oft_itself_are_refused(golden: Path, name: str) -> None:
    folder = golden.parent / "openvla_oft" / name
    if not folder.is_dir():
        pytest.skip(f"needs OpenVLA-OFT's reference data: {folder}")
    with pytest.raises(CheckpointError, match="this is OpenVLA-OFT"):
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
