"""Resizing parts of many images at once, on any device, as Pillow resizes one image of 8 bits: filters, edges, roundings.

Each axis is a product of matrices, along the rows first. Pillow's coefficients have 22 binary places. They are split into
a coarse and a fine part, whose sums float32 holds exactly: results are Pillow's to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smope_bench.benchmarks.augmentation import Interpolation

PLACES = float(1 << 22)
COARSE = float(1 << 11)
CHUNK = 32
REACH: dict[Interpolation, float] = {"bilinear": 1.0, "bicubic": 2.0}


@dataclass(frozen=True)
class Axis:
    """One axis of a resize; ``spans``: float64 (4, B), start, length, total and first of each image.

    Pixels [start, start + length) become ``total`` pixels, of which those from ``first`` on are made. Nothing outside
    the part is mixed in, but where it begins or ends within a pixel. ``step``: the largest length / total of the batch,
    kept as a number so that no device is waited for.
    """

    spans: Tensor
    step: float

    @classmethod
    def of(cls, start: Tensor, length: Tensor | int, total: Tensor | int, first: Tensor | int = 0) -> Axis:
        """Parts of images, tensors (B,) on the CPU or numbers for all."""
        shape = start.double()
        spans = torch.stack([torch.as_tensor(each).double().expand_as(shape) for each in (start, length, total, first)])
        return cls(spans, float((spans[1] / spans[2]).max()) if len(start) else 1.0)

    def with_spans(self, spans: Tensor) -> Axis:
        """The same axis with its numbers on another device."""
        return replace(self, spans=spans)


@dataclass(frozen=True)
class Parts:
    """The part of each image that is resized. ``flip``: bool (B,), which of the results are mirrored; None: none."""

    vertical: Axis
    horizontal: Axis
    flip: Tensor | None = None

    @classmethod
    def of(cls, boxes: Tensor, size: int, flip: Tensor | None = None) -> Parts:
        """Boxes (B, 4): top, left, height, width, which become squares of ``size``."""
        top, left, height, width = boxes.unbind(dim=1)
        return cls(Axis.of(top, height, size), Axis.of(left, width, size), flip)

    def to(self, device: torch.device) -> Parts:
        """The same parts with their numbers on ``device``."""
        vertical, horizontal = (axis.with_spans(axis.spans.to(device)) for axis in (self.vertical, self.horizontal))
        return Parts(vertical, horizontal, None if self.flip is None else self.flip.to(device))


def resized(images: Tensor, parts: Parts, size: int, interpolation: Interpolation = "bilinear") -> Tensor:
    """Resize a part of each image: uint8 (B, H, W, 3) to float32 (B, 3, size, size) of whole numbers 0 to 255.

    Images and parts are on the same device.
    """
    rows = _taps(parts.vertical, images.shape[1], size, interpolation)
    columns = _taps(parts.horizontal, images.shape[2], size, interpolation)
    if parts.flip is not None:
        mirrored = parts.flip.view(-1, 1, 1)
        columns = (
            torch.where(mirrored, columns[0].flip(1), columns[0]),
            torch.where(mirrored, columns[1].flip(1), columns[1]),
        )
    out = torch.empty(len(images), 3, size, size, dtype=torch.float32, device=images.device)
    # Mixed precision would round pixels to 8 bits of mantissa here, and TF32 weights to 11.
    kind = images.device.type
    cast = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else contextlib.nullcontext()
    with cast, _full_float32():
        for start in range(0, len(images), CHUNK):
            some = slice(start, start + CHUNK)
            pixels = images[some].permute(0, 3, 1, 2).float()
            for taps in (columns, rows):
                # The result has its axes exchanged, so that the second product runs along the columns.
                pixels = _along_last(pixels, taps, some).transpose(-1, -2)
            out[some] = pixels
    return out


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """Products of float32 without TF32, whatever the run's precision."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _along_last(pixels: Tensor, taps: tuple[Tensor, Tensor], some: slice) -> Tensor:
    """Resize along the last axis to whole numbers 0 to 255, halves rounded up."""
    coarse, fine = (weights.transpose(-1, -2) for weights in _dense(taps, some, pixels))
    whole = (pixels @ coarse).add_(0.5)
    # Adding the fine sum to the coarse one would round; added to what the coarse one has behind the point it does not.
    rounded = whole.floor()
    rest = whole.sub_(rounded).add_(pixels @ fine)
    return rounded.add_(rest.floor_()).clamp_(0, 255)


def _taps(axis: Axis, side: int, size: int, interpolation: Interpolation) -> tuple[Tensor, Tensor]:
    """Which pixels each result is made of, int64 (B, size, K), and their weights, float64, by Pillow's steps.

    Every step is one IEEE operation, in Pillow's order, so that all devices give the same bits.
    """
    start, length, total, first = (each.view(-1, 1) for each in axis.spans)
    origin = start.floor()
    step = length / total
    widen = step.clamp(min=1)
    reach = REACH[interpolation] * widen
    places = torch.arange(size, device=start.device)
    centre = (start - origin) + (places + first + 0.5) * step
    limit = torch.ceil(start - origin + length).minimum(side - origin)
    low = (centre - reach + 0.5).trunc().clamp(min=0)
    high = (centre + reach + 0.5).trunc().minimum(limit)
    count = min(
        int(2 * REACH[interpolation] * max(axis.step, 1.0)) + 2, side
    )  # at least the most pixels under a filter
    base = (origin + low).clamp(max=side - count)
    places = base.unsqueeze(-1) + torch.arange(count, device=start.device)
    inside = places - origin.unsqueeze(-1)
    weights = _kernel((inside - centre.unsqueeze(-1) + 0.5) * (1 / widen).unsqueeze(-1), interpolation)
    weights = weights * ((inside >= low.unsqueeze(-1)) & (inside < high.unsqueeze(-1)))
    summed = weights[..., 0]
    for tap in range(1, count):  # a device's own sum has an order of its own
        summed = summed + weights[..., tap]
    weights = weights / summed.unsqueeze(-1)
    return places.long(), (weights.abs() * PLACES + 0.5).floor() * weights.sign() / PLACES


def _kernel(x: Tensor, interpolation: Interpolation) -> Tensor:
    x = x.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp(min=0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _dense(taps: tuple[Tensor, Tensor], some: slice, pixels: Tensor) -> list[Tensor]:
    """Coarse and fine weights (b, 1, size, side) of some images, on the pixels' device."""
    places, weights = taps[0][some], taps[1][some]
    coarse = (weights * COARSE).round() / COARSE
    empty = pixels.new_zeros(*places.shape[:2], pixels.shape[-1])
    parts = (coarse.float(), (weights - coarse).float())
    return [empty.scatter(2, places, part).unsqueeze(1) for part in parts]
