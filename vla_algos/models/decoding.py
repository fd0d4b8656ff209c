"""What decoding and scoring return, and how a token is chosen from logits."""

from __future__ import annotations

from typing import NamedTuple

import torch as th
from torch.nn import functional as F


class DecodedActions(NamedTuple):
    """Actions chosen by a model for N observations, A tokens each."""

    bins: th.Tensor
    """(N, A) int64, 0..255"""
    log_probs: th.Tensor
    """(N, A) float32, nats, of the distribution that was sampled from"""
    values: th.Tensor
    """(N,) float32; NaN for a model without value head"""
    hidden: th.Tensor
    """(N, hidden): what the values are read from"""


class ScoredActions(NamedTuple):
    """Given actions judged by a model, with gradients."""

    log_probs: th.Tensor
    """(N, A) float32, nats"""
    entropy: th.Tensor
    """(N, A) float32, nats, of the distribution of each token"""
    values: th.Tensor
    """(N,) float32; NaN for a model without value head"""
    bin_log_probs: th.Tensor
    """(N, A, 256) float32, nats: of every bin each token could have been, after the given tokens before it"""


def choose(
    logits: th.Tensor, temperature: float, deterministic: bool, generator: th.Generator | None
) -> tuple[th.Tensor, th.Tensor]:
    """
    Take the most likely index or sample one, per row.

    :param logits: (N, K)
    :param temperature: divides the logits, above 0
    :param deterministic: take the most likely index
    :param generator: source of randomness, None for torch's default
    :return: indices (N,) int64 and their log-probabilities at that temperature (N,) float32
    """
    log_probs = log_probs_of(logits, temperature)
    if deterministic:
        index = log_probs.argmax(-1, keepdim=True)
    else:
        index = th.multinomial(log_probs.exp(), 1, generator=generator)
    return index.squeeze(-1), log_probs.gather(-1, index).squeeze(-1)


def score(logits: th.Tensor, index: th.Tensor, temperature: float) -> tuple[th.Tensor, th.Tensor]:
    """
    Log-probability of given indices, and the entropy of their distribution.

    :param logits: (..., K)
    :param index: (...) int64
    :param temperature: divides the logits, above 0
    :return: log-probabilities and entropies, (...) float32, nats
    """
    return look_up(log_probs_of(logits, temperature), index)


def log_probs_of(logits: th.Tensor, temperature: float) -> th.Tensor:
    """
    Log-probabilities at a temperature.

    :param logits: (..., K)
    :param temperature: divides the logits, above 0
    :return: (..., K) float32, nats
    """
    return F.log_softmax(logits.float() / temperature, dim=-1)


def look_up(log_probs: th.Tensor, index: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Log-probability of given indices, and the entropy of their distribution.

    :param log_probs: (..., K) float32, nats
    :param index: (...) int64
    :return: log-probabilities and entropies, (...) float32, nats
    """
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(-1, index.unsqueeze(-1)).squeeze(-1), entropy
