"""Models and inputs shared by the model tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch as th

from vla_algos.models import OpenVLA, load_vla
from vla_algos.models.openvla.config import LLMConfig
from vla_algos.models.openvla.llm import Llama


class Inputs(NamedTuple):
    images: th.Tensor
    instructions: list[str]
    bins: th.Tensor
    proprio: th.Tensor


@pytest.fixture(scope="session")
def lively_nano() -> OpenVLA:
    """A nano model whose outputs depend strongly on every input (fresh weights are close to uniform)."""
    model = load_vla("nano", seed=0)
    generator = th.Generator().manual_seed(1)
    with th.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                fan_in = parameter[0].numel()
                parameter.normal_(0, 1.5 / fan_in**0.5, generator=generator)
        model.language_model.model.embed_tokens.weight.mul_(8)
    return model.requires_grad_(True)


@pytest.fixture(scope="session")
def inputs() -> Inputs:
    """Four observations whose instructions differ in length; the last word is not in the tokenizer."""
    generator = th.Generator().manual_seed(2)
    texts = [
        "open the drawer",
        "put the bowl on the plate and then put the wine bottle on top of it",
        "turn on the stove",
        "grab the Zeppelin",
    ]
    mean, std = th.tensor([-0.05, 0.03, 0.9, 3.0, -0.1, -0.1, 0.027, -0.027]), 0.1
    return Inputs(
        th.randint(0, 256, (4, 3, 64, 64), generator=generator, dtype=th.uint8),
        texts,
        th.randint(0, 256, (4, 7), generator=generator),
        mean + std * th.randn(4, 8, generator=generator),
    )


@pytest.fixture(scope="session")
def fresh_transformers_llama() -> Callable[[LLMConfig], Any]:
    """Builds transformers' own model, with its own initialisation."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def build(sizes: LLMConfig) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=sizes.rows,
            hidden_size=sizes.hidden,
            intermediate_size=sizes.mlp,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.heads,
            rms_norm_eps=sizes.rms_eps,
            rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_base},
        )
        return LlamaForCausalLM(config)

    return build


@pytest.fixture(scope="session")
def transformers_llama(fresh_transformers_llama) -> Callable[[Llama], Any]:
    """Builds transformers' own model with the weights of ours, as the reference."""

    def build(llm: Llama) -> Any:
        reference = fresh_transformers_llama(llm.config).to(llm.lm_head.weight)
        reference.load_state_dict(llm.state_dict())
        return reference.eval()

    return build
