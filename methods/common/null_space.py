"""Projectors onto directions that earlier tasks do not use, from second moments of what they read.

Source: CPG card, section 4.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ties = Literal["last", "first"]
SMOOTHED_FROM = 128
"""Spectra of so many values are smoothed before their bend is sought."""


def null_start(values: NDArray[np.float64], ties: Ties = "last") -> int:
    """Index of the first null direction in falling singular values, at least four: where their curve bends most.

    The bend is the largest second difference; of long spectra, smoothed by a Gaussian of deviation 10, without 1.5 % of the
    differences at either end. Its value is the threshold, which several may equal: the ``last`` or ``first`` of them is taken.
    """
    smoothed, dropped = values, 0
    if len(values) >= SMOOTHED_FROM:
        from scipy.ndimage import gaussian_filter1d

        smoothed, dropped = gaussian_filter1d(values, sigma=10), int(len(values) * 0.03 / 2)
    bends = np.diff(smoothed, 2)
    bends = bends[dropped : len(bends) - dropped]
    threshold = values[int(np.argmax(bends)) + (len(values) - len(bends)) // 2]
    places = np.flatnonzero(values >= threshold) if ties == "last" else np.flatnonzero(values <= threshold)
    return int(places[-1] if ties == "last" else places[0])


def null_projector(moments: Tensor, *, eta: float = 1.0, scale: bool = True, ties: Ties = "last") -> Tensor:
    """``eta`` P + (1 - eta) I for each of the second moments (blocks, n, n), n at least four; the same shape and device.

    P projects onto the null directions of a block; ``scale`` divides it by its Frobenius norm, the root of their number. The
    decomposition is made in float64 on the CPU, so that every device has the same directions.
    """
    wide = moments.detach().cpu().double()
    _, values, directions = torch.linalg.svd(wide)
    made = torch.eye(wide.shape[-1], dtype=wide.dtype).mul(1 - eta).repeat(len(wide), 1, 1)
    for block, (row, right) in enumerate(zip(values.numpy(), directions, strict=True)):
        basis = right[null_start(row, ties) :]
        made[block] += eta * (basis.T @ basis) / (len(basis) ** 0.5 if scale else 1.0)
    return made.to(moments.device, moments.dtype)
