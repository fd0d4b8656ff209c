"""Low-rank adapters: train a small addition to each linear layer instead of the layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn

from vla_algos.common.sequences import as_list
from vla_algos.errors import MissingPackageError, UnknownNameError
from vla_algos.models.openvla.model import OpenVLA

ADAPTER = "default"
ALL_LINEAR = "all-linear"
"""peft's word for every linear layer but the head over the vocabulary."""
TRAINED_IN_FULL = ("value_head.", "proprio_encoder.")
"""Small parts that a released checkpoint does not have."""


def add_lora(
    model: OpenVLA,
    rank: int = 32,
    alpha: float = 16,
    dropout: float = 0.0,
    targets: Sequence[str] | str | None = None,
) -> OpenVLA:
    """
    Put an adapter around linear layers of vision, projector and language model, and freeze the rest.

    Reference: Hu et al. 2021 (https://arxiv.org/abs/2106.09685). The head over the vocabulary gets none unless a target
    names it; value head and proprioception encoder are trained in full. What is trained is float32, whatever the model
    is. A fresh adapter adds zero.

    :param model: changed in place
    :param rank: of the addition
    :param alpha: the addition is scaled by ``alpha / rank``
    :param dropout: on the adapters' inputs, where the model is in training mode
    :param targets: names of layers, or how these end, such as ``["q_proj"]``; as in peft, a text is "all-linear" or a
        regular expression that a whole name must match; None: every linear layer
    :return: the model
    :raises UnknownNameError: for a target that is no linear layer
    :raises MissingPackageError: without peft
    """
    return put_adapters(model, adapted_names(model, targets), rank, alpha, dropout)


def put_adapters(model: OpenVLA, names: Sequence[str], rank: int, alpha: float, dropout: float) -> OpenVLA:
    """
    As :func:`add_lora`, around the layers of a list.

    :param model: changed in place
    :param names: full names of layers
    :param rank: as for :func:`add_lora`
    :param alpha: as for :func:`add_lora`
    :param dropout: as for :func:`add_lora`
    :return: the model
    :raises MissingPackageError: without peft
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise MissingPackageError("LoRA needs peft. Run: pip install vla-gym[lora]") from error
    # an expression of whole names: in a list, a name would also stand for those that end like it
    pattern = "|".join(re.escape(name) for name in names)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern)  # type: ignore[arg-type]
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for layer in _layers(model).values():
        # what was put in is in training mode
        layer.train(layer.base_layer.training)
    for name, parameter in model.named_parameters():
        if name.startswith(TRAINED_IN_FULL):
            parameter.requires_grad_(True)
        if parameter.requires_grad:
            # in bfloat16 most steps of a small learning rate would round to nothing
            parameter.data = parameter.data.float()
    return model


def adapted_names(model: OpenVLA, targets: Sequence[str] | str | None = None) -> list[str]:
    """
    Names of the layers that adapters go around.

    :param model: without adapters
    :param targets: as for :func:`add_lora`
    :raises UnknownNameError: for a target that is no linear layer
    """
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(TRAINED_IN_FULL)
    ]
    if targets is None or targets == ALL_LINEAR:
        return [name for name in layers if not name.endswith("lm_head")]
    if not isinstance(targets, str):
        targets = as_list("targets of LoRA", targets, '["q_proj", "v_proj"]')
    unmatched = unmatched_targets(layers, targets)
    if unmatched:
        remedy = (
            f'As in peft, a text is a regular expression over whole names; for names give a list: ["{targets}"].'
            if isinstance(targets, str)
            else f'Or give "{ALL_LINEAR}".'
        )
        raise UnknownNameError(
            "target of LoRA", unmatched[0], sorted({name.rsplit(".", 1)[-1] for name in layers}), remedy
        )
    return [name for name in layers if is_target(name, targets)]


def is_target(name: str, targets: Sequence[str] | str) -> bool:
    """
    Whether a layer is meant, by peft's rule.

    :param name: full name of the layer
    :param targets: names or how these end; a text is a regular expression over the whole name
    :raises UnknownNameError: if the text is no regular expression
    """
    if not isinstance(targets, str):
        return any(name == target or name.endswith(f".{target}") for target in targets)
    try:
        return re.fullmatch(targets, name) is not None
    except re.error as error:
        raise UnknownNameError("target of LoRA", targets, [ALL_LINEAR], f"No regular expression ({error}).") from error


def unmatched_targets(names: Sequence[str], targets: Sequence[str] | str) -> list[str]:
    """
    Targets that no layer answers to.

    :param names: of the layers
    :param targets: as for :func:`is_target`; a text counts as one target
    """
    single: list[Sequence[str] | str] = [targets] if isinstance(targets, str) else [[target] for target in targets]
    return [
        target if isinstance(target, str) else target[0]
        for target in single
        if not any(is_target(name, target) for name in names)
    ]


def lora_of(model: OpenVLA) -> dict[str, Any] | None:
    """
    How a model is adapted.

    :param model: with or without adapters
    :return: ``r``, ``lora_alpha``, ``lora_dropout``, ``target_modules``, by peft's names; None without adapters
    """
    layers = _layers(model)
    if not layers:
        return None
    layer = next(iter(layers.values()))
    dropout = layer.lora_dropout[ADAPTER]
    return {
        "r": layer.r[ADAPTER],
        "lora_alpha": layer.lora_alpha[ADAPTER],
        "lora_dropout": getattr(dropout, "p", 0.0),
        "target_modules": list(layers),
    }


def merge_adapters(model: OpenVLA) -> None:
    """
    Add the adapters to the weights they adapt, to act faster; until :func:`unmerge_adapters` they do not learn.

    :param model: with or without adapters, changed in place
    """
    for layer in _layers(model).values():
        layer.merge()


def unmerge_adapters(model: OpenVLA) -> None:
    """
    Inverse of :func:`merge_adapters`, up to rounding in the type of the weights.

    :param model: with or without adapters, changed in place
    """
    for layer in _layers(model).values():
        if layer.merged:
            layer.unmerge()


def is_merged(model: OpenVLA) -> bool:
    """
    Whether adapters are added to the weights they adapt.

    :param model: with or without adapters
    """
    return any(layer.merged for layer in _layers(model).values())


def _layers(model: nn.Module) -> dict[str, Any]:
    """Adapted layers by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


@contextmanager
def adapters_disabled(model: nn.Module) -> Iterator[None]:
    """
    Let the model compute without its adapters inside the block.

    :param model: with or without adapters; merged ones are taken out and merged again, up to rounding
    """
    layers = list(_layers(model).values())
    merged = [layer for layer in layers if layer.merged]
    for layer in merged:
        layer.unmerge()
    learning = {name: p.requires_grad for name, p in model.named_parameters()} if layers else {}
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for layer in merged:
            layer.merge()
        # switching them on makes them learn, whether they did before or not
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learning.get(name, parameter.requires_grad))


@th.no_grad()
def merged_weights(model: OpenVLA, dtype: th.dtype | None = None) -> Iterator[tuple[str, th.Tensor]]:
    """
    Weights under the names of a model without adapters, with these added in, one by one to spare memory.

    :param model: with or without adapters; it stays as it is
    :param dtype: of the result, rounded to once; None: that of each weight
    :return: names and tensors, without gradients
    """
    for name, tensor in model.state_dict().items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        if plain != name and name.endswith(".weight"):
            layer = model.get_submodule(name.removesuffix(".base_layer.weight"))
            if not layer.merged:
                yield plain, (tensor + layer.get_delta_weight(ADAPTER)).to(dtype or tensor.dtype)  # type: ignore[operator]
                continue
        yield plain, tensor.to(dtype or tensor.dtype)
