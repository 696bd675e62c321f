"""What is drawn for training images, for a whole batch at once: boxes by torchvision's rule, flips, brightness, operations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from smope_bench.benchmarks.augmentation import RandomResizedCrop
from smope_bench.benchmarks.transforms.auto_augment import DRAWS

ATTEMPTS = 10  # torchvision's number of tries before it falls back to a centred box


@dataclass(frozen=True)
class Crops:
    """One crop an image. ``boxes``: int64 (B, 4): top, left, height, width; ``flip``: bool (B,); ``brightness``: (B,).

    ``operations``: float64 (B, auto_augment.DRAWS), uniform on [0, 1), of AutoAugment's policy.
    """

    boxes: Tensor
    flip: Tensor | None
    brightness: Tensor | None
    operations: Tensor | None = None


@dataclass(frozen=True)
class CropDraws:
    """The random numbers of the crops of a batch, drawn before the sizes of its images are known.

    ``shapes``: float64 (B, ATTEMPTS, 2) and ``places``: float64 (B, 2), uniform on [0, 1); ``flip``, ``brightness`` and
    ``operations`` as in ``Crops``.
    """

    shapes: Tensor
    places: Tensor
    flip: Tensor | None
    brightness: Tensor | None
    operations: Tensor | None = None

    @classmethod
    def draw(cls, count: int, config: RandomResizedCrop, generator: Generator) -> CropDraws:
        """Draw for ``count`` images from a CPU generator."""
        shapes = torch.rand(count, ATTEMPTS, 2, generator=generator, dtype=torch.float64)
        places = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        flip = torch.rand(count, generator=generator) < 0.5 if config.flip else None
        brightness = None
        if config.brightness:
            brightness = 1 + config.brightness * (torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1)
        operations = None
        if config.policy is not None:
            operations = torch.rand(count, DRAWS, generator=generator, dtype=torch.float64)
        return cls(shapes, places, flip, brightness, operations)

    def crops(self, sizes: Tensor, config: RandomResizedCrop) -> Crops:
        """The crops of images of ``sizes``, int64 (B, 2): heights and widths."""
        return Crops(_boxes(sizes, config, self.shapes, self.places), self.flip, self.brightness, self.operations)


def draw_crops(sizes: Tensor, config: RandomResizedCrop, generator: Generator) -> Crops:
    """Draw from a CPU generator for images of ``sizes``, int64 (B, 2): heights and widths."""
    return CropDraws.draw(len(sizes), config, generator).crops(sizes, config)


def random_boxes(sizes: Tensor, config: RandomResizedCrop, generator: Generator) -> Tensor:
    """Draw int64 (B, 4) boxes (top, left, height, width) within images of ``sizes`` (B, 2)."""
    return draw_crops(sizes, config, generator).boxes


def _boxes(sizes: Tensor, config: RandomResizedCrop, draw: Tensor, place: Tensor) -> Tensor:
    height, width = sizes.double().unsqueeze(-1).unbind(dim=1)
    area = height * width * (config.scale[0] + (config.scale[1] - config.scale[0]) * draw[..., 0])
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    ratio = torch.exp(low + (high - low) * draw[..., 1])
    wide, tall = torch.round(torch.sqrt(area * ratio)), torch.round(torch.sqrt(area / ratio))
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    tall, wide = tall.gather(1, first), wide.gather(1, first)
    extent = torch.cat([tall, wide], dim=1)
    corner = torch.floor(place * (sizes - extent + 1))
    boxes = torch.cat([corner, extent], dim=1).long()
    return torch.where(fits.any(dim=1, keepdim=True), boxes, _central_boxes(sizes, config.ratio))


def _central_boxes(sizes: Tensor, ratio: tuple[float, float]) -> Tensor:
    """The largest centred boxes whose ratio is allowed: what torchvision takes when no draw has fitted."""
    height, width = sizes.unbind(dim=1)
    tall = torch.where(width / height < ratio[0], torch.round(width.double() / ratio[0]).long(), height)
    wide = torch.where(width / height > ratio[1], torch.round(height.double() * ratio[1]).long(), width)
    return torch.stack([(height - tall) // 2, (width - wide) // 2, tall, wide], dim=1)
