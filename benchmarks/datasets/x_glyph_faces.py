"""Glyph masks: characters drawn from the font faces that matplotlib ships, each scaled to one common size.

A mask is scaled so that the longer side of its ink spans ``INK`` of ``CANVAS`` pixels, and is centred: upper and lower
case of one shape become the same picture, which is what makes the comparison of masks (`similarity`) find homoglyphs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from smope_bench.benchmarks.errors import BenchmarkError

CANVAS = 64
INK = 46

FACES: tuple[str, ...] = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
)

_MEASURE_AT = 64.0
_BOX = 24


@functools.cache
def _font(face: str, size: float) -> Any:
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    path = Path(get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    if not path.is_file():
        raise BenchmarkError(f"font face '{face}' is not at {path}; reinstall matplotlib, whose fonts draw the glyphs")
    font = FT2Font(str(path))
    font.set_size(size, 72)
    return font


@functools.cache
def coverage(face: str) -> frozenset[int]:
    """Code points that a face can draw."""
    return frozenset(_font(face, _MEASURE_AT).get_charmap())


def faces_with(character: str) -> tuple[str, ...]:
    """The faces, in the order of `FACES`, that contain a character."""
    return tuple(face for face in FACES if ord(character) in coverage(face))


def _bitmap(face: str, size: float, character: str) -> NDArray[np.uint8]:
    from matplotlib.ft2font import FT2Font, LoadFlags

    font: FT2Font = _font(face, size)
    font.set_text(character, 0.0, flags=LoadFlags.NO_HINTING)
    font.draw_glyphs_to_bitmap(antialiased=True)
    picture = np.asarray(font.get_image())
    rows, columns = picture.any(axis=1), picture.any(axis=0)
    if not rows.any():
        return np.zeros((0, 0), dtype=np.uint8)
    top, bottom = np.flatnonzero(rows)[[0, -1]]
    left, right = np.flatnonzero(columns)[[0, -1]]
    return picture[top : bottom + 1, left : right + 1]


@functools.cache
def glyph_mask(face: str, character: str) -> NDArray[np.uint8]:
    """Ink of one character, uint8 (CANVAS, CANVAS), 255 is ink; all zero where the face draws nothing (a space).

    Raises BenchmarkError where the face has no such character.
    """
    if ord(character) not in coverage(face):
        raise BenchmarkError(f"face '{face}' has no character U+{ord(character):04X}; choose one of faces_with()")
    draft = _bitmap(face, _MEASURE_AT, character)
    canvas = np.zeros((CANVAS, CANVAS), dtype=np.uint8)
    if draft.size == 0:
        return canvas
    # Sizes in quarter points keep the font cache small; ink of a dot or a bar is bounded so that it fits the canvas.
    size = min(round(4 * _MEASURE_AT * INK / max(draft.shape)) / 4, 8 * _MEASURE_AT)
    ink = _bitmap(face, size, character)[:CANVAS, :CANVAS]
    top, left = (CANVAS - ink.shape[0]) // 2, (CANVAS - ink.shape[1]) // 2
    canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    canvas.flags.writeable = False
    return canvas


def mask_stack(pairs: Iterable[tuple[str, str]]) -> NDArray[np.uint8]:
    """Masks of (face, character) pairs, uint8 (N, CANVAS, CANVAS)."""
    return np.stack([glyph_mask(face, character) for face, character in pairs])


def _stretched(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The ink's own box stretched to a square, so that proportions do not hide a likeness; bars stay bars."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros((_BOX + 8, _BOX + 8), dtype=np.float32)
    ink = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    longest = max(ink.shape)
    target = [_BOX if side > 0.4 * longest else max(4, round(_BOX * side / longest)) for side in ink.shape]
    for axis, length in enumerate(target):
        centres = (np.arange(length) + 0.5) * ink.shape[axis] / length - 0.5
        places = np.clip(np.rint(centres[:, None] + np.linspace(-0.8, 0.8, 3)).astype(int), 0, ink.shape[axis] - 1)
        ink = np.take(ink, places, axis=axis).mean(axis=axis + 1)
    spare = [_BOX + 8 - side for side in target]
    return np.pad(ink, [(side // 2, side - side // 2) for side in spare])


def descriptors(face: str, characters: Sequence[str], *, stretch: bool = False) -> NDArray[np.float32]:
    """Slightly blurred, zero-mean, unit-norm masks (N, pixels): their inner product is `similarity`."""
    masks = [glyph_mask(face, character) for character in characters]
    if stretch:
        # The root brings thick and thin strokes nearer to each other.
        seen = np.sqrt(gaussian_filter(np.stack([_stretched(mask) for mask in masks]), sigma=(0, 1.2, 1.2)))
    else:
        seen = gaussian_filter(np.stack(masks).astype(np.float32), sigma=(0, 1, 1))[:, ::2, ::2]
    flat = seen.reshape(len(characters), -1)
    centred = flat - flat.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)


def similarity(face: str, left: Sequence[str], right: Sequence[str], *, stretch: bool = False) -> NDArray[np.float32]:
    """Correlation of the masks of two lists of characters in one face, (len(left), len(right)); 1 is a homoglyph.

    With ``stretch`` the glyphs are first brought to one width and height, which also finds kappa in K and yogh in 3.
    """
    return descriptors(face, left, stretch=stretch) @ descriptors(face, right, stretch=stretch).T
