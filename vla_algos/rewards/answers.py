"""Reward modelling as next-token prediction: two tokens that answer whether a task is done."""

from __future__ import annotations

from typing import Any

import torch as th

from vla_algos.errors import RewardModelError

ANSWERS = ("1", "0")
"""Yes and no, as in VLA-RL's prompt (https://arxiv.org/abs/2505.18719)."""


def answer_id(tokenizer: Any, answer: str) -> int:
    """
    The token of an answer.

    :param tokenizer: of transformers
    :param answer: yes or no
    :return: its id
    :raises RewardModelError: if the tokenizer makes several tokens of it, or does not know it
    """
    ids = [i for i in tokenizer.encode(answer, add_special_tokens=False) if tokenizer.decode([i]).strip()]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        tokens = tokenizer.convert_ids_to_tokens(ids)
        raise RewardModelError(
            f"The answer {answer!r} is {tokens} to this model's tokenizer; expected a single token that it knows. Pass "
            "other answers, such as answers=('yes', 'no')."
        )
    return int(ids[0])


def answer_loss(log_probs: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """
    Negative log-likelihood of the answers, weighted by the pseudo-reward p: -(p log P(yes) + (1 - p) log P(no)).

    :param log_probs: of yes and no among all tokens, (N, 2) nats
    :param targets: p, (N,) in [0, 1]: a label of 0 or 1, or progress
    :return: mean over N, scalar
    """
    weights = th.stack([targets, 1.0 - targets], dim=-1).to(log_probs)
    return -(weights * log_probs).sum(dim=-1).mean()
