"""Our pass through the Llama layers, against transformers' own."""

from __future__ import annotations

import copy

import pytest
import torch as th

from vla_algos.models.kv_cache import KVCache
from vla_algos.models.openvla.config import LLMConfig
from vla_algos.models.openvla.llm import Llama, attention_mask

SIZES = LLMConfig(hidden=48, layers=3, heads=4, mlp=80, vocab=64, rows=64)


@pytest.fixture(scope="module")
def llm():
    th.manual_seed(0)
    llm = Llama(SIZES)
    with th.no_grad():
        for parameter in llm.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.3)
            else:
                parameter.uniform_(0.5, 1.5)
    return llm


@pytest.fixture(scope="module")
def reference(llm, transformers_llama):
    return transformers_llama(llm)


@pytest.fixture(scope="module")
def x():
    return th.randn(3, 10, 48, generator=th.Generator().manual_seed(1))


def test_fresh_weights_are_those_of_transformers(fresh_transformers_llama):
    th.manual_seed(3)
    ours, after = Llama(SIZES), th.rand(())
    th.manual_seed(3)
    theirs = fresh_transformers_llama(SIZES)
    assert th.rand(()) == after
    found, expected = ours.state_dict(), theirs.state_dict()
    assert list(found) == list(expected) and all(th.equal(found[name], expected[name]) for name in found)


def test_equals_transformers(llm, reference, x):
    positions = th.arange(10).unsqueeze(0)
    expected = reference.model(inputs_embeds=x, use_cache=False).last_hidden_state
    th.testing.assert_close(llm(x, positions), expected, atol=1e-5, rtol=1e-5)


def test_filling_is_hidden_as_in_transformers(llm, reference, x):
    is_real = th.arange(10) < th.tensor([[10], [4], [7]])
    positions = th.arange(10).unsqueeze(0)
    expected = reference.model(inputs_embeds=x, attention_mask=is_real.long(), use_cache=False).last_hidden_state
    found = llm(x, positions, is_real=is_real)
    th.testing.assert_close(found[is_real], expected[is_real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [[[9]], [[2, 5, 9]], [[9], [3], [6]], [[0, 9], [1, 8], [5, 4]]])
def test_wanted_rows_only(llm, x, rows):
    positions = th.arange(10).unsqueeze(0)
    rows = th.tensor(rows)
    everything = llm(x, positions)
    expected = th.stack([everything[i, rows[i % len(rows)]] for i in range(3)])
    th.testing.assert_close(llm(x, positions, rows=rows), expected, atol=1e-5, rtol=1e-5)


def test_positions_move_the_result_as_in_transformers(llm, reference, x):
    positions = th.arange(10).expand(3, 10) * th.tensor([[1], [2], [3]])
    # without a mask, transformers would take positions that jump for several packed sequences
    ones = th.ones(3, 10, dtype=th.int64)
    expected = reference.model(inputs_embeds=x, position_ids=positions, attention_mask=ones, use_cache=False)
    expected = expected.last_hidden_state
    found = llm(x, positions)
    th.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - llm(x, th.arange(10).unsqueeze(0))).abs().max() > 1e-2


def test_cached_steps_equal_one_pass(llm, x):
    positions = th.arange(10).unsqueeze(0)
    cache = KVCache((3, 3, 4, 10, 12), th.float32, th.device("cpu"))
    parts = [llm(x[:, :6], positions[:, :6], cache=cache)]
    parts += [llm(x[:, i : i + 1], positions[:, i : i + 1], cache=cache) for i in range(6, 10)]
    assert cache.length == 10
    th.testing.assert_close(th.cat(parts, dim=1), llm(x, positions), atol=1e-5, rtol=1e-5)


def test_bfloat16_stays_close_to_transformers(llm, transformers_llama, x):
    half = copy.deepcopy(llm).to(th.bfloat16)
    expected = transformers_llama(half).model(inputs_embeds=x.bfloat16(), use_cache=False).last_hidden_state.float()
    found = half(x.bfloat16(), th.arange(10).unsqueeze(0)).float()
    assert (found - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_attention_mask_by_hand():
    mask = attention_mask(th.tensor([[1, 3]]), th.tensor([[True, True, False, True]]))
    assert mask.tolist() == [[[[True, True, False, False], [True, True, False, True]]]]
