"""Resizing against Pillow, and the image pipeline against what it must not change."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch as th
from PIL import Image

from vla_algos.errors import MissingPackageError
from vla_algos.models.openvla.jpeg import jpeg_round_trip
from vla_algos.models.openvla.resampling import crop_centre, resize_bicubic, resize_lanczos


def noise(*shape: int) -> th.Tensor:
    return th.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize(("height", "width", "size"), [(256, 256, 224), (50, 90, 224), (300, 200, 64), (64, 64, 64)])
def test_bicubic_is_pillows(height: int, width: int, size: int) -> None:
    images = noise(2, 3, height, width)
    expected = [
        np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BICUBIC))
        for image in images
    ]
    resized = resize_bicubic(images, size).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(resized, np.stack(expected))


@pytest.mark.parametrize(("height", "width", "size"), [(256, 256, 224), (50, 90, 128), (200, 300, 64)])
def test_lanczos_is_near_pillows(height: int, width: int, size: int) -> None:
    # in the middle of the range, as Pillow also clips in between
    image = noise(1, 3, height, width) // 4 + 96
    expected = Image.fromarray(image[0].permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.LANCZOS)
    difference = resize_lanczos(image, size)[0].permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)
    # Pillow rounds in between
    assert np.abs(difference).max() <= 2
    assert np.abs(difference).mean() < 0.3


@pytest.mark.parametrize("resize", [resize_bicubic, resize_lanczos])
def test_a_flat_image_stays_flat(resize) -> None:
    for grey in (0, 1, 127, 255):
        image = th.full((1, 3, 100, 80), grey, dtype=th.uint8)
        assert th.equal(resize(image, 224), th.full((1, 3, 224, 224), grey, dtype=th.uint8))


def test_the_crop_keeps_the_centre() -> None:
    # a ramp: the crop shows its middle part, side sqrt(0.9), over the whole width
    ramp = th.arange(224, dtype=th.uint8).expand(1, 3, 224, 224).contiguous()
    row = crop_centre(ramp)[0, 0, 100].float()
    side = 0.9**0.5
    expected = 223 * ((1 - side) / 2 + th.linspace(0, 1, 224) * side)
    assert (row - expected).abs().max() <= 1.0
    assert th.equal(crop_centre(ramp, 1.0), ramp)


def test_a_jpeg_changes_little_and_something() -> None:
    pytest.importorskip("simplejpeg")
    x = th.arange(64.0)
    smooth = (127 + 60 * th.sin(x / 9)[:, None] + 60 * th.cos(x / 7)).to(th.uint8).expand(2, 3, 64, 64).contiguous()
    decoded = jpeg_round_trip(smooth)
    assert decoded.shape == smooth.shape and decoded.dtype == th.uint8
    difference = (decoded.int() - smooth.int()).abs()
    assert 0 < difference.max() <= 8


def test_without_the_decoder_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.raises(MissingPackageError, match=r"pip install vla-gym\[openvla\]"):
        jpeg_round_trip(noise(1, 3, 8, 8))
