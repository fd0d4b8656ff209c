"""Random changes of training images, drawn per row and applied to a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch as th
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """
    What to change, and how far; the defaults change nothing. All cameras of a row get the same change.

    :param shift: largest shift along each axis (px); the border is repeated
    :param crop: smallest side of a random square crop, as a share of the whole, in (0, 1]; it is scaled up again
    :param brightness: images are multiplied by a factor within 1 +- this
    :param contrast: distances from the mean grey are multiplied by a factor within 1 +- this
    :param saturation: distances from each pixel's grey are multiplied by a factor within 1 +- this
    :raises ValueError: if a number is out of range
    """

    shift: int = 0
    crop: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.crop <= 1.0:
            raise ValueError(f"crop is {self.crop}; expected a share in (0, 1].")
        for name in ("shift", "brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more.")

    def __call__(self, images: th.Tensor, generator: th.Generator) -> th.Tensor:
        """
        Change a batch.

        :param images: (N, 3 * cameras, H, W) uint8
        :param generator: source of randomness, on the CPU
        :return: as ``images``
        """
        n = len(images)
        if self.shift:
            images = shift(images, th.randint(-self.shift, self.shift + 1, (n, 2), generator=generator))
        if self.crop < 1.0:
            sides = self.crop + (1 - self.crop) * th.rand(n, generator=generator)
            images = crop(images, sides, th.rand(n, 2, generator=generator))
        if self.brightness or self.contrast or self.saturation:
            spans = th.tensor([self.brightness, self.contrast, self.saturation])
            images = jitter_colors(images, 1 + spans * (2 * th.rand(n, 3, generator=generator) - 1))
        return images


def shift(images: th.Tensor, offsets: th.Tensor) -> th.Tensor:
    """
    Move each image, repeating its border.

    :param images: (N, C, H, W)
    :param offsets: pixels down and to the right, (N, 2) int64
    :return: as ``images``
    """
    n, c, height, width = images.shape
    offsets = offsets.to(images.device)
    rows = (th.arange(height, device=images.device) - offsets[:, :1]).clamp(0, height - 1)
    columns = (th.arange(width, device=images.device) - offsets[:, 1:]).clamp(0, width - 1)
    moved = images.gather(2, rows[:, None, :, None].expand(n, c, height, width))
    return moved.gather(3, columns[:, None, None, :].expand(n, c, height, width))


def crop(images: th.Tensor, sides: th.Tensor, places: th.Tensor) -> th.Tensor:
    """
    Cut a square out of each image and scale it up to the whole.

    :param images: (N, C, H, W) uint8
    :param sides: side of the square as a share of the image's, (N,) float32
    :param places: where it lies vertically and horizontally, 0 at the top or left edge, 1 at the other, (N, 2) float32
    :return: as ``images``
    """
    # grid coordinates run from -1 to 1
    centres = (2 * places - 1) * (1 - sides.unsqueeze(1))
    zeros = th.zeros_like(sides)
    theta = th.stack([th.stack([sides, zeros, centres[:, 1]], 1), th.stack([zeros, sides, centres[:, 0]], 1)], 1)
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    cut = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return cut.round().clamp(0, 255).to(th.uint8)


def jitter_colors(images: th.Tensor, factors: th.Tensor) -> th.Tensor:
    """
    Change brightness, contrast and saturation.

    :param images: (N, 3 * cameras, H, W) uint8 RGB
    :param factors: of brightness, contrast and saturation, in this order of application, (N, 3) float32
    :return: as ``images``
    """
    n, _, height, width = images.shape
    x = images.reshape(n, -1, 3, height, width).float()
    brightness, contrast, saturation = (f.view(n, 1, 1, 1, 1) for f in factors.to(images.device).unbind(1))
    weights = th.tensor([0.299, 0.587, 0.114], device=images.device).view(3, 1, 1)
    x = (x * brightness).clamp(0, 255)
    mean = (x * weights).sum(2, keepdim=True).mean((3, 4), keepdim=True)
    x = (mean + (x - mean) * contrast).clamp(0, 255)
    grey = (x * weights).sum(2, keepdim=True)
    x = grey + (x - grey) * saturation
    return x.round().clamp(0, 255).to(th.uint8).reshape(images.shape)
