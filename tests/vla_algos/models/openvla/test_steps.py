"""Decoding in steps of one shape gives what decoding over a growing cache gives."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch as th

from vla_algos.models import add_lora, load_vla, merge_adapters
from vla_algos.models.lora import adapters_disabled
from vla_algos.models.openvla import steps as steps_module


@pytest.fixture
def model(lively_nano):
    return copy.deepcopy(lively_nano)


def decode(model, inputs, rows=slice(None), fixed=True, **kwargs):
    model.fixed_steps = fixed
    arguments = (inputs.images[rows], inputs.instructions[rows], inputs.proprio[rows])
    return model.decode_actions(*arguments, **kwargs)


def assert_same(first, second):
    assert th.equal(first.bins, second.bins)
    th.testing.assert_close(first.log_probs, second.log_probs, atol=1e-5, rtol=0)
    th.testing.assert_close(first.values, second.values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("rows", [slice(None), slice(0, 1), slice(1, 3)])
def test_same_actions(model, inputs, rows, constrained):
    kwargs = {"deterministic": True, "constrained": constrained}
    # twice, as the second call finds the memory of the first
    results = [decode(model, inputs, rows, **kwargs) for _ in range(2)]
    for result in results:
        assert_same(result, decode(model, inputs, rows, fixed=False, **kwargs))


def test_same_samples(model, inputs):
    results = [
        decode(model, inputs, fixed=fixed, temperature=1.3, generator=th.Generator().manual_seed(5))
        for fixed in (True, False)
    ]
    assert_same(*results)


def test_same_actions_in_chunks(inputs):
    model = load_vla("nano", seed=0)
    model.config = replace(model.config, chunk_size=3)
    assert_same(*(decode(model, inputs, fixed=fixed, deterministic=True) for fixed in (True, False)))
    assert decode(model, inputs).bins.shape == (4, 21)


def test_what_is_learnt_is_seen(model, inputs):
    before = decode(model, inputs, deterministic=True)
    with th.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * th.randn(parameter.shape, generator=th.Generator().manual_seed(1)))
    after = decode(model, inputs, deterministic=True)
    assert not th.equal(before.bins, after.bins)
    assert_same(after, decode(model, inputs, fixed=False, deterministic=True))


def test_moved_weights_and_merged_adapters_are_not_taken_for_the_old_ones(model, inputs):
    pool = model._steps_pool
    decode(model, inputs)
    decode(model, inputs)
    assert len(pool._kept) == 1
    kept = [parameter.data for parameter in model.parameters()]  # so that their addresses are not given out again
    model.double()
    model.float()
    decode(model, inputs)
    del kept
    assert len(pool._kept) == 2
    pytest.importorskip("peft")
    add_lora(model, rank=2)
    decode(model, inputs)
    merge_adapters(model)
    decode(model, inputs)
    assert len(pool._kept) == 4


def test_switches_that_a_recording_would_fix_are_told_apart(model, inputs):
    pytest.importorskip("peft")
    add_lora(model, rank=2, dropout=0.5)
    model.eval()
    decode(model, inputs)
    with adapters_disabled(model):
        decode(model, inputs)
    model.train()
    decode(model, inputs)
    assert len(model._steps_pool._kept) == 3
    model.release_steps()
    assert not model._steps_pool._kept


def test_what_went_wrong_once_is_forgotten(model, inputs):
    expected = decode(model, inputs, deterministic=True)
    good = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with th.no_grad():
        for parameter in model.language_model.parameters():
            parameter.fill_(float("nan"))
    assert decode(model, inputs, deterministic=True).log_probs.isnan().any()
    model.load_state_dict(good)
    assert_same(decode(model, inputs, deterministic=True), expected)


def test_inference_mode_leaves_nothing_behind_that_cannot_be_used(model, inputs):
    with th.inference_mode():
        first = decode(model, inputs, deterministic=True)
    assert_same(decode(model, inputs, deterministic=True), first)


def test_few_shapes_are_kept(model, inputs, monkeypatch):
    monkeypatch.setattr(steps_module, "_KEPT_SHAPES", 2)
    for n in (1, 2, 3, 2, 4):
        assert_same(*(decode(model, inputs, slice(0, n), fixed=fixed, deterministic=True) for fixed in (True, False)))
    assert [size for size, _ in model._steps_pool._kept] == [2, 4]


def test_smaller_batches_use_the_steps_of_larger_ones(model, inputs):
    for rows in (slice(0, 4), slice(1, 4), slice(2, 4), slice(3, 4), slice(0, 3)):
        kwargs = {"temperature": 1.3}
        results = [
            decode(model, inputs, rows, fixed=fixed, generator=th.Generator().manual_seed(3), **kwargs)
            for fixed in (True, False)
        ]
        assert_same(*results)
    assert [size for size, _ in model._steps_pool._kept] == [1, 4]


def test_copies_and_pickles_start_without(model, inputs):
    expected = decode(model, inputs, deterministic=True)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other._steps_pool._kept
        assert_same(decode(other, inputs, deterministic=True), expected)


def test_autocast_takes_the_plain_way(model, inputs):
    with th.autocast("cpu", th.bfloat16):
        decode(model, inputs)
    assert not model._steps_pool._kept


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [th.float32, th.bfloat16])
def test_recorded_steps_score_what_they_chose(model, inputs, dtype):
    if not th.cuda.is_available():
        pytest.skip("needs a CUDA device and a CUDA build of torch")
    pytest.importorskip("peft")
    add_lora(model, rank=2)
    model = model.to("cuda", dtype).eval()
    inputs = inputs._replace(images=inputs.images.cuda(), proprio=inputs.proprio.cuda())
    tolerance = 1e-3 if dtype is th.float32 else 0.3

    def check(rows=slice(None), **kwargs):
        decoded = decode(model, inputs, rows, **kwargs)
        arguments = (inputs.images[rows], inputs.instructions[rows], decoded.bins, inputs.proprio[rows])
        scored = model.score_actions(*arguments)
        th.testing.assert_close(decoded.log_probs, scored.log_probs, atol=tolerance, rtol=0)
        return decoded

    for rows in (slice(None), slice(0, 1), slice(1, 3), slice(None)):
        check(rows)
    first = check(deterministic=True)
    if dtype is th.float32:
        assert th.equal(first.bins, decode(model, inputs, fixed=False, deterministic=True).bins)
    with adapters_disabled(model):
        check()
    with th.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    changed = check(deterministic=True)
    assert not th.equal(changed.log_probs, first.log_probs)
    merge_adapters(model)
    check()
