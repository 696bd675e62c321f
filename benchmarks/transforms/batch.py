"""From stored images to the network's input: augmentation, cropping and normalisation, batched on the device.

Every random number is drawn on the CPU, so the same generator gives the same images on every device. Pictures are cut
by Pillow, as official loaders do, to the bit; stored arrays on an accelerator are cut there, by Pillow's arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional

from smope_bench.benchmarks.augmentation import (
    Affine,
    Augmentation,
    Interpolation,
    NoAugmentation,
    Normalize,
    RandomResizedCrop,
    statistics_of,
)
from smope_bench.benchmarks.base import BenchmarkConfig
from smope_bench.benchmarks.image_store.arrays import Encoded, Finished, Raw, Squeezed
from smope_bench.benchmarks.image_store.pictures import (
    Crop,
    Frame,
    cropped,
    framed,
    in_threads,
    open_picture,
    picture_size,
)
from smope_bench.benchmarks.transforms.crops import Crops, draw_crops
from smope_bench.benchmarks.transforms.resample import Axis, Parts, resized

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Transforms:
    """Transforms of a benchmark's configuration.

    ``train`` and ``test`` take a raw batch (arrays and tensors: uint8 (B, H, W, 3)) and return float32
    (B, 3, S, S) on the device, S = image_size.
    """

    image_size: int
    augment: Augmentation
    normalize: Normalize = "none"
    test_resize: int | None = None
    test_interpolation: Interpolation = "bilinear"

    @classmethod
    def from_config(cls, config: BenchmarkConfig) -> Transforms:
        """The transforms of a configuration."""
        return cls(config.image_size, config.augment, config.normalize, config.test_resize, config.test_interpolation)

    @property
    def is_deterministic(self) -> bool:
        """Whether training images have no random augmentation, so that frozen features can be computed once."""
        return isinstance(self.augment, NoAugmentation)

    @property
    def frame(self) -> Frame:
        """The test transform."""
        return Frame(self.image_size, self.test_resize, self.test_interpolation)

    @torch.no_grad()
    def train(self, raw: Raw | Tensor, generator: Generator, device: torch.device = CPU) -> Tensor:
        """Augment and normalise; draws from ``generator`` (a CPU generator) unless ``is_deterministic``."""
        if isinstance(self.augment, RandomResizedCrop):
            return self._normalized(self._cropped(raw, self.augment, generator, device), raw)
        pixels = self._framed(raw, device)
        if isinstance(self.augment, Affine):
            pixels = random_affine(pixels, self.augment, generator)
        return self._normalized(pixels, raw)

    @torch.no_grad()
    def test(self, raw: Raw | Tensor, device: torch.device = CPU) -> Tensor:
        """Resize or crop, then normalise; nothing is drawn."""
        return self._normalized(self._framed(raw, device), raw)

    def _cropped(
        self, raw: Raw | Tensor, config: RandomResizedCrop, generator: Generator, device: torch.device
    ) -> Tensor:
        """Random boxes, mirrored and brightened: float32 (B, 3, S, S) in [0, 1]."""
        size, sizes = self.image_size, _sizes(raw)
        crops = draw_crops(sizes, config, generator)
        if not isinstance(raw, Encoded):
            crops = replace(crops, boxes=_within(crops.boxes, sizes, _pixels(raw)))
            if device.type != "cpu":
                return crops_of_arrays(_pixels(raw).to(device), crops, size, config.interpolation) / 255
        jobs = list(zip(_openers(raw), _one_by_one(crops), strict=True))
        return _unit(in_threads(lambda job: cropped(job[0](), job[1], size, config.interpolation), jobs), size, device)

    def _framed(self, raw: Raw | Tensor, device: torch.device) -> Tensor:
        """The test transform without normalisation: float32 (B, 3, S, S) in [0, 1]."""
        frame, size = self.frame, self.image_size
        if not isinstance(raw, Encoded):
            pixels = _pixels(raw)
            if isinstance(raw, Finished) or (frame.resize is None and pixels.shape[1:3] == (size, size)):
                return _unit(pixels, size, device)
            if device.type != "cpu":
                return frames_of_arrays(pixels.to(device), _sizes(raw), frame) / 255
        shapes = [(height, width) for height, width in _sizes(raw).tolist()]
        jobs = list(zip(_openers(raw), shapes, strict=True))
        return _unit(in_threads(lambda job: framed(job[0](), frame, job[1]), jobs), size, device)

    def _normalized(self, pixels: Tensor, raw: Raw | Tensor) -> Tensor:
        if isinstance(raw, Encoded) and raw.normalize is not None:
            each = torch.tensor([statistics_of(name) for name in raw.normalize]).view(-1, 2, 3, 1, 1).to(pixels)
            return (pixels - each[:, 0]) / each[:, 1]
        if self.normalize == "none":
            return pixels
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in statistics_of(self.normalize))
        return (pixels - mean) / std


def crops_of_arrays(images: Tensor, crops: Crops, size: int, interpolation: Interpolation) -> Tensor:
    """``pictures.cropped`` of uint8 (B, H, W, 3) on any device: whole numbers (B, 3, S, S)."""
    values = resized(images, Parts.of(crops.boxes, size, crops.flip), size, interpolation)
    if crops.brightness is None:
        return values
    factor = crops.brightness.float().to(images.device).view(-1, 1, 1, 1)
    return (values * factor).clamp_(0, 255).floor_()


def frames_of_arrays(images: Tensor, sizes: Tensor, frame: Frame) -> Tensor:
    """What ``pictures.framed`` does to one picture, to uint8 (B, H, W, 3) on any device: whole numbers (B, 3, S, S)."""
    totals, firsts = (torch.from_numpy(each) for each in frame.lengths(sizes.numpy()))
    start = torch.zeros(len(images))
    vertical, horizontal = (
        Axis(start, torch.full_like(start, images.shape[axis + 1]), totals[:, axis], firsts[:, axis]) for axis in (0, 1)
    )
    return resized(images, Parts(vertical, horizontal), frame.size, frame.interpolation)


def _pixels(raw: Squeezed | Finished | NDArray[np.uint8] | Tensor) -> Tensor:
    """Uint8 (B, H, W, 3)."""
    plain = raw.pixels if isinstance(raw, Squeezed | Finished) else raw
    images = plain if isinstance(plain, Tensor) else torch.from_numpy(plain)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be uint8 of shape (B, H, W, 3), not {images.dtype} {tuple(images.shape)}")
    return images


def _sizes(raw: Raw | Tensor) -> Tensor:
    """Heights and widths of the pictures themselves, int64 (B, 2) on the CPU."""
    if isinstance(raw, Encoded):
        sizes = in_threads(partial(picture_size, upright=raw.upright), raw.files)
        return torch.tensor(sizes, dtype=torch.int64).view(-1, 2)
    if isinstance(raw, Squeezed):
        return torch.from_numpy(raw.sizes)
    pixels = _pixels(raw)
    return torch.tensor(pixels.shape[1:3]).repeat(len(pixels), 1)


def _within(boxes: Tensor, sizes: Tensor, pixels: Tensor) -> Tensor:
    """Boxes of pictures in the coordinates of the stored pixels, to the next 256th of a pixel."""
    stored = torch.tensor(pixels.shape[1:3])
    if bool((sizes == stored).all()):
        return boxes
    scale = stored.double() / sizes
    corner, far = boxes[:, :2] * scale, (boxes[:, :2] + boxes[:, 2:]) * scale
    corner, far = ((each * 256).round() / 256 for each in (corner, far))
    return torch.cat([corner, far - corner], dim=1)


def _openers(raw: Raw | Tensor) -> list[Callable[[], Image.Image]]:
    """What gives each picture of a batch to Pillow."""
    if isinstance(raw, Encoded):
        return [partial(open_picture, data, upright=raw.upright) for data in raw.files]
    return [partial(Image.fromarray, pixels) for pixels in _pixels(raw).cpu().numpy()]


def _one_by_one(crops: Crops) -> list[Crop]:
    count = len(crops.boxes)
    flips = crops.flip.tolist() if crops.flip is not None else [False] * count
    factors = crops.brightness.tolist() if crops.brightness is not None else [None] * count
    drawn = zip(crops.boxes.tolist(), flips, factors, strict=True)
    return [Crop(tuple(box), flip, brightness) for box, flip, brightness in drawn]


def _unit(images: Tensor | Sequence[NDArray[np.uint8]], size: int, device: torch.device) -> Tensor:
    """Uint8 (B, S, S, 3) to float32 (B, 3, S, S) in [0, 1] on the device."""
    if not isinstance(images, Tensor):
        images = torch.from_numpy(np.stack(images) if images else np.empty((0, size, size, 3), np.uint8))
    if images.shape[1:3] != (size, size):
        raise ValueError(f"images of {tuple(images.shape[1:3])} were finished for another image size than {size}")
    planes = torch.empty(len(images), 3, size, size, device=device)
    return planes.copy_(images.to(device).permute(0, 3, 1, 2)).div_(255)


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
