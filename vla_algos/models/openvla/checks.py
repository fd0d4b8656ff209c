"""Inputs that do not fit a model are refused before anything is computed."""

from __future__ import annotations

import torch as th

from vla_algos.errors import ModelInputError
from vla_algos.models.openvla.config import OpenVLAConfig


def check_inputs(config: OpenVLAConfig, n: int, instructions: list[str], proprio: th.Tensor | None) -> None:
    """
    One text per image, and proprioception if and only if the model takes it.

    :param config: of the model
    :param n: number of images
    :param instructions: texts
    :param proprio: (n, proprio_dim), or None
    :raises ModelInputError: if it is otherwise
    """
    dim = config.proprio_dim
    if len(instructions) != n:
        raise ModelInputError(f"{len(instructions)} instructions for {n} images; give one text per image.")
    if dim and (proprio is None or proprio.shape != (n, dim)):
        got = None if proprio is None else tuple(proprio.shape)
        raise ModelInputError(f"Proprioception is {got}; this model needs ({n}, {dim}) float32.")
    if not dim and proprio is not None:
        raise ModelInputError("This model takes no proprioception; pass proprio=None.")


def check_bins(bins: th.Tensor, n: int, steps: int) -> None:
    """
    One bin per action token of each observation.

    :param bins: to be (n, steps) int64
    :param n: number of observations
    :param steps: action tokens of each
    :raises ModelInputError: for another shape or type
    """
    if bins.shape != (n, steps) or bins.dtype != th.int64:
        raise ModelInputError(f"Bins are {tuple(bins.shape)} {bins.dtype}; expected ({n}, {steps}) torch.int64.")


def check_temperature(temperature: float) -> None:
    """
    A temperature divides.

    :param temperature: to be above 0
    :raises ModelInputError: if it is not
    """
    if not temperature > 0:
        raise ModelInputError(f"Temperature is {temperature}; it must be above 0. Use deterministic=True for argmax.")
