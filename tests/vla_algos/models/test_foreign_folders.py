"""Folders that somebody else made: what they hold is named, and never read on trust."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch as th
from safetensors.torch import load_file, save_file

from vla_algos.errors import CheckpointError, UnknownNameError
from vla_algos.models import ModelInfo, OpenVLA, load_vla, save_vla
from vla_algos.models.loading import load_info
from vla_algos.models.openvla.config import get_preset

NANO = ModelInfo(get_preset("nano")).to_dict()


@pytest.fixture
def folder(tmp_path: Path, lively_nano: OpenVLA) -> Path:
    save_vla(lively_nano, tmp_path / "model")
    return tmp_path / "model"


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


FILES = ("config.json", "model.safetensors", "dataset_statistics.json", "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize("name", [*FILES, "model.safetensors.index.json", "vla_gym.safetensors", "added_tokens.json"])
def test_a_pipe_in_the_place_of_a_file_is_refused_without_waiting(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=rf"{name} is a named pipe; expected a regular file"):
        load_vla(folder)


@pytest.mark.parametrize("name", [*FILES, "generation_config.json", "tokenizer.model"])
def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    if (folder / name).exists():
        (folder / name).rename(secret)
    else:
        secret.write_text("{}")
    (folder / name).symlink_to("../secret")
    with pytest.raises(CheckpointError, match=rf"{name} is a link to .*secret, which is not in its folder"):
        load_vla(folder)


def test_links_inside_the_folder_and_in_the_cache_of_the_hub_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    load_vla(folder)
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    shared = tmp_path / "hub" / "blobs" / "ab"
    for path in (snapshot, blobs, shared):
        path.mkdir(parents=True)
    for name in FILES:
        place = shared if name == "config.json" else blobs
        (place / name).write_bytes((folder / name).read_bytes())
        (snapshot / name).symlink_to(os.path.relpath(place / name, snapshot))
    load_vla(snapshot)


def test_a_shard_that_is_a_link_or_lies_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    names = load_file(tmp_path / "elsewhere.safetensors")
    for shard in ("../elsewhere.safetensors", str(tmp_path / "elsewhere.safetensors"), "..", "", "a/../b", "x\0y"):
        index = {"weight_map": dict.fromkeys(names, shard)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(CheckpointError, match=r"which is not in its folder|is a folder"):
            load_vla(folder)
    (folder / "part.safetensors").symlink_to("../elsewhere.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "part.safetensors")})
    )
    with pytest.raises(CheckpointError, match=r"part\.safetensors is a link to"):
        load_vla(folder)


@pytest.mark.parametrize("weight_map", [3, None, [], "model.safetensors", {"count": 3}, {"count": None}])
def test_an_index_of_another_type_is_named(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"index\.json is damaged: its weight_map is .*; expected the file name"):
        load_vla(folder)


@pytest.mark.parametrize("name", ["config.json", "dataset_statistics.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds a list; expected an object"),
        ("3", "holds a int"),
        ("null", "holds a NoneType"),
        ('{"a"', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_json_of_another_type_is_named(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged: .*{message}"):
        load_vla(folder)


def test_bytes_that_are_no_text_are_named(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged: not valid JSON"):
        load_vla(folder)


def test_a_file_larger_than_any_of_its_kind_is_not_read(folder: Path) -> None:
    with (folder / "config.json").open("ab") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match=r"config\.json has 1,099,511,627,776 bytes; expected"):
        load_info(folder)


@pytest.mark.parametrize(
    "content",
    [
        {"model": 3},
        {"model": {"type": "BPE", "vocab": {}, "merges": 3}},
        {"version": "1.0", "added_tokens": "x", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}},
    ],
)
def test_a_tokenizer_of_another_type_is_named(folder: Path, content: dict) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"tokenizer files in .* are damaged"):
        load_vla(folder)


@pytest.mark.parametrize(
    "changes", [{"added_tokens_decoder": 3}, {"bos_token": [1]}, {"added_tokens_decoder": {"x": 1}}]
)
def test_a_damaged_tokenizer_configuration_is_named(folder: Path, changes: dict) -> None:
    (folder / "special_tokens_map.json").unlink()
    change_json(folder / "tokenizer_config.json", **changes)
    with pytest.raises(CheckpointError, match=r"[Tt]okenizer"):
        load_vla(folder)


def test_a_tokenizer_of_another_model_is_named(folder: Path) -> None:
    (folder / "special_tokens_map.json").unlink()
    change_json(folder / "tokenizer_config.json", bos_token=None)
    with pytest.raises(CheckpointError, match="no token for the start"):
        load_vla(folder)
    values = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**values, "bos_token": "<s>", "gguf_file": "../secret"}))
    with pytest.raises(CheckpointError, match=r"names other files to read \(gguf_file\)"):
        load_vla(folder)


def test_tokens_without_an_embedding_are_refused(folder: Path) -> None:
    values = json.loads((folder / "tokenizer.json").read_text())
    values["added_tokens"].append({**values["added_tokens"][0], "id": 5000, "content": "<far>"})
    vocabulary = values["model"]["vocab"]
    vocabulary["<far>"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"has token 5000; the model's embedding has 768 rows"):
        load_vla(folder)


@pytest.mark.parametrize("entry", [3, None, [], "libero_goal"])
def test_statistics_of_another_type_name_file_and_data_set(folder: Path, entry: object) -> None:
    (folder / "dataset_statistics.json").write_text(json.dumps({"libero_goal": entry}))
    with pytest.raises(CheckpointError, match=r"data set 'libero_goal' in .*dataset_statistics\.json is"):
        load_info(folder)
    (folder / "dataset_statistics.json").unlink()
    change_json(folder / "config.json", norm_stats=[1])
    with pytest.raises(CheckpointError, match=r"norm_stats=\[1\], expected an object"):
        load_info(folder)


def test_a_configuration_that_declares_more_layers_than_there_are_weights_is_not_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*args: object) -> None:
        raise AssertionError("built")

    monkeypatch.setattr("vla_algos.models.loading.OpenVLA", build)
    values = NANO
    for part, declared in (
        ("llm", {**values["llm"], "layers": 900}),
        ("towers", [{**values["towers"][0], "depth": 900}]),
    ):
        (folder / "config.json").write_text(json.dumps({**values, part: declared}))
        with pytest.raises(CheckpointError, match=r"do not fit its config\.json, which declares layers .*900"):
            load_vla(folder)
    (folder / "config.json").write_text(json.dumps({**values, "llm": {**values["llm"], "layers": 10**6}}))
    with pytest.raises(CheckpointError, match=r"llm\.layers=1000000, expected 1000 at most"):
        load_vla(folder)
    (folder / "config.json").write_text(json.dumps({**values, "llm": {**values["llm"], "layers": 10**7}}))
    with pytest.raises(CheckpointError, match=r"llm\.layers=10000000, expected a whole number above 0"):
        load_vla(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cameras": "agentview"}, r"cameras='agentview', expected a list of names"),
        ({"cameras": []}, r"cameras=\[\], expected one or more"),
        ({"cameras": ["agentview", "agentview"]}, "each once"),
        ({"image_pipeline": "crop"}, r"image_pipeline='crop', expected a list of names"),
        ({"image_size": 64.0}, r"image_size=64\.0, expected a whole number above 0"),
        ({"image_size": 10**9}, "image_size=1000000000, expected a whole number"),
        ({"image_size": 5000}, "images and actions take .* tokens, expected less than 2048"),
        ({"chunk_size": 0}, "chunk_size=0, expected a whole number above 0"),
        ({"chunk_size": True}, "chunk_size=True"),
        ({"detach_value": "false"}, "detach_value='false', expected true or false"),
        ({"builtin_tokenizer": 1}, "builtin_tokenizer=1, expected true or false"),
        ({"proprio_mean": [0.0]}, "expected 8 numbers each"),
        ({"proprio_std": [0.0] * 8}, "expected numbers above 0"),
        ({"proprio_std": [float("nan")] * 8}, "expected a list of numbers"),
        ({"prompt_template": "{}"}, "with the place {instruction}"),
        ({"prompt_template": "{instruction:1000000000}"}, "with the place {instruction}"),
        ({"prompt_template": "{instruction.__class__}"}, "with the place {instruction}"),
        ({"prompt_template": "no place"}, "with the place {instruction}"),
        ({"prompt_end_id": 10**6}, "expected less than llm.rows"),
        ({"norm_stats": 3}, "norm_stats=3, expected an object"),
        ({"llm": {**NANO["llm"], "heads": 3}}, "even number of channels per head"),
        (
            {"llm": {**NANO["llm"], "rope_base": 0}},
            "rope_base=0, expected a number above 0",
        ),
        ({"towers": []}, "0 vision towers, expected 1 or 2"),
        (
            {"towers": [{**NANO["towers"][0], "std": [0.5]}]},
            "expected 3 numbers each",
        ),
        (
            {"towers": [{**NANO["towers"][0], "feature_layer": 9}]},
            "feature_layer=9 is no block",
        ),
    ],
)
def test_values_of_another_type_or_size_are_named(folder: Path, changes: dict, message: str) -> None:
    change_json(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=rf"config\.json does not describe an OpenVLA.*{message}"):
        load_vla(folder)


def test_names_given_as_a_text_are_not_read_letter_by_letter() -> None:
    for changes in ({"cameras": "agentview"}, {"image_pipeline": "crop"}):
        with pytest.raises(CheckpointError, match="expected a list of names"):
            load_vla("nano", config_changes=changes)


def poison(value: float) -> Callable[[th.Tensor], th.Tensor]:
    def change(tensor: th.Tensor) -> th.Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("change", "dtype", "message"),
    [
        (poison(float("nan")), th.float32, "holds NaN or infinity in 1 of 64 values"),
        (poison(float("-inf")), None, "holds NaN or infinity in 1 of 64 values"),
        (poison(1e10), th.float16, r"holds values that are infinite in torch\.float16"),
        (lambda tensor: tensor.to(th.int64), th.float32, "is stored as I64; expected one of F64, F32, F16, BF16"),
        (lambda tensor: tensor.to(th.uint8), None, "is stored as U8"),
        (lambda tensor: tensor.to(th.bool), None, "is stored as BOOL"),
    ],
)
def test_weights_that_are_not_finite_floats_are_named(
    folder: Path, change: Callable[[th.Tensor], th.Tensor], dtype: th.dtype | None, message: str
) -> None:
    state = load_file(folder / "model.safetensors")
    state["projector.fc1.bias"] = change(state["projector.fc1.bias"])
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"projector\.fc1\.bias in .*model\.safetensors {message}"):
        load_vla(folder, dtype=dtype)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "smolvla", "input_features": {}, "output_features": {}}, r"a LeRobot policy \(type='smolvla'\)"),
        ({"type": "act", "n_obs_steps": 1, "output_features": {}}, r"a LeRobot policy \(type='act'\)"),
        ({"model_type": "qwen2", "hidden_size": 8}, "model_type='qwen2'; expected 'openvla'"),
        ({"model_type": "llava", "text_config": {}}, "model_type='llava'; expected 'openvla'"),
        ({}, "Expected the keys"),
    ],
)
def test_the_configuration_of_another_kind_of_model_is_called_by_its_name(
    tmp_path: Path, values: dict, message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        load_vla(tmp_path)


def test_adapters_alone_are_not_taken_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds adapters, not a model.*load_adapters"):
        load_vla(tmp_path)


def test_a_file_is_not_taken_for_a_folder(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is a file; expected the folder"):
        load_vla(folder / "config.json")
    with pytest.raises(UnknownNameError, match="There is no such checkpoint folder"):
        load_vla(folder / "best")
