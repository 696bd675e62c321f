"""From stored uint8 images to the network's input: augmentation, cropping and normalisation, batched on the device.

Every random number is drawn on the CPU, so the same generator gives the same images on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from benchmarks.augmentation import Affine, Augmentation, NoAugmentation, Normalize, RandomResizedCrop, TestCrop
from benchmarks.base import BenchmarkConfig

MEAN_AND_STD: dict[Normalize, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
CROP_ATTEMPTS = 10  # torchvision's number of tries before it falls back to a centred box


@dataclass(frozen=True)
class Transforms:
    """What a benchmark's configuration says about the network's input.

    ``train`` and ``test`` take uint8 (B, H, W, 3) on any device and return float32 (B, 3, S, S) there, S = image_size.
    """

    image_size: int
    augment: Augmentation
    normalize: Normalize = "none"
    test_crop: TestCrop = "resize"

    @classmethod
    def from_config(cls, config: BenchmarkConfig) -> Transforms:
        """Read the four fields that matter here."""
        return cls(config.image_size, config.augment, config.normalize, config.test_crop)

    @property
    def is_deterministic(self) -> bool:
        """Whether a training image always looks the same, so that frozen features can be computed once."""
        return isinstance(self.augment, NoAugmentation)

    @torch.no_grad()
    def train(self, images: Tensor, generator: Generator) -> Tensor:
        """Augment and normalise; draws from ``generator`` (a CPU generator) unless ``is_deterministic``."""
        if isinstance(self.augment, RandomResizedCrop):
            return self._normalized(random_resized_crop(_unit(images), self.augment, self.image_size, generator))
        pixels = self._framed(_unit(images))
        if isinstance(self.augment, Affine):
            pixels = random_affine(pixels, self.augment, generator)
        return self._normalized(pixels)

    @torch.no_grad()
    def test(self, images: Tensor) -> Tensor:
        """Resize or crop, then normalise; nothing is drawn."""
        return self._normalized(self._framed(_unit(images)))

    def _framed(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        if (height, width) == (self.image_size, self.image_size):
            return pixels
        if self.test_crop == "centre" and min(height, width) >= self.image_size:
            top, left = round((height - self.image_size) / 2), round((width - self.image_size) / 2)
            return pixels[..., top : top + self.image_size, left : left + self.image_size].contiguous()
        return resized_boxes(pixels, torch.tensor([[0, 0, height, width]]), self.image_size)

    def _normalized(self, pixels: Tensor) -> Tensor:
        if self.normalize == "none":
            return pixels
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in MEAN_AND_STD[self.normalize])
        return (pixels - mean) / std


def _unit(images: Tensor) -> Tensor:
    """Uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [0, 1]."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be uint8 of shape (B, H, W, 3), not {images.dtype} {tuple(images.shape)}")
    return images.permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255


def random_affine(pixels: Tensor, config: Affine, generator: Generator) -> Tensor:
    """Shift, zoom and rotate each image about its centre; float (B, 3, S, S) to the same shape."""
    draw = torch.rand(len(pixels), 4, generator=generator, dtype=torch.float64) * 2 - 1
    zoom = torch.exp(draw[:, 0] * math.log1p(config.scale))
    angle = draw[:, 1] * math.radians(config.rotate)
    # The grid maps output to input positions: hence the inverse zoom. Its unit is half a side, hence the factor two.
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    shift = -2 * config.shift * draw[:, 2:]
    x = cos * shift[:, 0] - sin * shift[:, 1]
    y = sin * shift[:, 0] + cos * shift[:, 1]
    theta = torch.stack([torch.stack([cos, -sin, x], -1), torch.stack([sin, cos, y], -1)], 1)
    grid = functional.affine_grid(theta.float(), list(pixels.shape), align_corners=False)
    return functional.grid_sample(
        pixels, grid.to(pixels.device), mode="bilinear", padding_mode="border", align_corners=False
    )


def random_resized_crop(pixels: Tensor, config: RandomResizedCrop, size: int, generator: Generator) -> Tensor:
    """Cut one random box from each image and resize it; float (B, 3, H, W) to (B, 3, size, size)."""
    boxes = random_boxes(len(pixels), pixels.shape[-2], pixels.shape[-1], config, generator)
    flip = torch.rand(len(pixels), generator=generator) < 0.5 if config.flip else None
    return resized_boxes(pixels, boxes, size, flip)


def random_boxes(count: int, height: int, width: int, config: RandomResizedCrop, generator: Generator) -> Tensor:
    """Draw int64 (count, 4) boxes (top, left, height, width) by torchvision's rule, for all images at once."""
    draw = torch.rand(count, CROP_ATTEMPTS, 2, generator=generator, dtype=torch.float64)
    place = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    area = height * width * (config.scale[0] + (config.scale[1] - config.scale[0]) * draw[..., 0])
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    ratio = torch.exp(low + (high - low) * draw[..., 1])
    wide, tall = torch.round(torch.sqrt(area * ratio)), torch.round(torch.sqrt(area / ratio))
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    tall, wide = tall.gather(1, first).squeeze(1), wide.gather(1, first).squeeze(1)
    top = torch.floor(place[:, 0] * (height - tall + 1))
    left = torch.floor(place[:, 1] * (width - wide + 1))
    boxes = torch.stack([top, left, tall, wide], dim=1).long()
    boxes[~fits.any(dim=1)] = _central_box(height, width, config.ratio)
    return boxes


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> Tensor:
    """The largest centred box whose ratio is allowed: what torchvision takes when no draw has fitted."""
    tall, wide = height, width
    if width / height < ratio[0]:
        tall = round(width / ratio[0])
    elif width / height > ratio[1]:
        wide = round(height * ratio[1])
    return torch.tensor([(height - tall) // 2, (width - wide) // 2, tall, wide])


def resized_boxes(pixels: Tensor, boxes: Tensor, size: int, flip: Tensor | None = None) -> Tensor:
    """Resize boxes of images, bilinear with antialiasing, as one product of matrices an axis.

    ``pixels``: float (B, 3, H, W); ``boxes``: (B, 4) or (1, 4) as in ``random_boxes``; ``flip``: bool (B,) or None.
    Returns (B, 3, size, size). A box is cut before it is resized: nothing outside it is mixed in.
    """
    height, width = pixels.shape[-2:]
    boxes = boxes.to(device=pixels.device, dtype=pixels.dtype)
    rows = _resize_matrix(boxes[:, 0], boxes[:, 2], height, size)
    columns = _resize_matrix(boxes[:, 1], boxes[:, 3], width, size)
    if flip is not None:
        columns = torch.where(flip.to(pixels.device).view(-1, 1, 1), columns.flip(1), columns)
    # Mixed precision would round pixels to 8 bits of mantissa here.
    with torch.autocast(pixels.device.type, enabled=False):
        return rows.unsqueeze(1) @ pixels @ columns.unsqueeze(1).transpose(-1, -2)


def _resize_matrix(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Weights (B, size, side) of a triangle filter, widened when shrinking, over [start, start + length)."""
    step = (length / size).view(-1, 1, 1)
    centres = (torch.arange(size, device=start.device, dtype=start.dtype) + 0.5).view(1, -1, 1) * step
    inside = torch.arange(side, device=start.device, dtype=start.dtype).view(1, 1, -1) - start.view(-1, 1, 1)
    weights = (1 - (inside + 0.5 - centres).abs() / step.clamp(min=1)).clamp(min=0)
    weights = weights * ((inside >= 0) & (inside < length.view(-1, 1, 1)))
    return weights / weights.sum(dim=-1, keepdim=True)
