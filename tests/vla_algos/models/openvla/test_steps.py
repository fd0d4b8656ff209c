"""Decoding in steps of one shape gives what decoding over a growing cache gives."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch as th

from vla_algos.models import add_lora, load_vla, merge_adapters
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
    model.config.chunk_size = 3
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


def test_few_shapes_are_kept(model, inputs, monkeypatch):
    monkeypatch.setattr(steps_module, "_KEPT_SHAPES", 2)
    for n in (1, 2, 3, 2, 4):
        assert_same(*(decode(model, inputs, slice(0, n), fixed=fixed, deterministic=True) for fixed in (True, False)))
    assert [key[0] for key in model._steps_pool._kept] == [2, 4]


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
def test_a_recorded_step_is_the_computed_one(model, inputs, dtype):
    if not th.cuda.is_available():
        pytest.skip("needs a CUDA device and a CUDA build of torch")
    model = model.to("cuda", dtype)
    inputs = inputs._replace(images=inputs.images.cuda(), proprio=inputs.proprio.cuda())
    tolerance = 1e-4 if dtype is th.float32 else 5e-2
    for rows in (slice(None), slice(0, 1), slice(None)):
        recorded, computed = (decode(model, inputs, rows, fixed=fixed, deterministic=True) for fixed in (True, False))
        th.testing.assert_close(recorded.log_probs[:, 0], computed.log_probs[:, 0], atol=tolerance, rtol=0)
        if dtype is th.float32:
            assert th.equal(recorded.bins, computed.bins)
