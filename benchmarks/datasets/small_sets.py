"""``small_sets``: digits, letters and symbols in renditions, one set a task: ``five_datasets`` in small; nothing is downloaded."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from smope_bench.benchmarks.base import SPLITS, BenchmarkCard, BenchmarkConfig, ClassOrder, ProgressCallback
from smope_bench.benchmarks.datasets import digits, glyphs
from smope_bench.benchmarks.datasets.glyph_rendering import Mix
from smope_bench.benchmarks.image_store.cache import CacheWriter
from smope_bench.benchmarks.image_store.cached_benchmark import CachedBenchmark
from smope_bench.benchmarks.protocol import require_order_seed
from smope_bench.benchmarks.stream import stratum

RULES = 1  # increase when the pixels or the split of the same configuration change
CLASSES = 10
"""Of each set."""
SETS = ("digits", "letters", "renditions")
"""In the fixed order of arrival."""
LETTERS, SYMBOLS = glyphs.CHARACTERS[:CLASSES], "&@#$%§¶?+="
PLAIN = Mix(kinds=(1, 0, 0, 0, 0, 0))
"""Dark paper and light ink in many faces, as the letters of notMNIST are."""


class SmallSetsConfig(BenchmarkConfig):
    """Settings of ``small_sets``: a task is a set, so that neither their number nor their classes can be changed."""

    tasks: int = Field(default=len(SETS), ge=len(SETS), le=len(SETS), description="a task is a set: always 3")
    class_order: ClassOrder = Field(
        default="natural", description="classes arrive with their set, in its own order; cannot be changed"
    )
    task_order: Literal["fixed", "seeded"] = Field(
        default="fixed",
        description="fixed: digits, letters, renditions for every seed; seeded: shuffled by the order seed",
    )
    letters_per_class: int = Field(default=60, ge=1, le=10_000, description="training images of each letter")
    symbols_per_class: int = Field(default=30, ge=1, le=10_000, description="training images of each rendered symbol")
    test_per_class: int = Field(default=20, ge=1, le=10_000, description="test images of each letter and symbol")
    data_seed: int = Field(default=0, ge=0, description="seed of the digits' split, and of faces and renditions")

    @model_validator(mode="after")
    def _sets_are_whole(self) -> SmallSetsConfig:
        if self.class_order != "natural":
            raise ValueError("a task is a set and its classes keep their order; order the tasks by task_order")
        if self.split is not None:
            raise ValueError("a task is a set of ten classes, so that classes are not split; leave split out")
        return self


class SmallSets(CachedBenchmark[SmallSetsConfig]):
    """Three domains of ten classes and of unequal size; class c of set i has the id 10 i + c."""

    name: ClassVar[str] = "small_sets"
    Config: ClassVar[type[BenchmarkConfig]] = SmallSetsConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="Small sets",
        source=f"{digits.Digits.card.source}; letters and symbols: {glyphs.SOURCE}",
        licence=f"digits: {digits.Digits.card.licence}; fonts: {glyphs.LICENCE}",
        summary="three sets of ten classes, one a task: handwritten digits, letters, and symbols in renditions",
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The set and its class."""
        names = ("0123456789", LETTERS, SYMBOLS)
        return tuple(f"{one} {name}" for one, own in zip(SETS, names, strict=True) for name in own)

    def class_order(self, seed: int) -> tuple[int, ...]:
        """The sets in order of arrival, each with its classes in their own order."""
        require_order_seed(self.config.class_order, seed)
        order = list(range(len(SETS)))
        if self.config.task_order == "seeded":
            random.Random(seed).shuffle(order)
        return tuple(CLASSES * one + label for one in order for label in range(CLASSES))

    def recipe(self) -> dict[str, Any]:
        """What the stored images depend on."""
        config = self.config
        counts = config.symbols_per_class, config.test_per_class
        symbols = glyphs.recipe_of(self.name, SYMBOLS, config.image_size, counts, config.data_seed)
        letters = {"characters": LETTERS, "per_class": config.letters_per_class, "mix": str(asdict(PLAIN))}
        return {**symbols, "rules": [glyphs.RULES, digits.RULES, RULES], "letters": letters}

    def expected_counts(self) -> tuple[int, int]:
        """Digits in the split of ``digits``, letters and symbols as asked for."""
        config = self.config
        tested = sum(len(stratum(size, 0.2, "")[1]) for size in digits.CLASS_SIZES)
        trained = sum(digits.CLASS_SIZES) - tested
        drawn = CLASSES * (config.letters_per_class + config.symbols_per_class)
        return trained + drawn, tested + 2 * CLASSES * config.test_per_class

    def fill(self, writer: CacheWriter, progress: ProgressCallback) -> None:
        """Enlarge the digits and render letters and symbols."""
        config = self.config
        own = digits.DigitsConfig(image_size=config.image_size, split_seed=config.data_seed)
        digits.Digits(own, self.root).fill(writer, progress)
        drawn = ((LETTERS, config.letters_per_class, PLAIN), (SYMBOLS, config.symbols_per_class, glyphs.RENDITIONS_MIX))
        for number, (characters, trained, mix) in enumerate(drawn, start=1):
            progress(f"{self.name}: rendering {SETS[number]}")
            for label, character in enumerate(characters):
                for split, count in zip(SPLITS, (trained, config.test_per_class), strict=True):
                    keys = [(config.data_seed, SPLITS.index(split), label, number, row) for row in range(count)]
                    pictures = glyphs.pictures_of(character, keys, config.image_size, mix)
                    writer.add(split, pictures, np.full(count, CLASSES * number + label, dtype=np.int64))
