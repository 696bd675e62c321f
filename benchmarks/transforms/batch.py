"""From stored images to the network's input: augmentation, cropping and normalisation, batched on the device.

Every random number is drawn on the CPU, so the same generator gives the same images on every device. Pictures are cut
by Pillow, as official loaders do, to the bit; stored arrays on an accelerator are cut there, by Pillow's arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

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
from smope_bench.benchmarks.errors import BenchmarkError
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
from smope_bench.benchmarks.transforms.auto_augment import auto_augmented
from smope_bench.benchmarks.transforms.crops import CropDraws, Crops
from smope_bench.benchmarks.transforms.resample import Axis, Parts, resized
from smope_bench.benchmarks.transforms.staging import (
    HostBuffer,
    MakePicture,
    Normalization,
    Recycler,
    Staged,
    copied_pieces,
    is_host,
    made_pieces,
)

CPU = torch.device("cpu")
Draws = CropDraws | Tensor | None
"""Random numbers of one batch: of crops, of affine maps (float64 (B, 4), uniform on [0, 1)), or none."""
Pieces = Callable[[NDArray[np.generic], Normalization | None], list[Callable[[], None]]]
"""The work that fills an array with the pictures of a batch."""


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
    test_squeeze: bool = False

    @classmethod
    def from_config(cls, config: BenchmarkConfig) -> Transforms:
        """The transforms of a configuration."""
        return cls(
            config.image_size,
            config.augment,
            config.normalize,
            config.test_resize,
            config.test_interpolation,
            config.test_squeeze,
        )

    @property
    def is_deterministic(self) -> bool:
        """Whether training images have no random augmentation, so that frozen features can be computed once."""
        return isinstance(self.augment, NoAugmentation)

    @property
    def frame(self) -> Frame:
        """The test transform."""
        return Frame(self.image_size, self.test_resize, self.test_interpolation, self.test_squeeze)

    def draw(self, count: int, generator: Generator) -> Draws:
        """The random numbers of the augmentation of ``count`` images, in the order of batches, from a CPU generator."""
        if isinstance(self.augment, RandomResizedCrop):
            return CropDraws.draw(count, self.augment, generator)
        if isinstance(self.augment, Affine):
            return torch.rand(count, 4, generator=generator, dtype=torch.float64)
        return None

    @torch.no_grad()
    def train(self, raw: Raw | Tensor, generator: Generator, device: torch.device = CPU) -> Tensor:
        """Augment and normalise; draws from ``generator`` (a CPU generator) unless ``is_deterministic``."""
        return _made(self.stage(raw, device, self.draw(len(raw), generator)))

    @torch.no_grad()
    def test(self, raw: Raw | Tensor, device: torch.device = CPU) -> Tensor:
        """Resize or crop, then normalise; nothing is drawn."""
        return _made(self.stage(raw, device))

    @torch.no_grad()
    def stage(
        self,
        raw: Raw | Tensor,
        device: torch.device,
        draws: Draws = None,
        labels: NDArray[np.int64] | None = None,
        memory: Recycler | None = None,
    ) -> Staged:
        """The batch in the making: what ``train`` does with these ``draws``, what ``test`` does without any.

        ``labels``: int64 (B,), which are moved to the device with the images; ``memory``: that of images on the CPU.
        """
        if isinstance(raw, Encoded) and raw.normalize is not None:
            plain = self.stage(replace(raw, normalize=None), device, draws, labels, memory)
            return replace(plain, finish=partial(_finished_apart, plain.finish, raw.normalize))
        memory = memory or Recycler()
        labels = np.zeros(len(raw), np.int64) if labels is None else labels
        size, crops = self.image_size, None
        if isinstance(draws, CropDraws):
            assert isinstance(self.augment, RandomResizedCrop)
            sizes = _sizes(raw)
            crops = draws.crops(sizes, self.augment)
            if not isinstance(raw, Encoded):
                crops = replace(crops, boxes=_within(crops.boxes, sizes, _pixels(raw)))
        if not isinstance(raw, Encoded):
            pixels = _pixels(raw)
            is_framed = isinstance(raw, Finished) or (self.frame.resize is None and pixels.shape[1:3] == (size, size))
            if crops is None and is_framed:
                if pixels.shape[1:3] != (size, size):
                    found = tuple(pixels.shape[1:3])
                    raise ValueError(f"images of {found} were finished for another image size than {size}")
                return self._staged(partial(copied_pieces, pixels.cpu().numpy()), device, draws, labels, memory)
            if not is_host(device) and (crops is None or crops.operations is None):  # Pillow's operations need the host
                return self._resized_there(pixels, self._parts(raw, crops), crops, draws, device, labels)
        make = self._picture(raw, crops)
        return self._staged(partial(made_pieces, len(raw), make), device, draws, labels, memory)

    def _staged(
        self, pieces: Pieces, device: torch.device, draws: Draws, labels: NDArray[np.int64], memory: Recycler
    ) -> Staged:
        """A batch whose pictures are finished on the host, here as numbers in [0, 1], for an accelerator in 8 bits."""
        count, size, moves = len(labels), self.image_size, isinstance(draws, Tensor)
        if is_host(device):
            out = memory.images(count, size)
            images, targets = torch.from_numpy(out), torch.from_numpy(labels)
            work = pieces(out, None if moves else self._normalization)
            if not isinstance(draws, Tensor):
                return Staged(work, lambda: (images, targets))
            return Staged(work, lambda: (self._normalization.of(self._moved(images, self._grid(draws))), targets))
        buffer = self._buffer(device, labels, draws, pixels=((count, size, size, 3), torch.uint8))

        def finish() -> tuple[Tensor, Tensor]:
            there = buffer.moved()
            planes = torch.empty(count, 3, size, size, device=device)
            planes.copy_(there["pixels"].permute(0, 3, 1, 2)).div_(255)
            return self._finished(planes, there)

        return Staged(pieces(buffer["pixels"], None), finish)

    def _resized_there(
        self,
        pixels: Tensor,
        parts: Parts,
        crops: Crops | None,
        draws: Draws,
        device: torch.device,
        labels: NDArray[np.int64],
    ) -> Staged:
        """A batch whose pictures are resized on an accelerator, where the filters' weights are computed too."""
        count, size = len(labels), self.image_size
        arrays: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "pixels": (tuple(pixels.shape), torch.uint8),
            "spans": ((2, 4, count), torch.float64),
        }
        brightness = None if crops is None else crops.brightness
        if parts.flip is not None:
            arrays["flip"] = ((count,), torch.bool)
        if brightness is not None:
            arrays["brightness"] = ((count,), torch.float32)
        buffer = self._buffer(device, labels, draws, **arrays)
        buffer["spans"][:] = np.stack([parts.vertical.spans.numpy(), parts.horizontal.spans.numpy()])
        if parts.flip is not None:
            buffer["flip"][:] = parts.flip.numpy()
        if brightness is not None:
            buffer["brightness"][:] = brightness.float().numpy()
        interpolation = (
            self.frame.interpolation
            if crops is None or not isinstance(self.augment, RandomResizedCrop)
            else self.augment.interpolation
        )

        def finish() -> tuple[Tensor, Tensor]:
            there = buffer.moved()
            spans = there["spans"]
            moved = Parts(parts.vertical.with_spans(spans[0]), parts.horizontal.with_spans(spans[1]), there.get("flip"))
            values = resized(there["pixels"], moved, size, interpolation)
            return self._finished(_brightened(values, there.get("brightness")) / 255, there)

        return Staged(copied_pieces(pixels.cpu().numpy(), buffer["pixels"], None), finish)

    def _buffer(
        self,
        device: torch.device,
        labels: NDArray[np.int64],
        draws: Draws,
        **arrays: tuple[tuple[int, ...], torch.dtype],
    ) -> HostBuffer:
        """Memory for some arrays, with labels and the grid of an affine map filled in."""
        grid = self._grid(draws) if isinstance(draws, Tensor) else None
        more = {} if grid is None else {"grid": (tuple(grid.shape), grid.dtype)}
        buffer = HostBuffer(device, {"labels": ((len(labels),), torch.int64), **arrays, **more})
        buffer["labels"][:] = labels
        if grid is not None:
            buffer["grid"][:] = grid.numpy()
        return buffer

    def _finished(self, pixels: Tensor, there: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Pixels in [0, 1] on an accelerator, moved and normalised, and the labels, which keep no other array alive."""
        if "grid" in there:
            pixels = self._moved(pixels, there["grid"])
        return self._normalization.of(pixels), there["labels"].clone()

    @cached_property
    def _normalization(self) -> Normalization:
        return Normalization(self.normalize)

    def _grid(self, draws: Tensor) -> Tensor:
        assert isinstance(self.augment, Affine)
        return affine_grid(draws, self.augment, self.image_size, self.image_size)

    @staticmethod
    def _moved(pixels: Tensor, grid: Tensor) -> Tensor:
        return functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _parts(self, raw: Squeezed | Finished | NDArray[np.uint8] | Tensor, crops: Crops | None) -> Parts:
        """What is resized on an accelerator."""
        if crops is not None:
            return Parts.of(crops.boxes, self.image_size, crops.flip)
        return _parts_of_frame(_pixels(raw).shape, _sizes(raw), self.frame)

    def _picture(self, raw: Raw | Tensor, crops: Crops | None) -> MakePicture:
        """What makes one picture of the batch with Pillow. It raises BenchmarkError with the picture's name."""
        size, frame = self.image_size, self.frame
        pixels = None if isinstance(raw, Encoded) else _pixels(raw).cpu().numpy()

        def opened(number: int) -> Image.Image:
            if not isinstance(raw, Encoded):
                assert pixels is not None
                return Image.fromarray(pixels[number])
            try:
                return open_picture(raw.files[number], upright=raw.upright)
            except BenchmarkError as error:
                raise _unreadable(raw, number, error) from error

        if crops is not None:
            assert isinstance(self.augment, RandomResizedCrop)
            drawn, interpolation, policy = _one_by_one(crops), self.augment.interpolation, self.augment.policy
            if policy is not None and crops.operations is not None:
                numbers = crops.operations.tolist()
                return lambda number: cropped(
                    auto_augmented(opened(number), policy, numbers[number]), drawn[number], size, interpolation
                )
            if pixels is not None:
                return lambda number: cropped(pixels[number], drawn[number], size, interpolation)
            return lambda number: cropped(opened(number), drawn[number], size, interpolation)
        if isinstance(raw, Encoded):
            return lambda number: framed(opened(number), frame)
        shapes = [(height, width) for height, width in _sizes(raw).tolist()]
        return lambda number: framed(opened(number), frame, shapes[number])


def _made(staged: Staged) -> Tensor:
    """The images of a batch, made at once."""
    in_threads(lambda piece: piece(), staged.pieces)
    return staged.finish()[0]


def _finished_apart(finish: Callable[[], tuple[Tensor, Tensor]], names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """A batch whose pictures are each normalised by the statistics of these names, on top of the benchmark's."""
    images, labels = finish()
    each = torch.tensor([statistics_of(name) for name in names]).view(-1, 2, 3, 1, 1).to(images)
    return (images - each[:, 0]) / each[:, 1], labels


def _unreadable(raw: Encoded, number: int, error: BenchmarkError) -> BenchmarkError:
    return BenchmarkError(f"{raw.name(number)}: {error}; {raw.remedy}")


def crops_of_arrays(images: Tensor, crops: Crops, size: int, interpolation: Interpolation) -> Tensor:
    """``pictures.cropped`` of uint8 (B, H, W, 3) on any device: whole numbers (B, 3, S, S)."""
    parts = Parts.of(crops.boxes, size, crops.flip).to(images.device)
    brightness = None if crops.brightness is None else crops.brightness.float().to(images.device)
    return _brightened(resized(images, parts, size, interpolation), brightness)


def frames_of_arrays(images: Tensor, sizes: Tensor, frame: Frame) -> Tensor:
    """What ``pictures.framed`` does to one picture, to uint8 (B, H, W, 3) on any device: whole numbers (B, 3, S, S)."""
    parts = _parts_of_frame(images.shape, sizes, frame).to(images.device)
    return resized(images, parts, frame.size, frame.interpolation)


def _parts_of_frame(shape: torch.Size, sizes: Tensor, frame: Frame) -> Parts:
    totals, firsts = (torch.from_numpy(each) for each in frame.lengths(sizes.numpy()))
    start = torch.zeros(len(sizes))
    vertical, horizontal = (Axis.of(start, shape[axis + 1], totals[:, axis], firsts[:, axis]) for axis in (0, 1))
    return Parts(vertical, horizontal)


def _brightened(values: Tensor, brightness: Tensor | None) -> Tensor:
    """Whole numbers (B, 3, S, S) times factors, float32 (B,), as Pillow rounds them."""
    return values if brightness is None else (values * brightness.view(-1, 1, 1, 1)).clamp_(0, 255).floor_()


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
        sizes = []
        for number, data in enumerate(raw.files):
            try:
                sizes.append(picture_size(data, upright=raw.upright))
            except BenchmarkError as error:
                raise _unreadable(raw, number, error) from error
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


def _one_by_one(crops: Crops) -> list[Crop]:
    count = len(crops.boxes)
    flips = crops.flip.tolist() if crops.flip is not None else [False] * count
    factors = crops.brightness.tolist() if crops.brightness is not None else [None] * count
    drawn = zip(crops.boxes.tolist(), flips, factors, strict=True)
    return [Crop(tuple(box), flip, brightness) for box, flip, brightness in drawn]


def random_affine(pixels: Tensor, config: Affine, generator: Generator) -> Tensor:
    """Shift, zoom and rotate each image about its centre; float (B, 3, S, S) to the same shape."""
    draw = torch.rand(len(pixels), 4, generator=generator, dtype=torch.float64)
    grid = affine_grid(draw, config, *pixels.shape[2:]).to(pixels.device)
    return functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def affine_grid(uniform: Tensor, config: Affine, height: int, width: int) -> Tensor:
    """Where the pixels of each result lie in its image, float32 (B, H, W, 2). ``uniform``: (B, 4) on [0, 1), on the CPU."""
    draw = uniform * 2 - 1
    zoom = torch.exp(draw[:, 0] * math.log1p(config.scale))
    angle = draw[:, 1] * math.radians(config.rotate)
    # The grid maps output to input positions: hence the inverse zoom. Its unit is half a side, hence the factor two.
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    shift = -2 * config.shift * draw[:, 2:]
    x = cos * shift[:, 0] - sin * shift[:, 1]
    y = sin * shift[:, 0] + cos * shift[:, 1]
    theta = torch.stack([torch.stack([cos, -sin, x], -1), torch.stack([sin, cos, y], -1)], 1)
    return functional.affine_grid(theta.float(), [len(draw), 3, height, width], align_corners=False)
