"""Stripes of ten directions, made when they are asked for: what a benchmark without a download needs, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from smope_bench.api import Benchmark, BenchmarkCard, BenchmarkConfig, ImageSet, ProgressCallback, Split, silent

CLASSES, SIDE, COUNTS = 10, 32, {"train": 12, "test": 6}


class Stripes(Benchmark[BenchmarkConfig]):
    """Each class is a direction; phase, width and noise are drawn."""

    name: ClassVar[str] = "stripes"
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="Stripes",
        source="drawn by the sample package",
        licence="none needed",
        summary="ten directions of stripes",
    )

    def prepare(self, progress: ProgressCallback = silent, given: Sequence[Path] = ()) -> None:
        """Nothing to do: the images are drawn anew each time, the same ones."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Directions in degrees."""
        return tuple(f"{180 * label // CLASSES} degrees" for label in range(CLASSES))

    def image_set(self, split: Split) -> ImageSet:
        """uint8 (N, 32, 32, 3) and the direction of each image."""
        labels = np.repeat(np.arange(CLASSES), COUNTS[split])
        rng = np.random.default_rng(COUNTS[split])
        angle = np.pi * labels / CLASSES
        rows, columns = np.mgrid[:SIDE, :SIDE]
        across = np.cos(angle)[:, None, None] * columns + np.sin(angle)[:, None, None] * rows
        phase, width = rng.uniform(0, 6, (2, len(labels), 1, 1))
        waves = 120 + 90 * np.sin(across / (1 + width / 6) + phase) + rng.normal(0, 10, across.shape)
        grey = waves.clip(0, 255).astype(np.uint8)
        return ImageSet(np.repeat(grey[..., None], 3, axis=3), labels.astype(np.int64))
