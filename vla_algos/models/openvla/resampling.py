"""
Resizing to the last bit as Pillow and TensorFlow do, on any device, a batch at a time.

Both are a matrix for the rows and one for the columns. float64 holds Pillow's fixed-point sums exactly.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch as th

from vla_gym.type_aliases import Float64Array

_PILLOW_BITS = 22
"""Fraction bits of Pillow's coefficients for 8-bit images."""


def resize_bicubic(images: th.Tensor, size: int) -> th.Tensor:
    """
    ``PIL.Image.resize((size, size), Image.Resampling.BICUBIC)``, equal in every value.

    :param images: (N, 3, H, W) uint8
    :param size: side of the result (px)
    :return: (N, 3, size, size) uint8
    """
    one = float(2**_PILLOW_BITS)
    x = images.double()
    # columns first, rounded to 8 bits in between
    for n_in in (x.shape[-1], x.shape[-2]):
        matrix = th.from_numpy(_pillow_matrix(n_in, size)).to(x.device)
        x = ((x @ matrix.T + one / 2) / one).floor().clamp(0, 255).transpose(-1, -2)
    return x.to(th.uint8)


def resize_lanczos(images: th.Tensor, size: int) -> th.Tensor:
    """
    ``tf.image.resize(..., method="lanczos3", antialias=True)``, rounded; equal but for a grey level in few values.

    :param images: (N, 3, H, W) uint8
    :param size: side of the result (px)
    :return: (N, 3, size, size) uint8
    """
    rows, columns = (th.from_numpy(_lanczos_matrix(n, size)).to(images.device) for n in images.shape[-2:])
    return (rows @ images.double() @ columns.T).round().clamp(0, 255).to(th.uint8)


def crop_centre(images: th.Tensor, area: float = 0.9) -> th.Tensor:
    """
    Cut the centre out and enlarge it to the size of before, as OpenVLA's evaluation does by ``crop_and_resize``.

    :param images: (N, 3, S, S) uint8
    :param area: share of the image that is kept
    :return: (N, 3, S, S) uint8, equal to the original's in every value
    """
    size = images.shape[-1]
    # single precision, in the original's order of operations
    side, last = np.sqrt(np.float32(area)), np.float32(size - 1)
    start, end = (np.float32(1) - side) / np.float32(2), (np.float32(1) + side) / np.float32(2)
    step = (end - start) * last / last
    places = start * last + np.arange(size, dtype=np.float32) * step
    low = th.from_numpy(np.floor(places).astype(np.int64)).to(images.device)
    high = th.from_numpy(np.ceil(places).astype(np.int64)).to(images.device)
    share = th.from_numpy(places - np.floor(places)).to(images.device)
    x = images.float() * float(np.float32(1 / 255))
    left, right = x[..., low], x[..., high]
    x = left + (right - left) * share
    top, bottom = x[..., low, :], x[..., high, :]
    x = top + (bottom - top) * share.unsqueeze(-1)
    # tf.image.convert_image_dtype with saturation
    return (x.clamp(0, 1) * 255.5).to(th.uint8)


def _bicubic(x: Float64Array) -> Float64Array:
    a, x = -0.5, np.abs(x)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def _lanczos(x: Float64Array) -> Float64Array:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


@lru_cache(maxsize=16)
def _pillow_matrix(n_in: int, n_out: int) -> Float64Array:
    """Fixed-point coefficients (n_out, n_in), whole numbers."""
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        centre = (i + 0.5) * scale
        first = max(0, int(centre - 2 * stretch + 0.5))
        last = min(n_in, int(centre + 2 * stretch + 0.5))
        weights = _bicubic((np.arange(first, last, dtype=np.float64) - centre + 0.5) / stretch)
        weights = weights / weights.sum() * 2**_PILLOW_BITS
        matrix[i, first:last] = np.trunc(weights + np.copysign(0.5, weights))
    return matrix


@lru_cache(maxsize=16)
def _lanczos_matrix(n_in: int, n_out: int) -> Float64Array:
    """Weights (n_out, n_in), half-pixel centres, widened where the image shrinks."""
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    centres = (np.arange(n_out) + 0.5) * scale
    weights = _lanczos((np.arange(n_in) + 0.5 - centres[:, None]) / stretch)
    return weights / weights.sum(axis=1, keepdims=True)
