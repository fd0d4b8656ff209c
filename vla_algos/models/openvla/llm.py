"""
One pass through the layers of a ``LlamaForCausalLM``, for prefill, cached steps and training alike.

The weights and modules are those of transformers, so key names match and adapters put around its linear layers act.
Its own forward serves as the reference in tests. Design choices: left-aligned batches with explicit positions, a
preallocated cache, and a last layer that computes only the rows somebody reads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch as th
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vla_algos.models.kv_cache import KVCache
from vla_algos.models.openvla.attention import attend
from vla_algos.models.openvla.config import LLMConfig
from vla_algos.models.openvla.config_checks import MAX_POSITIONS
from vla_algos.models.transformers_import import LlamaConfig, LlamaForCausalLM, LlamaRotaryEmbedding


def build_llama(config: LLMConfig) -> LlamaForCausalLM:
    """
    The language model with transformers' own initialisation.

    :param config: sizes
    :return: the model
    """
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.rows,
            hidden_size=config.hidden,
            intermediate_size=config.mlp,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            rms_norm_eps=config.rms_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
        )
    )


def build_rotary(config: LlamaConfig) -> LlamaRotaryEmbedding:
    """
    Transformers' own rotary embedding, which a model built on the meta device lacks.

    :param config: configuration of the language model
    :return: the module
    """
    return LlamaRotaryEmbedding(config)


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


def run_llama(
    llm: LlamaForCausalLM,
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

    :param llm: the language model
    :param x: (N, S, hidden) input embeddings
    :param positions: (N or 1, S) int64 position of each column
    :param is_real: (N, columns so far) bool, False where a column is filling; None when there is none
    :param rows: (N or 1, R) int64 columns of ``x`` whose hidden states are wanted; None for all
    :param cache: earlier columns, extended by those of ``x``; a filled cache takes one column at a time
    :param recompute: keep no activations for the backward pass but those between layers
    :return: (N, R or S, hidden)
    """
    heads = llm.config.num_attention_heads
    head_dim = llm.config.hidden_size // heads
    base: float = llm.config.rope_parameters["rope_theta"]  # type: ignore[index, assignment]
    cos, sin = (t[positions].unsqueeze(1).to(x.dtype) for t in rotary_table(head_dim, base, x.device))
    n = x.shape[1]
    columns = cache.columns(n) if cache is not None else th.arange(n, device=x.device).unsqueeze(0)
    mask = None if is_real is None else attention_mask(columns, is_real)
    is_causal = mask is None and x.shape[1] > 1
    last = len(llm.model.layers) - 1

    def split(y: th.Tensor) -> th.Tensor:
        return y.view(*y.shape[:2], heads, head_dim).transpose(1, 2)

    def run_layer(i: int, x: th.Tensor) -> th.Tensor:
        layer = llm.model.layers[i]
        attention = layer.self_attn
        y = layer.input_layernorm(x)
        keys, values = rotate(split(attention.k_proj(y)), cos, sin), split(attention.v_proj(y))
        if cache is not None:
            keys, values = cache.append(i, keys, values)
        place, seen, causal = (cos, sin), mask, is_causal
        if i == last and rows is not None:
            x, y = _take(x, rows), _take(y, rows)
            place = (_take(cos.squeeze(1), rows).unsqueeze(1), _take(sin.squeeze(1), rows).unsqueeze(1))
            every = x.new_ones(1, keys.shape[2], dtype=th.bool) if is_real is None else is_real
            seen, causal = attention_mask(rows, every), False
        queries = rotate(split(attention.q_proj(y)), *place)
        y = attend(queries, keys, values, mask=seen, is_causal=causal)
        x = x + attention.o_proj(y.transpose(1, 2).flatten(2))
        return x + layer.mlp(layer.post_attention_layernorm(x))

    for i in range(len(llm.model.layers)):
        x = checkpoint(run_layer, i, x, use_reentrant=False) if recompute else run_layer(i, x)
    return llm.model.norm(x)


def score_rows(llm: LlamaForCausalLM, hidden: th.Tensor, rows: slice) -> th.Tensor:
    """
    Logits of some rows of the vocabulary; under autocast, too, in the type of the weights, as rounding to bfloat16
    would take log-probabilities of an update further from those of sampling time. Adapters of the head are applied to
    these rows alone.

    :param llm: the language model
    :param hidden: (..., hidden)
    :param rows: of the vocabulary
    :return: (..., rows)
    """
    head: Any = llm.lm_head
    weight = head.weight[rows]
    with th.autocast(hidden.device.type, enabled=False):
        scores = F.linear(hidden.to(weight.dtype), weight)
        if hasattr(head, "lora_A") and not (head.merged or head.disable_adapters):
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
