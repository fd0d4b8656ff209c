"""Finding, loading and saving checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import replace

import pytest
import torch as th
from safetensors.torch import load_file, save_file

from vla_algos.errors import CheckpointError, UnknownNameError
from vla_algos.models import load_vla, save_vla, weights


@pytest.fixture
def folder(tmp_path, lively_nano):
    save_vla(lively_nano, tmp_path / "model")
    return tmp_path / "model"


def change_weights(folder, change) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def test_round_trip_keeps_every_bit_and_the_actions(folder, lively_nano, inputs):
    model = load_vla(folder)
    before, after = lively_nano.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    assert all(th.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    runs = [
        m.decode_actions(inputs.images, inputs.instructions, inputs.proprio, deterministic=True)
        for m in (lively_nano, model)
    ]
    assert all(th.equal(a, b) for a, b in zip(*runs, strict=True))


def test_folder_holds_hugging_face_files(folder):
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.json",
        "dataset_statistics.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((folder / "config.json").read_text())["model_type"] == "openvla"
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir()), "others may read it"


def test_action_statistics_travel(tmp_path):
    model = load_vla("nano", seed=0)
    stats = {"goal": {"action": {"q01": [-1.0] * 7, "q99": [1.0] * 7, "mask": [True] * 7}}}
    model.record = replace(model.record, norm_stats=stats)
    save_vla(model, tmp_path / "model")
    assert load_vla(tmp_path / "model").config == model.config
    # the file beside the configuration is the one that fine-tuning rewrites
    (tmp_path / "model" / "dataset_statistics.json").write_text(json.dumps({"spatial": {}}))
    assert load_vla(tmp_path / "model").record.norm_stats == {"spatial": {}}


def test_saving_again_replaces_the_files_and_keeps_others(folder):
    (folder / "notes.txt").write_text("mine")
    model = load_vla("nano", seed=7)
    save_vla(model, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert th.equal(load_vla(folder).projector.fc1.weight, model.projector.fc1.weight)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("exists", [True, False])
def test_interrupted_save_leaves_nothing_half_written(tmp_path, lively_nano, monkeypatch, exists):
    target = tmp_path / "model"
    if exists:
        save_vla(lively_nano, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()} if exists else None

    def fail(state, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_vla(load_vla("nano", seed=3), target)
    assert target.exists() is exists
    if exists:
        assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert len(list(tmp_path.iterdir())) == int(exists)


@pytest.mark.parametrize("is_sharded", [True, False])
@pytest.mark.parametrize("n_moved", range(0, 14, 2))
def test_a_half_replaced_model_is_not_taken_for_one(tmp_path, monkeypatch, n_moved, is_sharded):
    old, new = load_vla("nano", seed=1), load_vla("nano", seed=2)
    if not is_sharded:
        save_vla(old, tmp_path / "model")
    monkeypatch.setattr(weights.write_weights, "__defaults__", ((), 300_000))
    if is_sharded:
        save_vla(old, tmp_path / "model")
    moved = []
    replace = os.replace

    def interrupted(source, target):
        if len(moved) == n_moved:
            raise KeyboardInterrupt
        moved.append(target)
        replace(source, target)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupted)
        save_vla(new, tmp_path / "model")
    try:
        loaded = load_vla(tmp_path / "model").state_dict()
    except CheckpointError:
        return
    assert all(th.equal(tensor, loaded[name]) for name, tensor in new.state_dict().items())


def test_a_detached_value_stays_detached(tmp_path):
    model = load_vla("nano", seed=0)
    assert not model.detach_value
    model.detach_value = True
    save_vla(model, tmp_path / "model")
    assert load_vla(tmp_path / "model").detach_value


def test_seed_fixes_fresh_weights_and_nothing_else():
    th.manual_seed(0)
    expected = th.rand(3)
    th.manual_seed(0)
    a, b, c = (load_vla("nano", seed=seed) for seed in (1, 1, 2))
    assert th.equal(th.rand(3), expected)
    assert all(th.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not th.equal(a.projector.fc1.weight, c.projector.fc1.weight)
    assert not th.equal(a.language_model.lm_head.weight, c.language_model.lm_head.weight)


def test_what_is_loaded_is_there_to_act(folder):
    for name in ("nano", folder):
        assert not any(module.training for module in load_vla(name).modules())


def test_dtype():
    assert {p.dtype for p in load_vla("nano", dtype=th.bfloat16).parameters()} == {th.bfloat16}


def test_weights_can_be_stored_smaller(tmp_path, lively_nano):
    save_vla(lively_nano, tmp_path / "model", dtype=th.bfloat16)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {th.bfloat16}
    loaded = load_vla(tmp_path / "model").state_dict()
    for name, tensor in lively_nano.state_dict().items():
        assert loaded[name].dtype == th.float32 and th.equal(loaded[name], tensor.bfloat16().float())


@pytest.mark.parametrize("name", ["nanno", "no_such_folder", "./a/b", "/a/b/c", "~nobody/a", "a" * 5000, "a\0b", ""])
def test_unknown_name(name):
    with pytest.raises(
        UnknownNameError,
        match=r"Valid: openvla-7b, .*siglip, compact, nano, compact-libero-goal\..*checkpoint folder",
    ):
        load_vla(name)


def test_preset_without_tokenizer_is_refused():
    with pytest.raises(CheckpointError, match="openvla/openvla-7b"):
        load_vla("openvla-7b")


def test_hub_package_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install vla-gym\[hub\]"):
        load_vla("someone/some-model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_vla(folder)


@pytest.mark.parametrize("size", [0, 100, 20_000, -1])
def test_truncated_weights(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        load_vla(folder)


def test_truncated_config(folder):
    (folder / "config.json").write_text((folder / "config.json").read_text()[:50])
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_vla(folder)


def test_extra_missing_and_misshapen_weights_are_listed(folder):
    def change(state):
        state["stranger.weight"] = th.zeros(2)
        del state["projector.fc2.bias"]
        state["projector.fc1.bias"] = th.zeros(5)

    change_weights(folder, change)
    with pytest.raises(CheckpointError) as error:
        load_vla(folder)
    text = str(error.value)
    assert "Missing: projector.fc2.bias." in text
    assert "Unexpected: stranger.weight." in text
    assert "projector.fc1.bias (5,) instead of (64,)" in text


def test_sharded_weights(folder, lively_nano):
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, keys in shards.items():
        save_file({key: state[key] for key in keys}, folder / shard)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {key: shard for shard, keys in shards.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert th.equal(load_vla(folder).projector.fc1.weight, lively_nano.projector.fc1.weight)
    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b.safetensors is missing"):
        load_vla(folder)


def test_presets_can_be_changed_and_checkpoints_cannot(tmp_path):
    model = load_vla("nano", config_changes={"image_size": 32})
    assert model.config.patches == 4
    save_vla(model, tmp_path / "small")
    assert load_vla(tmp_path / "small").config.patches == 4
    with pytest.raises(CheckpointError, match=r"config_changes=.* is for presets"):
        load_vla(tmp_path / "small", config_changes={"image_size": 64})
    assert load_vla(tmp_path / "small", config_changes={"image_pipeline": ["crop"]}).config.image_pipeline == ("crop",)
    with pytest.raises(UnknownNameError, match=r"step of image_pipeline 'crops'.*jpeg, lanczos, crop"):
        load_vla(tmp_path / "small", config_changes={"image_pipeline": ["crops"]})
