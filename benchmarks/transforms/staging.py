"""A batch between its store and the network: pieces of work on the host, then one copy, then the rest on the device."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smope_bench.benchmarks.augmentation import Normalize, statistics_of

PICTURES_A_PIECE = 8
PIXELS_A_PIECE = 1 << 20
ALIGNMENT = 64  # bytes; of every type that is kept
MakePicture = Callable[[int], NDArray[np.uint8]]
"""Makes one picture of the batch, uint8 (S, S, 3)."""


def is_host(device: torch.device) -> bool:
    """Whether batches stay in the host's memory, where Pillow makes all of them."""
    return device.type == "cpu"


@dataclass(frozen=True, eq=False)
class Staged:
    """A batch in the making.

    ``pieces``: independent calls, in any order and in any threads. ``finish``: to be called after them, in the thread and on
    the stream that use the batch: images, float32 (B, 3, S, S), and labels, int64 (B,), on the device.
    """

    pieces: Sequence[Callable[[], None]]
    finish: Callable[[], tuple[Tensor, Tensor]]


class HostBuffer:
    """Arrays in one piece of the host's memory, which a single copy moves to the device; pinned for CUDA.

    Pinned memory comes from torch's cache, which does not give it away again before the copy has ended.
    """

    def __init__(self, device: torch.device, arrays: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
        """``arrays``: shape and type by name."""
        self._device = device
        self._places: dict[str, tuple[int, int, tuple[int, ...], torch.dtype]] = {}
        end = 0
        for name, (shape, dtype) in arrays.items():
            size = math.prod(shape) * dtype.itemsize
            self._places[name] = (end, size, shape, dtype)
            end += -(-size // ALIGNMENT) * ALIGNMENT
        is_pinned = device.type == "cuda" and torch.cuda.is_available()
        self._flat = torch.empty(end, dtype=torch.uint8, pin_memory=is_pinned)

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        """One array on the host, to be filled."""
        return self._view(self._flat, name).numpy()

    def moved(self) -> dict[str, Tensor]:
        """All arrays on the device: views of one piece of its memory."""
        flat = self._flat.to(self._device, non_blocking=True)
        return {name: self._view(flat, name) for name in self._places}

    def _view(self, flat: Tensor, name: str) -> Tensor:
        start, size, shape, dtype = self._places[name]
        return flat[start : start + size].view(dtype).view(shape)


class Normalization:
    """``(pixels - mean) / std`` of each channel, on the host in place and on a device; nothing for ``none``."""

    def __init__(self, normalize: Normalize) -> None:
        self._statistics = None if normalize == "none" else statistics_of(normalize)
        self._tensors: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def apply(self, pixels: NDArray[np.float32]) -> None:
        """Normalise float32 (..., 3, S, S) in place."""
        if self._statistics is not None:
            mean, std = (np.array(values, dtype=np.float32).reshape(3, 1, 1) for values in self._statistics)
            pixels -= mean
            pixels /= std

    def of(self, pixels: Tensor) -> Tensor:
        """Normalised float32 (..., 3, S, S) on any device. The statistics are copied there once."""
        if self._statistics is None:
            return pixels
        if pixels.device not in self._tensors:
            mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in self._statistics)
            self._tensors[pixels.device] = (mean, std)
        mean, std = self._tensors[pixels.device]
        return (pixels - mean) / std


def made_pieces(
    count: int, make: MakePicture, out: NDArray[np.generic], normalization: Normalization | None
) -> list[Callable[[], None]]:
    """Pieces that make ``count`` pictures one by one.

    ``out``: uint8 (B, S, S, 3), or float32 (B, 3, S, S), which becomes pixels in [0, 1], normalised where ``normalization`` is
    given.
    """

    def piece(start: int) -> None:
        for number in range(start, min(start + PICTURES_A_PIECE, count)):
            if out.dtype == np.uint8:
                out[number] = make(number)
            else:
                to_unit(make(number), out[number], normalization)

    return [_call(piece, start) for start in range(0, count, PICTURES_A_PIECE)]


def copied_pieces(
    pixels: NDArray[np.uint8], out: NDArray[np.generic], normalization: Normalization | None
) -> list[Callable[[], None]]:
    """Pieces that bring finished pixels (B, S, S, 3) into ``out``, as ``made_pieces`` does."""
    images = max(1, PIXELS_A_PIECE // max(pixels[:1].size, 1))

    def piece(start: int) -> None:
        some = slice(start, start + images)
        if out.dtype == np.uint8:
            out[some] = pixels[some]
        else:
            to_unit(pixels[some], out[some], normalization)

    return [_call(piece, start) for start in range(0, len(pixels), images)]


def to_unit(pixels: NDArray[np.uint8], out: NDArray[np.generic], normalization: Normalization | None) -> None:
    """Uint8 (..., S, S, 3) to float32 (..., 3, S, S) in [0, 1]. NumPy's own loops: torch would start a team of threads here."""
    np.divide(np.moveaxis(pixels, -1, -3), np.float32(255), out=out, dtype=np.float32)
    if normalization is not None:
        normalization.apply(out)  # pyright: ignore[reportArgumentType]


class Recycler:
    """Memory of images on the host, used again once no tensor and no graph refers to it: new memory costs the system time.

    At most ``kept`` pieces are kept that nothing refers to.
    """

    def __init__(self, kept: int = 0) -> None:
        self._kept = kept
        self._free: list[NDArray[np.float32]] = []
        self._is_closed = False

    def images(self, count: int, size: int) -> NDArray[np.float32]:
        """Float32 (B, 3, S, S) of any content; tensors made of it by ``torch.from_numpy`` keep it from being used again."""
        shape = (count, 3, size, size)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = None
        if memory is None or memory.shape != shape:
            self._free.clear()
            memory = np.empty(shape, dtype=np.float32)
        lent = memory.view()
        weakref.finalize(lent, self._take_back, memory).atexit = False
        return lent

    def _take_back(self, memory: NDArray[np.float32]) -> None:
        if len(self._free) < self._kept and not self._is_closed:
            self._free.append(memory)

    def close(self) -> None:
        """Give all memory back to the system."""
        self._is_closed = True
        self._free.clear()


def _call(piece: Callable[[int], None], start: int) -> Callable[[], None]:
    return lambda: piece(start)
