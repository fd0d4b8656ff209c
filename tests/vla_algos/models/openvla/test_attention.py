import pytest
import torch as th
from torch.nn.attention import SDPBackend, sdpa_kernel

from vla_algos.models.openvla.attention import attend

Q, S = 4, 9


@pytest.fixture
def inputs():
    generator = th.Generator().manual_seed(0)
    return [th.randn(2, 3, n, 16, generator=generator) for n in (Q, S, S)]


def reference(queries, keys, values, mask):
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ values


@pytest.mark.parametrize("is_autocast", [True, False])
def test_attention_is_that_of_the_formula_with_or_without_autocast(inputs, is_autocast):
    mask = th.ones(Q, S, dtype=th.bool).tril(S - Q)[None, None]
    with th.autocast("cpu", th.bfloat16, enabled=is_autocast):
        found = attend(*inputs, mask=mask)
    th.testing.assert_close(found, reference(*inputs, mask), rtol=1e-5, atol=1e-6)


def test_autocast_does_not_round_the_gradients_of_attention(inputs):
    q = inputs[0].requires_grad_()
    k, v = (t[:, :, :Q] for t in inputs[1:])
    expected = th.autograd.grad(reference(q, k, v, th.ones(Q, Q, dtype=th.bool).tril()).square().sum(), q)[0]
    with th.autocast("cpu", th.bfloat16):
        found = th.autograd.grad(attend(q, k, v, is_causal=True).square().sum(), q)[0]
    th.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("halved", [(2,), (0, 1, 2)])
def test_inputs_that_autocast_has_rounded_are_taken_as_they_are(inputs, halved):
    rounded = [t.bfloat16() if i in halved else t for i, t in enumerate(inputs)]
    with th.autocast("cpu", th.bfloat16):
        found = attend(*rounded)
    everything = th.ones(Q, S, dtype=th.bool)
    assert found.dtype == th.float32
    th.testing.assert_close(found, reference(*(t.float() for t in rounded), everything), rtol=1e-5, atol=1e-6)


def test_models_in_bfloat16_stay_in_it(inputs):
    halves = [t.bfloat16() for t in inputs]
    assert attend(*halves).dtype == th.bfloat16
    with sdpa_kernel(SDPBackend.MATH):
        expected = attend(*inputs)
    th.testing.assert_close(attend(*halves).float(), expected, rtol=0.05, atol=0.02)
