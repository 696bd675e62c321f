"""``digits``: the 1,797 handwritten digits that come with scikit-learn, as five tasks of two classes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from smope_bench.benchmarks.base import BenchmarkCard, BenchmarkConfig, ProgressCallback
from smope_bench.benchmarks.image_store.cache import CacheWriter
from smope_bench.benchmarks.image_store.cached_benchmark import CachedBenchmark
from smope_bench.benchmarks.stream import stratum

RULES = 1  # increase when the pixels or the split of the same configuration change
INK_MAX = 16
CLASS_SIZES = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
"""Images of each digit."""


class DigitsConfig(BenchmarkConfig):
    """Settings of ``digits``; its training and test images are split by ``split_seed``, not by a run's seeds."""

    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="fraction of each class that is tested on")
    split_seed: int = Field(default=0, ge=0, description="seed of the stratified split into training and test images")


class Digits(CachedBenchmark[DigitsConfig]):
    """Scikit-learn's 8x8 digits, enlarged bilinearly and repeated over three channels."""

    name: ClassVar[str] = "digits"
    Config: ClassVar[type[BenchmarkConfig]] = DigitsConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="Digits",
        source="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
        "1998; the 1,797 test images, as shipped with scikit-learn",
        licence="CC BY 4.0",
        summary="1,797 real handwritten digits, 10 classes, 80/20 stratified split",
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(digit) for digit in range(10))

    def recipe(self) -> dict[str, Any]:
        config = self.config
        return {
            "benchmark": self.name,
            "rules": RULES,
            "image_size": config.image_size,
            "test_fraction": config.test_fraction,
            "split_seed": config.split_seed,
        }

    def expected_counts(self) -> tuple[int, int]:
        tested = sum(len(stratum(size, self.config.test_fraction, "")[1]) for size in CLASS_SIZES)
        return sum(CLASS_SIZES) - tested, tested

    def fill(self, writer: CacheWriter, progress: ProgressCallback) -> None:
        """Enlarge all digits and split each class."""
        from sklearn.datasets import load_digits  # a second to import, needed once

        progress("digits: enlarging 1,797 images")
        ink, labels = load_digits(return_X_y=True)
        images = enlarged(np.asarray(ink).reshape(-1, 8, 8), self.config.image_size)
        labels = np.asarray(labels, dtype=np.int64)
        for digit in range(10):
            rows = np.flatnonzero(labels == digit)
            seed = f"digits {self.config.split_seed} class {digit}"
            kept, tested = (rows[part] for part in stratum(len(rows), self.config.test_fraction, seed))
            writer.add("train", images[kept], labels[kept])
            writer.add("test", images[tested], labels[tested])


def enlarged(ink: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """Resize ink (N, h, w) in 0..16 bilinearly to uint8 (N, size, size, 3): pixel centres aligned, borders repeated."""
    pixels = _bilinear(ink.shape[1], size) @ (ink * (255 / INK_MAX)) @ _bilinear(ink.shape[2], size).T
    grey = np.rint(pixels).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _bilinear(source: int, target: int) -> NDArray[np.float64]:
    """Interpolation weights (target, source)."""
    centres = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    return np.clip(1 - np.abs(centres[:, None] - np.arange(source)[None]), 0, None)
