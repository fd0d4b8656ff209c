from __future__ import annotations

import copy
import dataclasses
import json
import sys

import pytest
import torch as th

from vla_algos.errors import CheckpointError, MissingPackageError, UnknownNameError
from vla_algos.models import (
    add_lora,
    load_adapters,
    load_vla,
    merge_adapters,
    save_adapters,
    save_vla,
    unmerge_adapters,
)
from vla_algos.models.lora import adapters_disabled, is_merged, lora_of, merged_weights


@pytest.fixture
def adapted(lively_nano):
    pytest.importorskip("peft")
    return add_lora(copy.deepcopy(lively_nano), rank=2, alpha=4)


def logits(model, inputs):
    with th.no_grad():
        return model.action_logits(inputs.images, inputs.instructions, inputs.bins, inputs.proprio)


def test_fresh_adapters_change_nothing(adapted, lively_nano, inputs):
    th.testing.assert_close(logits(adapted, inputs), logits(lively_nano, inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_dropout_follows_the_mode_of_the_model(lively_nano, inputs, training):
    pytest.importorskip("peft")
    model = add_lora(copy.deepcopy(lively_nano).train(training), rank=2, dropout=0.5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            th.nn.init.normal_(parameter)
    assert th.equal(logits(model, inputs), logits(model, inputs)) is not training


def test_only_adapters_and_the_new_parts_learn(adapted):
    learning = {name for name, p in adapted.named_parameters() if p.requires_grad}
    parts = ("value_head.", "proprio_encoder.")
    assert all(".lora_" in name or name.startswith(parts) for name in learning)
    assert all(any(name.startswith(part) for name in learning) for part in parts)
    adapters = {name.split(".lora_")[0] for name in learning if ".lora_" in name}
    # per block: four linear layers in the tower, seven in the language model; two in the projector
    assert len(adapters) == 2 * 4 + 2 * 7 + 2


def test_merged_weights_compute_the_same(adapted, inputs, lively_nano, tmp_path):
    generator = th.Generator().manual_seed(3)
    with th.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2, generator=generator)
    expected = logits(adapted, inputs)
    assert (expected - logits(lively_nano, inputs)).abs().max() > 1e-2
    save_vla(adapted, tmp_path / "merged")
    th.testing.assert_close(logits(load_vla(tmp_path / "merged"), inputs), expected, atol=1e-4, rtol=1e-4)
    # and the model itself goes on with its adapters
    assert th.equal(logits(adapted, inputs), expected)


def liven(model):
    generator = th.Generator().manual_seed(3)
    with th.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or name.startswith("value_head"):
                parameter.normal_(0, 0.2, generator=generator)
    return model


def test_merging_in_place_and_back(adapted, inputs, tmp_path):
    expected = logits(liven(adapted), inputs)
    before = {name: p.clone() for name, p in adapted.named_parameters()}
    merge_adapters(adapted)
    th.testing.assert_close(logits(adapted, inputs), expected, atol=1e-4, rtol=1e-4)
    assert not th.equal(adapted.projector.fc1.base_layer.weight, before["projector.fc1.base_layer.weight"])
    save_vla(adapted, tmp_path / "merged")
    th.testing.assert_close(logits(load_vla(tmp_path / "merged"), inputs), expected, atol=1e-4, rtol=1e-4)
    unmerge_adapters(adapted)
    unmerge_adapters(adapted)  # nothing is left to do
    for name, parameter in adapted.named_parameters():
        th.testing.assert_close(parameter, before[name], atol=1e-6, rtol=0)


def test_merged_adapters_can_be_looked_past(adapted, lively_nano, inputs):
    expected = logits(liven(adapted), inputs)
    merge_adapters(adapted)
    with adapters_disabled(adapted):
        bare = logits(adapted, inputs)
    assert is_merged(adapted)
    th.testing.assert_close(logits(adapted, inputs), expected, atol=1e-4, rtol=1e-4)
    unmerge_adapters(adapted)
    with adapters_disabled(adapted):
        th.testing.assert_close(logits(adapted, inputs), bare, atol=1e-4, rtol=1e-4)
    assert (bare - expected).abs().max() > 0.01


def test_what_was_learnt_survives_where_it_is_written_more_finely(lively_nano):
    pytest.importorskip("peft")
    model = liven(add_lora(copy.deepcopy(lively_nano).bfloat16(), rank=2, alpha=2e-3))
    fine, coarse = (dict(merged_weights(model, dtype)) for dtype in (th.float32, None))
    name = "projector.fc1.weight"
    layer = model.projector.fc1
    learnt = layer.get_delta_weight("default")
    assert learnt.dtype is th.float32 and fine[name].dtype is th.float32 and coarse[name].dtype is th.bfloat16
    base = layer.base_layer.weight.float()
    th.testing.assert_close(fine[name] - base, learnt, atol=1e-7, rtol=0)
    assert (coarse[name] - base - learnt).norm() > 0.1 * learnt.norm()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("use_rslora", True),
        ("alpha_pattern", {"fc1": 3}),
        ("bias", "all"),
        ("init_lora_weights", "pissa"),
        ("peft_type", "LOHA"),
        ("use_what_is_yet_to_come", True),
    ],
)
def test_adapters_that_compute_otherwise_are_refused(adapted, lively_nano, tmp_path, option, value):
    save_adapters(adapted, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, option: value}))
    with pytest.raises(CheckpointError, match=rf"made with {option}=.*[Mm]erge them"):
        load_adapters(copy.deepcopy(lively_nano), tmp_path)


def test_targets_are_layers_by_name_or_ending(lively_nano):
    pytest.importorskip("peft")
    model = add_lora(copy.deepcopy(lively_nano), rank=2, targets=["q_proj", "projector.fc1"])
    names = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in model.state_dict() if ".lora_" in name}
    assert names == {"q_proj", "fc1"}
    assert not any("vision_backbone" in name for name in lora_of(model)["target_modules"])
    with pytest.raises(UnknownNameError, match=r"target of LoRA 'q_prox'.*q_proj"):
        add_lora(copy.deepcopy(lively_nano), targets=["q_prox"])


def test_adapters_alone_go_to_disk_and_back(adapted, lively_nano, inputs, tmp_path):
    expected = logits(liven(adapted), inputs)
    save_adapters(adapted, tmp_path / "adapters", base="nano")
    size = sum(path.stat().st_size for path in (tmp_path / "adapters").iterdir())
    assert size < 0.2 * sum(p.numel() * 4 for p in lively_nano.parameters())
    model = load_adapters(copy.deepcopy(lively_nano), tmp_path / "adapters")
    assert th.equal(logits(model, inputs), expected)
    assert th.equal(model.value_head.fc1.weight, adapted.value_head.fc1.weight)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, p in adapted.named_parameters() if p.requires_grad
    }


def test_adapters_of_peft_with_short_names_are_read(adapted, lively_nano, inputs, tmp_path):
    short = add_lora(copy.deepcopy(lively_nano), rank=2, targets=["q_proj", "v_proj"])
    expected = logits(liven(short), inputs)
    save_adapters(short, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["q_proj", "v_proj"]}))
    assert th.equal(logits(load_adapters(copy.deepcopy(lively_nano), tmp_path), inputs), expected)
    untouched = copy.deepcopy(lively_nano)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["query"]}))
    with pytest.raises(CheckpointError, match=r"of another model.*target of LoRA 'query'"):
        load_adapters(untouched, tmp_path)
    assert lora_of(untouched) is None


def test_what_is_trained_is_float32_in_a_smaller_model(lively_nano, inputs):
    model = add_lora(copy.deepcopy(lively_nano).bfloat16(), rank=2)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {th.float32}
    assert model.dtype == th.bfloat16
    optimizer = th.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    before = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    for _ in range(2):
        scored = model.score_actions(inputs.images, inputs.instructions, inputs.bins, inputs.proprio)
        (scored.log_probs.mean() + scored.values.mean()).backward()
        optimizer.step()
    for part in ("lora_B", "value_head"):
        changed = [(p != before[name]).float().mean() for name, p in model.named_parameters() if part in name]
        assert min(changed) > 0.5


def test_peft_itself_reads_them(adapted, lively_nano, inputs, tmp_path):
    peft = pytest.importorskip("peft")
    expected = logits(liven(adapted), inputs)
    save_adapters(adapted, tmp_path)
    model = copy.deepcopy(lively_nano)
    wrapped = peft.PeftModel.from_pretrained(model, tmp_path)
    th.testing.assert_close(logits(wrapped.base_model.model, inputs), expected, atol=1e-5, rtol=0)


def test_a_value_head_that_the_base_lacks_comes_along(adapted, lively_nano, tmp_path):
    save_adapters(liven(adapted), tmp_path)
    bare = copy.deepcopy(lively_nano)
    del bare.value_head
    bare.config = dataclasses.replace(bare.config, value_head_width=0)
    assert th.equal(load_adapters(bare, tmp_path).value_head.fc1.weight, adapted.value_head.fc1.weight)


def test_adapters_of_another_model_are_refused(adapted, lively_nano, tmp_path):
    save_adapters(adapted, tmp_path, base="nano")
    with pytest.raises(CheckpointError, match=r"layers that this model does not have|do not fit the model"):
        load_adapters(load_vla("compact"), tmp_path)
    with pytest.raises(CheckpointError, match="no adapters to save"):
        save_adapters(lively_nano, tmp_path / "none")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="no adapters that can be read"):
        load_adapters(copy.deepcopy(lively_nano), tmp_path)
    with pytest.raises(CheckpointError, match="no adapters that can be read"):
        load_adapters(copy.deepcopy(lively_nano), tmp_path / "nowhere")


def test_a_model_without_adapters_is_its_own_merger(lively_nano):
    merged, state = dict(merged_weights(lively_nano)), lively_nano.state_dict()
    assert merged.keys() == state.keys() and all(th.equal(merged[name], state[name]) for name in state)


def test_the_missing_package_is_named(monkeypatch, lively_nano):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPackageError, match=r"pip install vla-gym\[lora\]"):
        add_lora(lively_nano)
