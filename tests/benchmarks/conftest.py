"""A benchmark held in memory whose pixels say what they are, and folders of small images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.base import Benchmark, BenchmarkCard, BenchmarkConfig, ImageSet, Progress, Split, silent


class Toy(Benchmark[BenchmarkConfig]):
    """Image j of class c has pixel values (c, j, 0 in training and 1 in test)."""

    name = "toy"
    card = BenchmarkCard("Toy", "made here", "none", "numbers")

    def __init__(self, config: BenchmarkConfig, counts: dict[Split, list[int]]) -> None:
        super().__init__(config, Path("unused"))
        self.counts = counts

    def prepare(self, progress: Progress = silent, given: Sequence[Path] = ()) -> None:
        pass

    def image_set(self, split: Split) -> ImageSet:
        pixels = [
            (original, image, int(split == "test"))
            for image in range(max(self.counts[split]))
            for original, count in enumerate(self.counts[split])
            if image < count
        ]
        images = np.array(pixels, dtype=np.uint8).reshape(-1, 1, 1, 3)
        return ImageSet(images, images[:, 0, 0, 0].astype(np.int64))

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(f"class {original}" for original in range(len(self.counts["train"])))


MakeToy = Callable[..., Toy]


@pytest.fixture
def make_toy() -> MakeToy:
    def make(classes: int = 6, train: int = 10, test: int = 4, **config: object) -> Toy:
        settings = BenchmarkConfig.model_validate({"tasks": 3, **config})
        return Toy(settings, {"train": [train] * classes, "test": [test] * classes})

    return make


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write ``count`` PNG files a class; every image of every class is different."""

    def make(classes: tuple[str, ...] = ("ant", "bee", "cat"), count: int = 5, under: str = "pictures") -> Path:
        root = tmp_path / under
        for label, name in enumerate(classes):
            (root / name).mkdir(parents=True)
            for image in range(count):
                colour = (40 * label + 10, 20 * image + 5, len(under))
                Image.new("RGB", (12, 10), colour).save(root / name / f"{image}.png")
        return root

    return make
