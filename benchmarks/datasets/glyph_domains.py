"""``glyph_domains``: the characters of ``glyphs`` with one rendition a domain; nothing is downloaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from smope_bench.benchmarks.base import SPLITS, BenchmarkCard, BenchmarkConfig, ProgressCallback
from smope_bench.benchmarks.datasets.glyph_rendering import RENDITIONS
from smope_bench.benchmarks.datasets.glyphs import (
    CHARACTERS,
    LICENCE,
    RENDITIONS_MIX,
    SOURCE,
    class_name,
    pictures_of,
    recipe_of,
)
from smope_bench.benchmarks.domains import DomainBenchmark, DomainConfig
from smope_bench.benchmarks.image_store.cache import CacheWriter

RULES = 1  # increase when the pixels of the same configuration change


class GlyphDomainsConfig(DomainConfig):
    """Settings of ``glyph_domains``; its images depend on ``data_seed``, not on a run's order or training seed."""

    tasks: int = Field(default=len(RENDITIONS), ge=1, description="number of domains; follows from domains")
    classes: int = Field(
        default=20, ge=2, le=len(CHARACTERS), description="the first so many characters of glyphs are the classes"
    )
    train_per_class: int = Field(default=20, ge=1, le=10_000, description="training images of each class in a domain")
    test_per_class: int = Field(default=10, ge=1, le=10_000, description="test images of each class in a domain")
    data_seed: int = Field(default=0, ge=0, description="seed of faces and renditions of all images")


class GlyphDomains(DomainBenchmark[GlyphDomainsConfig]):
    """Rendered characters, every class in every domain, no picture in two domains."""

    name: ClassVar[str] = "glyph_domains"
    Config: ClassVar[type[BenchmarkConfig]] = GlyphDomainsConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="Glyphs, a rendition a domain",
        source=SOURCE,
        licence=LICENCE,
        summary="domain-incremental: 20 character classes in six renditions, 20 training and 10 test images a class and"
        " domain",
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The characters' Unicode names."""
        return tuple(map(class_name, CHARACTERS[: self.config.classes]))

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The renditions."""
        return RENDITIONS

    def expected_counts(self) -> tuple[int, int]:
        """As many images as asked for, of every class of the chosen domains."""
        cells = self.num_classes * len(self.domain_order(0))
        return cells * self.config.train_per_class, cells * self.config.test_per_class

    def recipe(self) -> dict[str, Any]:
        """What the stored images depend on."""
        config = self.config
        counts = config.train_per_class, config.test_per_class
        pictures = recipe_of(self.name, CHARACTERS[: config.classes], config.image_size, counts, config.data_seed)
        return {**pictures, "domains": list(RENDITIONS)}

    def fill(self, writer: CacheWriter, progress: ProgressCallback) -> None:
        """Render all classes of all domains."""
        config = self.config
        counts = dict(zip(SPLITS, (config.train_per_class, config.test_per_class), strict=True))
        for domain, name in enumerate(RENDITIONS):
            progress(f"glyph_domains: rendering {config.classes} classes in domain {name}")
            kinds = tuple(float(other == name) for other in RENDITIONS)
            mix = replace(RENDITIONS_MIX, kinds=kinds)
            for original, character in enumerate(CHARACTERS[: config.classes]):
                for split, count in counts.items():
                    first = (config.data_seed, SPLITS.index(split), original, domain)
                    pictures = pictures_of(character, [(*first, i) for i in range(count)], config.image_size, mix)
                    writer.add(split, pictures, np.full(count, self.cell(domain, original), dtype=np.int64))
