"""Low-rank adapters: train a small addition to each linear layer instead of the layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from torch import nn

from vla_algos.errors import MissingPackageError
from vla_algos.models.openvla.model import OpenVLA

ADAPTER = "default"
TRAINED_IN_FULL = ("value_head.", "proprio_encoder.")
"""Small parts that a released checkpoint does not have."""


def add_lora(model: OpenVLA, rank: int = 32, alpha: float = 16, dropout: float = 0.0) -> OpenVLA:
    """
    Put an adapter around every linear layer of vision, projector and language model, and freeze the rest.

    Reference: Hu et al. 2021 (https://arxiv.org/abs/2106.09685). The head over the vocabulary gets none, as in OpenVLA;
    value head and proprioception encoder are trained in full. A fresh adapter adds zero.

    :param model: changed in place
    :param rank: of the addition
    :param alpha: the addition is scaled by ``alpha / rank``
    :param dropout: on the adapters' inputs
    :return: the model
    :raises MissingPackageError: without peft
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise MissingPackageError("LoRA needs peft. Run: pip install vla-gym[lora]") from error
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(TRAINED_IN_FULL) and not name.endswith("lm_head")
    ]
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        if name.startswith(TRAINED_IN_FULL):
            parameter.requires_grad_(True)
    return model


@contextmanager
def adapters_disabled(model: OpenVLA) -> Iterator[None]:
    """
    Let the model compute without its adapters inside the block.

    :param model: with or without adapters
    """
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    learning = {name: p.requires_grad for name, p in model.named_parameters()} if layers else {}
    for layer in layers:
        layer.enable_adapters(False)  # type: ignore[operator]
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)  # type: ignore[operator]
        # switching them on makes them learn, whether they did before or not
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learning.get(name, parameter.requires_grad))


@th.no_grad()
def merged_state_dict(model: OpenVLA) -> dict[str, th.Tensor]:
    """
    Weights under the names of a model without adapters, with these added in.

    :param model: with or without adapters; it stays as it is
    :return: name -> tensor
    """
    state = model.state_dict()
    merged = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        if plain != name and name.endswith(".weight"):
            layer = model.get_submodule(name.removesuffix(".base_layer.weight"))
            tensor = tensor + layer.get_delta_weight(ADAPTER).to(tensor.dtype)  # type: ignore[operator]
        merged[plain] = tensor
    return merged
