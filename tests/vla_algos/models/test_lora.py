from __future__ import annotations

import copy
import dataclasses
import json
import sys

import pytest
import torch as th
from safetensors.torch import load_file, save_file

from vla_algos.errors import CheckpointError, MissingPackageError, UnknownNameError
from vla_algos.models import (
    ModelInfo,
    OpenVLA,
    add_lora,
    load_adapters,
    load_vla,
    merge_adapters,
    save_adapters,
    save_vla,
    unmerge_adapters,
)
from vla_algos.models.lora import adapters_disabled, is_merged, lora_of, merged_weights
from vla_algos.models.openvla.released import DINOV2_ID, SIGLIP_ID


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


LEAVES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LEAVES += ["qkv", "proj", "fc1", "fc2", "fc3", "q", "kv"]
"""What peft's all-linear comes to on OpenVLA; "proj" is also the patch embedding's convolution."""


@pytest.fixture(scope="module")
def released():
    """A tiny model of the released architecture: two towers, a pooling head that never runs."""
    small = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    text = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    values = {
        "model_type": "openvla",
        "image_sizes": [28, 28],
        "pad_to_multiple_of": 64,
        "text_config": {**text, "vocab_size": 832},
        "timm_model_ids": [DINOV2_ID, SIGLIP_ID],
        "timm_model_overrides": [small, small],
    }
    info = ModelInfo.from_dict(values)
    return OpenVLA(info.config, record=info.record)


def written_by_peft(model, folder, targets):
    """Adapters with random weights in a folder, and the weights that peft merges them into."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=2, target_modules=targets, init_lora_weights="gaussian")
    wrapped = peft.get_peft_model(copy.deepcopy(model), config)
    generator = th.Generator().manual_seed(5)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    wrapped.save_pretrained(folder)
    return wrapped.merge_and_unload().state_dict()


@pytest.mark.filterwarnings("ignore:.*embedding layer")
@pytest.mark.parametrize(
    "targets",
    [
        "all-linear",
        LEAVES,
        [*LEAVES, "lm_head"],
        ["q_proj"],
        r".*(q_proj|attn\.qkv|patch_embed\.proj)",
        r"(?!vision_backbone).*fc\d",
    ],
    ids=["all-linear", "leaves", "leaves and head", "one", "expression", "another expression"],
)
@pytest.mark.parametrize("kind", ["released", "own"])
def test_merged_weights_equal_those_of_peft(released, lively_nano, tmp_path, kind, targets):
    base = released if kind == "released" else lively_nano
    if kind == "own" and targets in (LEAVES, [*LEAVES, "lm_head"]):
        targets = [leaf for leaf in targets if leaf not in ("fc3", "q", "kv")]
    expected = written_by_peft(base, tmp_path / "peft", targets)
    model = load_adapters(copy.deepcopy(base), tmp_path / "peft")
    merged = dict(merged_weights(model))
    assert merged.keys() == expected.keys()
    assert all(th.equal(merged[name], expected[name]) for name in expected)
    assert any(not th.equal(merged[name], tensor) for name, tensor in base.state_dict().items())
    # and through this library's own files
    save_adapters(model, tmp_path / "own")
    again = dict(merged_weights(load_adapters(copy.deepcopy(base), tmp_path / "own")))
    assert all(th.equal(again[name], expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore:.*embedding layer")
@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], "all-linear"])
def test_adapters_of_the_head_act_without_being_merged(lively_nano, inputs, tmp_path, targets):
    expected = copy.deepcopy(lively_nano)
    expected.load_state_dict(written_by_peft(lively_nano, tmp_path, targets))
    model = load_adapters(copy.deepcopy(lively_nano), tmp_path)
    th.testing.assert_close(logits(model, inputs), logits(expected, inputs), atol=1e-4, rtol=1e-4)
    bins = [
        m.decode_actions(inputs.images, inputs.instructions, inputs.proprio, deterministic=True).bins
        for m in (model, expected)
    ]
    assert th.equal(*bins)
    with adapters_disabled(model):
        th.testing.assert_close(logits(model, inputs), logits(lively_nano, inputs), atol=1e-5, rtol=1e-5)
    merge_adapters(model)
    th.testing.assert_close(logits(model, inputs), logits(expected, inputs), atol=1e-4, rtol=1e-4)
    unmerge_adapters(model)
    scored = model.score_actions(inputs.images, inputs.instructions, inputs.bins, inputs.proprio)
    scored.log_probs.sum().backward()
    head = model.language_model.lm_head
    assert ("lm_head" in targets) == hasattr(head, "lora_A") or targets == "all-linear"
    if hasattr(head, "lora_A"):
        assert head.lora_A["default"].weight.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:.*embedding layer")
def test_embeddings_that_peft_stores_with_a_head_are_loaded_too(lively_nano, tmp_path):
    written_by_peft(lively_nano, tmp_path, ["q_proj", "lm_head"])
    stored = load_file(tmp_path / "adapter_model.safetensors")
    language_model = "base_model.model.language_model"
    stored[f"{language_model}.lm_head.base_layer.weight"] = lively_nano.language_model.lm_head.weight.detach() + 1
    stored[f"{language_model}.model.embed_tokens.weight"] = (
        lively_nano.language_model.model.embed_tokens.weight.detach()
    )
    save_file(stored, tmp_path / "adapter_model.safetensors")
    model = load_adapters(copy.deepcopy(lively_nano), tmp_path)
    assert th.equal(model.language_model.lm_head.base_layer.weight, lively_nano.language_model.lm_head.weight + 1)


def test_a_text_as_target_is_never_read_letter_by_letter(lively_nano):
    pytest.importorskip("peft")
    everywhere = add_lora(copy.deepcopy(lively_nano), rank=2)
    for targets in ("all-linear", r".*\.(?!lm_head)\w+"):
        model = add_lora(copy.deepcopy(lively_nano), rank=2, targets=targets)
        assert lora_of(model)["target_modules"] == lora_of(everywhere)["target_modules"]
    model = add_lora(copy.deepcopy(lively_nano), rank=2, targets=r".*layers\.0\..*q_proj")
    assert lora_of(model)["target_modules"] == ["language_model.model.layers.0.self_attn.q_proj"]
    with pytest.raises(UnknownNameError, match=r"target of LoRA 'q_proj'.*give a list: \[\"q_proj\"\]"):
        add_lora(copy.deepcopy(lively_nano), targets="q_proj")
    with pytest.raises(UnknownNameError, match="No regular expression"):
        add_lora(copy.deepcopy(lively_nano), targets="(")
    with pytest.raises(UnknownNameError, match="a list such as"):
        add_lora(copy.deepcopy(lively_nano), targets=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 0}, "says r=0"),
        ({"r": "8"}, "says r='8'"),
        ({"r": 10**9}, r"says r=1000000000; .* is \("),
        ({"lora_alpha": None}, "says lora_alpha=None"),
        ({"lora_alpha": float("nan")}, "says lora_alpha=nan"),
        ({"lora_dropout": 2}, "says lora_dropout=2"),
        ({"target_modules": 3}, "says target_modules=3"),
        ({"target_modules": [1]}, r"says target_modules=\[1\]"),
        ({"target_modules": ["q_proj"]}, "Weights of layers that are not named there: "),
        ({"exclude_modules": 3}, "says exclude_modules=3"),
        ({"bias": ["all"]}, "made with bias="),
    ],
)
def test_configurations_of_adapters_that_are_damaged_are_named(adapted, lively_nano, tmp_path, changes, message):
    save_adapters(adapted, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    model = copy.deepcopy(lively_nano)
    with pytest.raises(CheckpointError, match=message):
        load_adapters(model, tmp_path)
    assert lora_of(model) is None


def test_an_expression_that_takes_for_ever_is_not_matched(adapted, lively_nano, tmp_path):
    save_adapters(adapted, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "target_modules": r"(\w+\.?)+$^"}))
    load_adapters(copy.deepcopy(lively_nano), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, tensor: {name: tensor * float("nan")}, "holds NaN or infinity"),
        (lambda name, tensor: {name: tensor.to(th.int64)}, "is stored as I64"),
        (lambda name, tensor: {name.replace("lora_A", "lora_embedding_A"): tensor}, "lora_embedding_A.*Merge them"),
        (lambda name, tensor: {name.replace("fc1", "fc9"): tensor}, "of another model: Unknown layer 'projector.fc9'"),
        (lambda name, tensor: {}, "Missing: projector.fc1.lora_A.weight"),
    ],
)
def test_weights_of_adapters_that_are_damaged_are_named(adapted, lively_nano, tmp_path, change, message):
    save_adapters(adapted, tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.projector.fc1.lora_A.weight"
    tensor = state.pop(name)
    save_file({**state, **change(name, tensor)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_adapters(copy.deepcopy(lively_nano), tmp_path)


def test_pickled_adapters_are_not_read(adapted, lively_nano, tmp_path):
    save_adapters(adapted, tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is a pickle, which runs code.*safe_serialization"):
        load_adapters(copy.deepcopy(lively_nano), tmp_path)


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
