"""Weights to train from scratch with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch as th
from torch import nn

from vla_algos.models.openvla.vision import VisionTower
from vla_gym.spec import N_BINS

if TYPE_CHECKING:
    from vla_algos.models.openvla.model import OpenVLA

# the last layer of each branch that adds to a residual stream
RESIDUAL_BRANCH_ENDS = ("attn.proj", "mlp.fc2", "o_proj", "down_proj")


@th.no_grad()
def init_weights(model: OpenVLA) -> None:
    """
    Initialise for training from scratch.

    A decision is read at a token that is the same for all observations. The scales make what that token attends to
    outweigh the token itself from the first step on; found by experiment on the nano preset, which with
    transformers' 0.02 everywhere spends thousands of updates before it looks at its inputs.
    """
    config = model.config
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and name != "language_model.lm_head":
            depth = config.llm.layers if name.startswith("language_model") else config.towers[0].depth
            n_summands = 2 * depth if name.endswith(RESIDUAL_BRANCH_ENDS) else 1
            nn.init.normal_(module.weight, std=(module.weight[0].numel() * n_summands) ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, VisionTower):
            nn.init.normal_(module.pos_embed, std=0.5)
    model.language_model.model.embed_tokens.weight.mul_(0.2)
    if config.proprio_dim:
        model.proprio_encoder.fc2.weight.mul_(3)
    # a policy that starts close to uniform, and values that start close to 0
    model.language_model.lm_head.weight[config.llm.vocab - N_BINS : config.llm.vocab].mul_(0.1)
    if config.value_head_width:
        model.value_head.fc2.weight.mul_(0.01)
