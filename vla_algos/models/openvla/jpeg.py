"""The JPEG round trip that OpenVLA's training data went through, and that its evaluation on LIBERO repeats."""

from __future__ import annotations

import io

import numpy as np
import torch as th
from PIL import Image

from vla_algos.errors import MissingPackageError

QUALITY = 95
_HALF_CHROMA = 2
"""Pillow's name for 4:2:0."""


def jpeg_round_trip(images: th.Tensor) -> th.Tensor:
    """
    Encode and decode as TensorFlow does, equal in every value.

    TensorFlow decodes with the fast integer DCT, which Pillow does not offer and which is up to 14 grey levels away.

    :param images: (N, 3, H, W) uint8
    :return: the same shape and device; the work is done on the CPU
    :raises MissingPackageError: without simplejpeg
    """
    try:
        from simplejpeg import decode_jpeg
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "OpenVLA's image pipeline for LIBERO decodes JPEGs with simplejpeg. Run: pip install vla-gym[openvla]"
        ) from error
    decoded = []
    for image in images.permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=QUALITY, subsampling=_HALF_CHROMA)
        decoded.append(decode_jpeg(file.getvalue(), fastdct=True, fastupsample=False))
    return th.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).to(images.device)
