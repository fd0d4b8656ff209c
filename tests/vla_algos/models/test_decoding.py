"""Choosing and scoring tokens from logits."""

from __future__ import annotations

import pytest
import torch as th

from vla_algos.models.decoding import choose, score


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_samples_follow_the_tempered_softmax(temperature):
    logits = th.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    n = 40_000
    index, log_probs = choose(logits.expand(n, 5), temperature, False, th.Generator().manual_seed(0))
    expected = (logits / temperature).exp() / (logits / temperature).exp().sum()
    frequency = th.bincount(index, minlength=5) / n
    # five standard errors of a binomial
    assert ((frequency - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt()).all()
    th.testing.assert_close(log_probs.exp(), expected[index])


def test_deterministic_takes_the_largest():
    logits = th.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    index, log_probs = choose(logits, 1.0, True, None)
    assert index.tolist() == [1, 0]
    th.testing.assert_close(log_probs, logits.log_softmax(-1).max(-1).values)


def test_score_by_hand():
    logits = th.tensor([[[0.0, 3.0**0.5]]]) * 0
    log_probs, entropy = score(logits, th.tensor([[1]]), 1.5)
    assert log_probs.item() == pytest.approx(-0.6931472)
    assert entropy.item() == pytest.approx(0.6931472)
    logits = th.tensor([0.0, 2.0 * th.log(th.tensor(3.0))])
    log_probs, entropy = score(logits, th.tensor(0), 2.0)
    assert log_probs.exp().item() == pytest.approx(0.25)
    assert entropy.item() == pytest.approx(0.5623351)
