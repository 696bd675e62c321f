"""Glyph masks turned into pictures: geometry, stroke, rendition, tone; batched, and a function of its draws alone.

A `Mix` says how often each rendition occurs and how strong it may be. The random numbers of a picture are one `Draws`
row, so the same row gives the same picture whatever else is in the batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

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
    """The ink's bounding box stretched to a square, to compare shapes regardless of proportions; bars are left as they are."""
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
    from scipy.ndimage import gaussian_filter

    masks = [glyph_mask(face, character) for character in characters]
    if stretch:
        # The root reduces the difference between thick and thin strokes.
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


RENDITIONS = ("plain", "outline", "hatching", "texture", "low_resolution", "distortion")
_COLUMNS = (
    *("rotation", "scale", "aspect", "shear", "shift_x", "shift_y", "weight", "kind", "strength", "angle", "period"),
    *("phase", "invert", "clutter", "cells", "blur", "paper", "ink", "grain", "elastic", "tint_r", "tint_g", "tint_b"),
)
_COLUMN = {name: position for position, name in enumerate(_COLUMNS)}
_ELASTIC_NODES, _CLUTTER_CELLS = 5, 16
_CELLS = (8, 10, 12, 16)


@dataclass(frozen=True)
class Mix:
    """How a set of pictures is rendered. Probabilities in [0, 1]; pairs are (least, greatest), drawn uniformly.

    ``kinds``: relative frequency of each of `RENDITIONS`; ``strength``: how far outline, hatching and texture replace
    the solid glyph; angles in degrees, shifts as a part of the half image, ``elastic`` and ``distortion`` as well.
    """

    kinds: tuple[float, float, float, float, float, float]
    strength: tuple[float, float] = (0.5, 1.0)
    invert: float = 0.0
    clutter: tuple[float, float] = (0.0, 0.0)
    rotation: float = 12.0
    scale: tuple[float, float] = (0.8, 1.1)
    aspect: float = 0.15
    shear: float = 0.15
    shift: float = 0.1
    weight: tuple[float, float] = (0.3, 0.6)
    elastic: tuple[float, float] = (0.0, 0.06)
    distortion: tuple[float, float] = (0.1, 0.2)
    blur: float = 0.5
    paper: tuple[float, float] = (0.0, 0.2)
    ink: tuple[float, float] = (0.7, 1.0)
    grain: float = 0.04
    tint: float = 0.0


@dataclass(frozen=True)
class Draws:
    """The random numbers of N pictures: ``scalars`` (N, K) in [0, 1), ``nodes`` (N, 2, 5, 5), ``clutter`` (N, 1, 16, 16)
    and ``grain`` (N, 1, S, S) standard normal."""

    scalars: Tensor
    nodes: Tensor
    clutter: Tensor
    grain: Tensor

    @staticmethod
    def batch(count: int, size: int, generator: torch.Generator) -> Draws:
        """Draws for ``count`` pictures of ``size`` pixels from one generator."""
        return Draws(
            torch.rand(count, len(_COLUMNS), generator=generator),
            torch.randn(count, 2, _ELASTIC_NODES, _ELASTIC_NODES, generator=generator),
            torch.randn(count, 1, _CLUTTER_CELLS, _CLUTTER_CELLS, generator=generator),
            torch.randn(count, 1, size, size, generator=generator),
        )

    @staticmethod
    def one_each(keys: list[tuple[int, ...]], size: int) -> Draws:
        """Draws of pictures with one seed each: a picture does not change when others are added."""
        rows = [np.random.default_rng(key) for key in keys]
        normal = [
            np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in rows])
            for shape in ((2, _ELASTIC_NODES, _ELASTIC_NODES), (1, _CLUTTER_CELLS, _CLUTTER_CELLS), (1, size, size))
        ]
        scalars = np.stack([rng.random(len(_COLUMNS), dtype=np.float32) for rng in rows])
        return Draws(*(torch.from_numpy(part) for part in (scalars, *normal)))

    def column(self, name: str) -> Tensor:
        """One scalar of every picture, (N,) in [0, 1)."""
        return self.scalars[:, _COLUMN[name]]

    def between(self, name: str, bounds: tuple[float, float]) -> Tensor:
        """One scalar of every picture, uniform between two bounds, shaped (N, 1, 1, 1) to broadcast with pictures."""
        return (bounds[0] + (bounds[1] - bounds[0]) * self.column(name))[:, None, None, None]

    def __getitem__(self, rows: Tensor) -> Draws:
        """The draws of some pictures."""
        return Draws(*(getattr(self, field.name)[rows] for field in fields(self)))


def render(masks: Tensor, draws: Draws, mix: Mix) -> Tensor:
    """Pictures (N, 3, S, S) in [0, 1] of ink masks (N, CANVAS, CANVAS) in [0, 1]; S is the size of the draws."""
    size = draws.grain.shape[-1]
    kind = _kinds(draws, mix)
    ink = _stroke(_move(masks[:, None], draws, mix, kind), draws, mix)
    ink = _decorate(ink, draws, mix, kind)
    ink = _resize(ink, size)
    ink = _coarsen(_soften(ink, draws, mix), draws, kind)
    return _tone(ink, draws, mix)


def _kinds(draws: Draws, mix: Mix) -> Tensor:
    """Index into `RENDITIONS` of every picture, (N,)."""
    edges = torch.tensor(mix.kinds, dtype=torch.float32).cumsum(0)
    return torch.searchsorted(edges / edges[-1], draws.column("kind").contiguous(), right=True).clamp_max(5)


def _move(ink: Tensor, draws: Draws, mix: Mix, kind: Tensor) -> Tensor:
    """Affine and elastic displacement in one resampling."""
    turn = math.radians(mix.rotation) * (2 * draws.column("rotation") - 1)
    low, high = (math.log(bound) for bound in mix.scale)
    shrink = torch.exp(-(low + (high - low) * draws.column("scale")))
    stretch = torch.exp(mix.aspect * (2 * draws.column("aspect") - 1))
    shear = mix.shear * (2 * draws.column("shear") - 1)
    cos, sin = torch.cos(turn), torch.sin(turn)
    rows = torch.stack([cos * stretch, cos * shear - sin, sin * stretch, sin * shear + cos / stretch], 1)
    shift = torch.stack([draws.column("shift_x"), draws.column("shift_y")], 1) * 2 - 1
    matrix = torch.cat([(shrink[:, None] * rows).view(-1, 2, 2), mix.shift * shift[:, :, None]], 2)
    centres = (2 * torch.arange(CANVAS, dtype=torch.float32) + 1) / CANVAS - 1
    matrix = matrix[:, :, :, None, None]
    grid = matrix[:, :, 0] * centres + matrix[:, :, 1] * centres[:, None] + matrix[:, :, 2]
    amount = draws.between("elastic", mix.elastic)
    warped = (kind == RENDITIONS.index("distortion"))[:, None, None, None]
    amount = torch.where(warped, draws.between("strength", mix.distortion), amount)
    grid += _apply(_smooth_matrix(_ELASTIC_NODES, CANVAS), draws.nodes * amount)
    return F.grid_sample(ink, grid.permute(0, 2, 3, 1), align_corners=False)


@functools.cache
def _blur_matrix(size: int, sigma: float) -> Tensor:
    """Gaussian weights (size, size) whose rows do not sum to one at the border: outside there is no ink."""
    steps = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((steps[:, None] - steps[None]) / sigma) ** 2)
    return weights / weights[size // 2].sum()


@functools.cache
def _resize_matrix(source: int, target: int) -> Tensor:
    """Weights (target, source): area means to shrink, linear between pixel centres to enlarge."""
    mode = "area" if target < source else "linear"
    settings = {} if mode == "area" else {"align_corners": False}
    return F.interpolate(torch.eye(source)[None], size=target, mode=mode, **settings)[0].T.contiguous()


@functools.cache
def _smooth_matrix(source: int, target: int) -> Tensor:
    """Weights (target, source) of a smooth curve through few nodes."""
    return _blur_matrix(target, target / source / 2) @ _resize_matrix(source, target)


def _apply(matrix: Tensor, pictures: Tensor) -> Tensor:
    """One separable linear map along both axes; for small pictures far quicker than a convolution."""
    return matrix @ pictures @ matrix.T


def _blur(pictures: Tensor, sigma: float) -> Tensor:
    return _apply(_blur_matrix(pictures.shape[-1], sigma), pictures)


def _resize(pictures: Tensor, size: int) -> Tensor:
    source = pictures.shape[-1]
    return pictures if size == source else _apply(_resize_matrix(source, size), pictures)


def _stroke(ink: Tensor, draws: Draws, mix: Mix) -> Tensor:
    """Thicker or thinner strokes: a threshold on the blurred glyph."""
    level = draws.between("weight", mix.weight)
    return ((_blur(ink, 1.5) - level) * 4 + 0.5).clamp_(0, 1)


def _decorate(ink: Tensor, draws: Draws, mix: Mix, kind: Tensor) -> Tensor:
    """Outline, hatching and texture of the ink, each as strong as drawn."""
    ink = ink.clone()
    for name, keep in (("outline", _outline), ("hatching", _hatching), ("texture", _texture)):
        rows = (kind == RENDITIONS.index(name)).nonzero()[:, 0]
        if len(rows):
            some = draws[rows]
            strength = some.between("strength", mix.strength)
            ink[rows] = ink[rows] * (1 - strength) + keep(ink[rows], some) * strength
    return ink


def _outline(ink: Tensor, draws: Draws) -> Tensor:
    del draws
    soft = _blur(ink, 1.5)
    return (6 * soft * (1 - soft) - 0.25).clamp_(0, 1)


def _hatching(ink: Tensor, draws: Draws) -> Tensor:
    ramp = torch.linspace(-1, 1, CANVAS)
    angle = math.pi * draws.between("angle", (0.0, 1.0))
    across = ramp[None, None, None, :] * torch.cos(angle) + ramp[None, None, :, None] * torch.sin(angle)
    waves = math.pi * CANVAS / draws.between("period", (7.0, 12.0))
    stripes = (0.5 + 1.5 * torch.sin(across * waves + 2 * math.pi * draws.between("phase", (0.0, 1.0)))).clamp_(0, 1)
    return ink * stripes


def _texture(ink: Tensor, draws: Draws) -> Tensor:
    return ink * (0.6 + 0.8 * _resize(draws.clutter.flip(-1), CANVAS)).clamp_(0.2, 1)


def _soften(ink: Tensor, draws: Draws, mix: Mix) -> Tensor:
    amount = draws.between("blur", (0.0, mix.blur))
    return ink * (1 - amount) + _blur(ink, 1.2) * amount


def _coarsen(ink: Tensor, draws: Draws, kind: Tensor) -> Tensor:
    """Low resolution: a coarse grid of cells, smoothly enlarged again."""
    ink, size = ink.clone(), ink.shape[-1]
    wanted = torch.where(kind == RENDITIONS.index("low_resolution"), (draws.column("cells") * len(_CELLS)).long(), -1)
    for position, cells in enumerate(_CELLS):
        rows = (wanted == position).nonzero()[:, 0]
        ink[rows] = _apply(_resize_matrix(cells, size) @ _resize_matrix(size, cells), ink[rows])
    return ink


def _tone(ink: Tensor, draws: Draws, mix: Mix) -> Tensor:
    """Paper, ink, clutter behind the glyph, grain, polarity and tint."""
    size = ink.shape[-1]
    paper = draws.between("paper", mix.paper) + draws.between("clutter", mix.clutter) * _resize(draws.clutter, size)
    picture = paper * (1 - ink) + draws.between("ink", mix.ink) * ink + mix.grain * draws.grain
    picture = torch.where(draws.between("invert", (0.0, 1.0)) < mix.invert, 1 - picture, picture)
    tint = torch.cat([draws.between(f"tint_{channel}", (1 - mix.tint, 1.0)) for channel in "rgb"], 1)
    return (picture * tint).clamp_(0, 1)
