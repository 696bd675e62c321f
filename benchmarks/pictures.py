"""From the bytes of an image file to a square uint8 array."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.errors import BenchmarkError

# Only raster formats that Pillow decodes by itself: some others start an external program on what the file contains.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def decode(data: bytes, side: int) -> NDArray[np.uint8]:
    """Decode an image, turn it upright by its EXIF tag and return its central square as uint8 (side, side, 3).

    Equal to resizing the shorter side to ``side`` and then cropping the centre. Transparent parts become white, 16-bit
    grey is scaled to 8 bits, and of an animation the first frame is taken. Raises BenchmarkError with what is wrong,
    without a file name.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            image = _rgb(ImageOps.exif_transpose(opened))
            box = _central_box(image.width, image.height, side)
            return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box))
    except BenchmarkError:
        raise
    except Image.UnidentifiedImageError as error:
        raise BenchmarkError(f"not an image in one of the formats {', '.join(FORMATS)}") from error
    except Exception as error:
        # Decoders raise whatever a damaged file makes them stumble over: OSError, SyntaxError, struct.error, ...
        raise BenchmarkError(f"a damaged image ({error or type(error).__name__})") from error


def _central_box(width: int, height: int, side: int) -> tuple[float, float, float, float]:
    """The part of an image that torchvision's Resize(side) and CenterCrop(side) keep, in the image's own pixels."""
    short = min(width, height)
    resized = side * width // short, side * height // short
    scale = width / resized[0], height / resized[1]
    left, top = (round((length - side) / 2) * step for length, step in zip(resized, scale, strict=True))
    # Rounding may carry the far edge past the image by less than a rounding error, which Pillow refuses.
    return left, top, min(left + side * scale[0], width), min(top + side * scale[1], height)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BenchmarkError(f"pixels of type {image.mode!r} have no fixed range; save the image with 8 or 16 bits")
    if image.has_transparency_data:
        # Dropping the alpha channel would show what an editor left under it, often plain black.
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
