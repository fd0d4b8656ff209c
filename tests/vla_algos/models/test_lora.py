from __future__ import annotations

import copy
import sys

import pytest
import torch as th

from vla_algos.errors import MissingPackageError
from vla_algos.models import load_vla, save_vla
from vla_algos.models.lora import add_lora, merged_state_dict


@pytest.fixture
def adapted(lively_nano):
    pytest.importorskip("peft")
    return add_lora(copy.deepcopy(lively_nano), rank=2, alpha=4)


def logits(model, inputs):
    with th.no_grad():
        return model.action_logits(inputs.images, inputs.instructions, inputs.bins, inputs.proprio)


def test_fresh_adapters_change_nothing(adapted, lively_nano, inputs):
    th.testing.assert_close(logits(adapted, inputs), logits(lively_nano, inputs), atol=1e-5, rtol=0)


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


def test_a_model_without_adapters_is_its_own_merger(lively_nano):
    merged, state = merged_state_dict(lively_nano), lively_nano.state_dict()
    assert merged.keys() == state.keys() and all(th.equal(merged[name], state[name]) for name in state)


def test_the_missing_package_is_named(monkeypatch, lively_nano):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPackageError, match=r"pip install vla-gym\[lora\]"):
        add_lora(lively_nano)
