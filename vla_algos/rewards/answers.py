"""Reward modelling as next-token prediction: two tokens that answer whether a task is done."""

from __future__ import annotations

from collections.abc import Sequence
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


def answer_ids(tokenizer: Any, answers: Sequence[str]) -> th.Tensor:
    """
    Look up the tokens of both answers.

    :param tokenizer: of transformers
    :param answers: yes and no
    :return: their ids, (2,) int64
    :raises RewardModelError: if there are not two, one is not a single token, or both are the same
    """
    if len(answers) != 2:
        raise RewardModelError(f"answers is {tuple(answers)!r}; expected two, yes and no, such as {ANSWERS!r}.")
    ids = [answer_id(tokenizer, answer) for answer in answers]
    if ids[0] == ids[1]:
        raise RewardModelError(
            f"The answers {answers[0]!r} and {answers[1]!r} are the same token to this model's tokenizer; expected two "
            "that differ. Pass other answers, such as answers=('yes', 'no')."
        )
    return th.tensor(ids)


def answer_loss(log_probs: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """
    Negative log-likelihood of the answers, weighted by the pseudo-reward p: -(p log P(yes) + (1 - p) log P(no)).

    :param log_probs: of yes and no among all tokens, (N, 2) nats
    :param targets: p, (N,) in [0, 1]: a label of 0 or 1, or progress
    :return: mean over N, scalar
    """
    weights = th.stack([targets, 1.0 - targets], dim=-1).to(log_probs)
    return -(weights * log_probs).sum(dim=-1).mean()
