"""Attention, in the type that is best where it runs."""

from __future__ import annotations

import torch as th
from torch.nn import functional as F


def attend(
    queries: th.Tensor,
    keys: th.Tensor,
    values: th.Tensor,
    *,
    mask: th.Tensor | None = None,
    is_causal: bool = False,
) -> th.Tensor:
    """
    Scaled dot-product attention. On a CPU it stays in float32 under autocast: the backward pass of torch's kernel for
    bfloat16 takes more than twice as long there (torch 2.13), and rounds more.

    :param queries: (N, heads, Q, head_dim)
    :param keys: (N, heads, S, head_dim)
    :param values: (N, heads, S, head_dim)
    :param mask: (N or 1, 1, Q, S) bool, True where a query may look; None: everywhere
    :param is_causal: hide later columns instead of a mask
    :return: (N, heads, Q, head_dim), as ``queries``; float32 on a CPU under autocast
    """
    if queries.device.type == "cpu" and th.is_autocast_enabled("cpu"):
        with th.autocast("cpu", enabled=False):
            queries, keys, values = queries.float(), keys.float(), values.float()
            return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=is_causal)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=is_causal)
