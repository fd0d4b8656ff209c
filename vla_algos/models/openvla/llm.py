"""
The Llama language model, for prefill, cached steps and training alike.

Parameters have the names and shapes of transformers' ``LlamaForCausalLM``, so checkpoints and adapters fit both; its
forward is the reference in tests. Design choices: left-aligned batches with explicit positions, a preallocated cache,
and a last layer that computes only the wanted rows. Every layer is called as a module, so hooks on it run, such as
those of FSDP2's ``fully_shard``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch as th
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vla_algos.models.kv_cache import KVCache
from vla_algos.models.openvla.attention import attend
from vla_algos.models.openvla.config import LLMConfig
from vla_algos.models.openvla.config_checks import MAX_POSITIONS

INITIAL_STD = 0.02
"""Standard deviation of fresh weights, as in transformers."""


@lru_cache(maxsize=16)
def rotary_table(head_dim: int, base: float, device: th.device) -> tuple[th.Tensor, th.Tensor]:
    """
    Cosines and signed sines of the rotary position embedding.

    :param head_dim: channels of one head
    :param base: base of the frequencies
    :param device: where the tables go
    :return: two tables (MAX_POSITIONS, head_dim) float32; the sines of the first half carry a minus
    """
    frequencies = base ** (-th.arange(0, head_dim, 2, device=device).float() / head_dim)
    angles = th.arange(MAX_POSITIONS, device=device).float().unsqueeze(1) * frequencies
    cos, sin = angles.cos(), angles.sin()
    return th.cat([cos, cos], dim=-1), th.cat([-sin, sin], dim=-1)


def rotate(x: th.Tensor, cos: th.Tensor, sin: th.Tensor) -> th.Tensor:
    """
    Apply the rotary position embedding.

    :param x: (N, heads, S, head_dim)
    :param cos: (N or 1, 1, S, head_dim)
    :param sin: as ``cos``, signed
    :return: as ``x``
    """
    return th.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def attention_mask(queries: th.Tensor, is_real: th.Tensor) -> th.Tensor:
    """
    Causal mask that also hides filling.

    :param queries: (N or 1, Q) column of each query
    :param is_real: (N or 1, S) bool, False where a column is filling
    :return: (N or 1, 1, Q, S) bool, True where a query may look
    """
    columns = th.arange(is_real.shape[1], device=is_real.device)
    return ((columns <= queries.unsqueeze(-1)) & is_real.unsqueeze(1)).unsqueeze(1)


class Step(NamedTuple):
    """What all layers of one pass share; letters as in :class:`Llama`."""

    place: tuple[th.Tensor, th.Tensor]
    """Cosines and signed sines (N or 1, 1, S, head_dim) of the columns, in the type of the hidden states."""
    mask: th.Tensor | None
    """(N or 1, 1, S, columns so far) bool, True where a query may look; None: everywhere, or causal."""
    is_causal: bool
    """Whether queries look at earlier columns only; without a mask."""
    cache: KVCache | None
    """Extended by each layer."""


class Queries(NamedTuple):
    """Columns whose hidden states are wanted, where these are not all."""

    rows: th.Tensor
    """(N or 1, R) int64 columns."""
    place: tuple[th.Tensor, th.Tensor]
    """As ``Step.place``, of these columns."""
    mask: th.Tensor
    """(N or 1, 1, R, columns so far) bool, True where a query may look."""


class RMSNorm(nn.Module):
    """
    Root-mean-square norm, computed in float32.

    :param width: channels
    :param eps: added to the mean square
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(th.ones(width))
        self.eps = eps

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Same shape and type out as in."""
        if x.device.type == "cpu" and x.dtype == self.weight.dtype == th.float32:
            # the same to the bit, in one call
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        y = x.float()
        y = y * th.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)


class SelfAttention(nn.Module):
    """
    Causal multi-head attention with rotary positions.

    :param config: sizes
    :param index: of the layer, in the cache
    """

    def __init__(self, config: LLMConfig, index: int) -> None:
        super().__init__()
        self.heads, self.index = config.heads, index
        self.q_proj = nn.Linear(config.hidden, config.hidden, bias=False)
        self.k_proj = nn.Linear(config.hidden, config.hidden, bias=False)
        self.v_proj = nn.Linear(config.hidden, config.hidden, bias=False)
        self.o_proj = nn.Linear(config.hidden, config.hidden, bias=False)

    def forward(self, x: th.Tensor, step: Step, queries: Queries | None) -> th.Tensor:
        """(N, S, hidden) to (N, R or S, hidden)."""
        keys, values = rotate(self._split(self.k_proj(x)), *step.place), self._split(self.v_proj(x))
        if step.cache is not None:
            keys, values = step.cache.append(self.index, keys, values)
        place, mask, is_causal = step.place, step.mask, step.is_causal
        if queries is not None:
            x, place, mask, is_causal = _take(x, queries.rows), queries.place, queries.mask, False
        y = attend(rotate(self._split(self.q_proj(x)), *place), keys, values, mask=mask, is_causal=is_causal)
        return self.o_proj(y.transpose(1, 2).flatten(2))

    def _split(self, x: th.Tensor) -> th.Tensor:
        """(N, S, hidden) to (N, heads, S, head_dim)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class GatedMLP(nn.Module):
    """
    Two linear layers whose hidden channels a third one gates.

    :param config: sizes
    """

    def __init__(self, config: LLMConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden, config.mlp, bias=False)
        self.up_proj = nn.Linear(config.hidden, config.mlp, bias=False)
        self.down_proj = nn.Linear(config.mlp, config.hidden, bias=False)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Same shape out as in."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """
    Attention and MLP, each behind a norm and added to its input.

    :param config: sizes
    :param index: of the layer, in the cache
    """

    def __init__(self, config: LLMConfig, index: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config, index)
        self.mlp = GatedMLP(config)
        self.input_layernorm = RMSNorm(config.hidden, config.rms_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.rms_eps)

    def forward(self, x: th.Tensor, step: Step, queries: Queries | None = None) -> th.Tensor:
        """
        Run the layer.

        :param x: (N, S, hidden)
        :param step: what all layers share
        :param queries: columns to compute; None for all
        :return: (N, R or S, hidden)
        """
        y = self.self_attn(self.input_layernorm(x), step, queries)
        x = (x if queries is None else _take(x, queries.rows)) + y
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """
    Embedding, layers and final norm, which transformers calls ``model``.

    :param config: sizes
    """

    def __init__(self, config: LLMConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.rows, config.hidden)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.rms_eps)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=INITIAL_STD)


class Head(nn.Linear):
    """Logits of the vocabulary, or of a slice of it."""

    def forward(self, hidden: th.Tensor, rows: slice = slice(None)) -> th.Tensor:
        """
        Compute in the type of the weights, under autocast too: rounding to bfloat16 would take the log-probabilities
        of an update further from those of sampling.

        :param hidden: (..., hidden)
        :param rows: of the vocabulary
        :return: (..., rows)
        """
        with th.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.to(self.weight.dtype), self.weight[rows])


class Llama(nn.Module):
    """
    Language model over input embeddings.

    Letters in shapes: N sequences, S new columns, R wanted columns.

    :param config: sizes
    """

    def __init__(self, config: LLMConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = Head(config.hidden, config.rows, bias=False)
        nn.init.normal_(self.lm_head.weight, std=INITIAL_STD)

    def forward(
        self,
        x: th.Tensor,
        positions: th.Tensor,
        *,
        is_real: th.Tensor | None = None,
        rows: th.Tensor | None = None,
        cache: KVCache | None = None,
        recompute: bool = False,
    ) -> th.Tensor:
        """
        Hidden states after the final norm.

        :param x: (N, S, hidden) input embeddings
        :param positions: (N or 1, S) int64 position of each column
        :param is_real: (N, columns so far) bool, False where a column is filling; None when there is none
        :param rows: (N or 1, R) int64 columns of ``x`` whose hidden states are wanted; None for all
        :param cache: earlier columns, extended by those of ``x``; a filled cache takes one column at a time
        :param recompute: keep no activations for the backward pass but those between layers
        :return: (N, R or S, hidden)
        """
        head_dim = self.config.hidden // self.config.heads
        table = rotary_table(head_dim, self.config.rope_base, x.device)
        cos, sin = (t[positions].unsqueeze(1).to(x.dtype) for t in table)
        n = x.shape[1]
        columns = cache.columns(n) if cache is not None else th.arange(n, device=x.device).unsqueeze(0)
        mask = None if is_real is None else attention_mask(columns, is_real)
        step = Step((cos, sin), mask, mask is None and n > 1, cache)
        queries = None
        if rows is not None:
            seen = n if cache is None else cache.n_seen(n)
            every = x.new_ones(1, seen, dtype=th.bool) if is_real is None else is_real
            place = (_take(cos.squeeze(1), rows).unsqueeze(1), _take(sin.squeeze(1), rows).unsqueeze(1))
            queries = Queries(rows, place, attention_mask(rows, every))
        *layers, last = self.model.layers
        for layer, wanted in [*((layer, None) for layer in layers), (last, queries)]:
            if recompute:
                x = checkpoint(layer, x, step, wanted, use_reentrant=False)
            else:
                x = layer(x, step, wanted)
        return self.model.norm(x)

    def score(self, hidden: th.Tensor, rows: slice) -> th.Tensor:
        """
        Logits of a slice of the vocabulary. Adapters of the head are applied to these rows alone.

        :param hidden: (..., hidden)
        :param rows: of the vocabulary
        :return: (..., rows)
        """
        head: Any = self.lm_head
        if not hasattr(head, "lora_A"):
            return head(hidden, rows)
        scores = head.base_layer(hidden, rows)
        if head.merged or head.disable_adapters:
            return scores
        with th.autocast(hidden.device.type, enabled=False):
            for name in head.active_adapters:
                down, up = head.lora_A[name].weight, head.lora_B[name].weight[rows]
                inputs = head.lora_dropout[name](hidden.to(down.dtype))
                added = F.linear(F.linear(inputs, down), up) * head.scaling[name]
                scores = scores + added.to(scores.dtype)
        return scores


def _take(x: th.Tensor, rows: th.Tensor) -> th.Tensor:
    """Columns ``rows`` (N or 1, R) of ``x`` (N or 1, S, width)."""
    if len(rows) == 1:
        return x[:, rows[0]]
    return x.expand(len(rows), -1, -1).gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
