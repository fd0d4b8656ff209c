"""The model of a policy: loaded, and fitted to where it shall act and learn."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch as th

from vla_algos.errors import SpaceError
from vla_algos.models import OpenVLA, load_vla
from vla_algos.models.lora import add_lora
from vla_algos.models.openvla.config import PRESETS


def load_actor(
    vla: str | Path,
    vla_kwargs: dict[str, Any],
    chunk_size: int,
    *,
    detach_value: bool | None = None,
    norm_stats: dict[str, Any] | None = None,
    lora: dict[str, Any] | None = None,
) -> OpenVLA:
    """
    Load a model that chooses ``chunk_size`` commands per action and has a value head.

    :param vla: preset, which takes the chunk size, or a checkpoint, which must match it
    :param vla_kwargs: further keywords of :func:`vla_algos.models.load_vla`
    :param chunk_size: commands per action
    :param detach_value: whether the value's gradient stops before the backbone; None: as the model says
    :param norm_stats: action statistics; None: those of the checkpoint
    :param lora: keywords of :func:`vla_algos.models.add_lora`; None: no adapters
    :return: the model
    :raises SpaceError: if a checkpoint chooses another number of commands
    """
    model = load_vla(vla, **vla_kwargs)
    config = model.config
    if str(vla) in PRESETS:
        config.chunk_size = chunk_size
    elif config.chunk_size != chunk_size:
        raise SpaceError(
            f"{vla} chooses {config.chunk_size} commands per action, the action space holds {chunk_size}. "
            f"Make the environment with chunk_size={config.chunk_size}."
        )
    if not config.value_head_width:
        # released checkpoints are actors only
        model.add_value_head()
    if detach_value is not None:
        model.detach_value = detach_value
    if norm_stats is not None:
        config.norm_stats, config.statistics_file = norm_stats, None
    if lora is not None:
        add_lora(model, **lora)
    return model


def warn_of_rounding(parameters: Iterable[th.nn.Parameter]) -> None:
    """
    Warn where weights are trained in 16 bits.

    :param parameters: of a policy
    """
    for dtype in {p.dtype for p in parameters if p.requires_grad} & {th.bfloat16, th.float16}:
        warnings.warn(
            f"Weights that can learn are {dtype}, where most steps of a small learning rate round to nothing. Train "
            "adapters (lora={}), or load the model in float32 and let the algorithm compute in bfloat16 "
            "(use_bf16=True).",
            stacklevel=3,
        )
