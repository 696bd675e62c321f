"""Single pictures with Pillow, torch-free: decoding, and the transforms of official loaders to the bit."""

from __future__ import annotations

import io
import math
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps, features

from smope_bench.benchmarks.augmentation import Interpolation
from smope_bench.benchmarks.errors import BenchmarkError

# Only raster formats that Pillow decodes by itself: some others start an external program on what the file contains.
AVIF = (
    ("AVIF",) if "avif" in features.modules and features.check("avif") else ()
)  # in Pillow since 11.3, not in every build
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", *AVIF)
MOST_PIXELS = 200_000_000
"""Pixels of the largest picture that is read. Decoded it takes 4 bytes a pixel, 800 MB."""
LARGE_PIXELS = 25_000_000
"""Of pictures with more pixels one at a time is decoded while images are prepared."""
TOO_LARGE = f"more than the {MOST_PIXELS // 1_000_000} megapixels that are read; make it smaller"
SIXTEEN_BITS = ("PNG", "PPM")
"""Formats whose pixels of Pillow's mode ``I`` are 16-bit grey."""
PNG_START, PNG_TEXTS = b"\x89PNG\r\n\x1a\n", (b"tEXt", b"zTXt", b"iTXt")
# Pillow's own limit is half as high, holds for the whole process and cannot be given to a call; so does the filter:
# warnings are caught with the file's name where images are prepared, and are not repeated at every use.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS
warnings.filterwarnings("ignore", module=r"PIL\.")
FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
SQUEEZE: Interpolation = "bicubic"
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)  # EXIF tag
THREADS_AT_MOST = 16
SLIVER = 64  # ratio of the sides
DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow raises for files that cannot be decoded. Any other error, such as AttributeError, is one of the program."""

_one_large = threading.RLock()
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Frame:
    """The test transform: the shorter side to ``resize`` and a central square of ``size``; None: the whole to ``size``.

    ``squeeze``: the whole picture becomes a square of ``resize``, whatever its proportions.
    """

    size: int
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    squeeze: bool = False

    def lengths(self, sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Heights and widths (B, 2) after the resize and the top left corner (B, 2) of the square, as torchvision rounds.

        ``sizes``: heights and widths (B, 2) of the pictures.
        """
        if self.resize is None:
            return np.full_like(sizes, self.size), np.zeros_like(sizes)
        shorter = sizes if self.squeeze else sizes.min(axis=1, keepdims=True)
        resized = self.resize * sizes // shorter
        return resized, np.rint((resized - self.size) / 2).astype(np.int64)


@dataclass(frozen=True)
class Crop:
    """The random crop of one training picture. ``box``: top, left, height, width; ``brightness``: a factor or None."""

    box: tuple[float, float, float, float]
    flip: bool = False
    brightness: float | None = None


def open_picture(data: bytes, *, upright: bool = False, held: ExitStack | None = None) -> Image.Image:
    """Decode an image file to RGB as the official loaders do; ``upright``: turned as displayed.

    Upright means turned by the EXIF tag, transparent parts white, and 16-bit grey scaled to 8 bits. Of an animation the
    first frame is taken. ``held``: until it is closed, no other thread that gives one decodes a large picture. Raises
    BenchmarkError with what is wrong, without a file name.
    """

    def pixels(opened: Image.Image) -> Image.Image:
        size = opened.width * opened.height
        if size > MOST_PIXELS:
            raise BenchmarkError(f"{opened.width} x {opened.height} pixels, {TOO_LARGE}")
        if held is not None and size > LARGE_PIXELS:
            held.enter_context(_one_large)
        sixteen = opened.format in SIXTEEN_BITS
        return _rgb(ImageOps.exif_transpose(opened), sixteen) if upright else _as_rgb(opened)

    return _read(data, pixels)


def picture_size(data: bytes, *, upright: bool = False) -> tuple[int, int]:
    """Height and width of a picture as ``open_picture`` returns it, without decoding it. Raises BenchmarkError as it does."""

    def size(opened: Image.Image) -> tuple[int, int]:
        turned = upright and opened.getexif().get(ORIENTATION, 1) in QUARTER_TURNS
        return (opened.width, opened.height) if turned else (opened.height, opened.width)

    return _read(data, size)


def _read(data: bytes, use: Callable[[Image.Image], Made]) -> Made:
    """``use`` of an opened picture. Raises BenchmarkError with what is wrong, without a file name."""
    try:
        return _used(data, use)
    except BenchmarkError:
        raise
    except Image.DecompressionBombError as error:  # beyond twice the limit
        raise BenchmarkError(TOO_LARGE) from error
    except Image.UnidentifiedImageError as error:
        raise BenchmarkError(f"not an image in one of the formats {', '.join(FORMATS)}") from error
    except DAMAGE as error:
        raise BenchmarkError(f"a damaged image ({error or type(error).__name__})") from error


def _used(data: bytes, use: Callable[[Image.Image], Made]) -> Made:
    """``use`` of an opened picture. A PNG whose texts are longer than Pillow allows is read without them."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            return use(opened)
    except ValueError:
        shorter = _without_texts(data)
        if len(shorter) == len(data):
            raise
    with Image.open(io.BytesIO(shorter), formats=FORMATS) as opened:
        return use(opened)


def _without_texts(data: bytes) -> bytes:
    """A PNG file without its text chunks; another file as it is."""
    if not data.startswith(PNG_START):
        return data
    kept, place = [PNG_START], len(PNG_START)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])  # length, name, content, checksum
        if data[place + 4 : place + 8] not in PNG_TEXTS:
            kept.append(data[place:end])
        place = end
    return b"".join([*kept, data[place:]])


def decode(data: bytes, side: int) -> NDArray[np.uint8]:
    """Decode a picture upright and return its central square as uint8 (side, side, 3). Raises BenchmarkError."""
    return central_square(open_picture(data, upright=True), side)


def central_square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """Resize the shorter side to ``side`` and cut the centre, up to rounding, in one step: (side, side, 3)."""
    box = _central_box(image.width, image.height, side, side)
    return np.asarray(_resized(image, side, side, "bilinear", box))


def squeezed(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """The whole picture as uint8 (side, side, 3), whatever its proportions."""
    return np.asarray(_resized(image, side, side, SQUEEZE))


def framed(image: Image.Image, frame: Frame, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """A picture under the test transform as uint8 (size, size, 3): torchvision's Resize and CenterCrop to the bit.

    ``shape``: height and width that the picture had before it was squeezed, where it was.
    """
    if frame.resize is not None and not frame.squeeze and max(image.size) > SLIVER * min(image.size):
        # A very elongated picture, resized whole, would fill the memory; its middle alone differs by rounding.
        box = _central_box(image.width, image.height, frame.resize, frame.size)
        return np.asarray(_resized(image, frame.size, frame.size, frame.interpolation, box))
    sizes = np.array([shape or (image.height, image.width)], dtype=np.int64)
    ((height, width),), ((top, left),) = (array.tolist() for array in frame.lengths(sizes))
    resized = _resized(image, width, height, frame.interpolation)
    return np.asarray(resized.crop((left, top, left + frame.size, top + frame.size)))


def cropped(
    image: Image.Image | NDArray[np.uint8], crop: Crop, size: int, interpolation: Interpolation
) -> NDArray[np.uint8]:
    """A box of a picture as uint8 (size, size, 3): torchvision's resized_crop, hflip and adjust_brightness to the bit.

    ``image``: also uint8 (H, W, 3). A box may begin and end within pixels; those pixels are used, none beyond.
    """
    top, left, height, width = crop.box
    x, y = math.floor(left), math.floor(top)
    right, bottom = math.ceil(left + width), math.ceil(top + height)
    is_picture = isinstance(image, Image.Image)
    part = image.crop((x, y, right, bottom)) if is_picture else Image.fromarray(image[y:bottom, x:right])
    part = _resized(part, size, size, interpolation, (left - x, top - y, left - x + width, top - y + height))
    if crop.flip:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if crop.brightness is not None:
        part = ImageEnhance.Brightness(part).enhance(crop.brightness)
    # As Pillow keeps it, with a fourth byte, which is faster than np.asarray(part).
    return np.frombuffer(part.tobytes("raw", "RGBX"), np.uint8).reshape(size, size, 4)[..., :3]


def _resized(
    image: Image.Image,
    width: int,
    height: int,
    interpolation: Interpolation,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Resize (left, upper, right, lower) of an image, always along the rows first.

    Up to version 12 Pillow's own order is this one; from 13 on it depends on the proportions, and bytes with it.
    """
    left, upper, right, lower = box or (0, 0, *image.size)
    kind = FILTERS[interpolation]
    image = image.resize((width, image.height), kind, box=(left, 0, right, image.height))
    return image.resize((width, height), kind, box=(0, upper, width, lower))


def picture_threads() -> int:
    """Threads that decode pictures: one for each core that this process may use, up to THREADS_AT_MOST."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, THREADS_AT_MOST)


def in_threads(work: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    """``work`` on every item, in order of the items, in as many threads as there are cores for this process."""
    workers = min(picture_threads(), len(items))
    if workers <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, items))


def _central_box(width: int, height: int, side: int, size: int) -> tuple[float, float, float, float]:
    """The part of an image that torchvision's Resize(side) and CenterCrop(size) keep, in the image's own pixels."""
    short = min(width, height)
    resized = side * width // short, side * height // short
    scale = width / resized[0], height / resized[1]
    left, top = (round((length - size) / 2) * step for length, step in zip(resized, scale, strict=True))
    # By rounding the far edge may lie just outside of the image, which Pillow refuses.
    return left, top, min(left + size * scale[0], width), min(top + size * scale[1], height)


def _rgb(image: Image.Image, sixteen: bool) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and sixteen):
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BenchmarkError(f"pixels of type {image.mode!r} have no fixed range; save the image with 8 or 16 bits")
    if image.has_transparency_data:
        # Without its alpha channel a picture would show hidden colours, often black.
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return _as_rgb(image)


def _as_rgb(image: Image.Image) -> Image.Image:
    """``image.convert("RGB")`` without a copy where it is RGB: decoded here, as the file is closed later."""
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image
