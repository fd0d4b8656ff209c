"""Models and inputs shared by the model tests."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch as th

from vla_algos.models import OpenVLA, load_vla


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
