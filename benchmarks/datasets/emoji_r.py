"""``emoji_r``: 200 things, each drawn by twelve hands; training and test pictures come from different families of drawings.

It relates to a network trained on other emoji as ImageNet-R to one trained on photographs: new classes, and at test the same
classes in other renditions.
"""

from __future__ import annotations

import configparser
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from smope_bench.benchmarks.base import SPLITS, BenchmarkCard, BenchmarkConfig, ProgressCallback, Split
from smope_bench.benchmarks.datasets.emoji_sets import (
    FAMILIES,
    REGISTRY,
    RENDERER,
    RENDERER_VERSION,
    SETS,
    Icon,
    IconSet,
    concepts,
    drawn,
    read_icons,
    require_renderer,
)
from smope_bench.benchmarks.download.fetch import Remote
from smope_bench.benchmarks.download.published_files import PublishedFiles
from smope_bench.benchmarks.image_store.cache import CacheWriter
from smope_bench.benchmarks.image_store.cached_benchmark import CachedBenchmark
from smope_bench.benchmarks.image_store.pictures import in_threads

RULES = 1  # increase when the pixels of the same configuration change
Family = Literal["noto", "fxemoji", "fluent", "twemoji", "emojione", "openmoji", "streamline"]
TEST_FAMILIES: tuple[Family, ...] = ("fxemoji", "openmoji", "streamline")
Neighbours = Literal["any", "together", "apart"]
Rgb = NDArray[np.float64]


class EmojiRConfig(BenchmarkConfig):
    """Settings of ``emoji_r``; its images depend on ``data_seed``, not on a run's order or training seed."""

    unstated_defaults: ClassVar[frozenset[str]] = BenchmarkConfig.unstated_defaults | {"related"}

    tasks: int = Field(default=10, ge=1, description="number of tasks that the 200 classes are split into: 5, 10, 20")
    image_size: int = Field(
        default=48,
        ge=8,
        le=1024,
        description="side in pixels of the images: that of the backbone: 48 for tiny_colour, 224 for a ViT-B/16",
    )
    train_per_class: int = Field(default=48, ge=1, le=10_000, description="training images of each class")
    test_per_class: int = Field(default=12, ge=1, le=10_000, description="test images of each class")
    test_families: tuple[Family, ...] = Field(
        default=TEST_FAMILIES,
        min_length=1,
        description="families of drawings to test on; the others are trained on, so that no hand is in both splits",
    )
    data_seed: int = Field(default=0, ge=0, description="seed of backgrounds, places, sizes and colours of all images")
    related: Neighbours = Field(
        default="any",
        description="where classes of one Unicode category, such as food and drink, are in the class order: anywhere,"
        " together and so in the same tasks, or apart, so that all categories have their share of every task",
    )

    @model_validator(mode="after")
    def _families_are_parted(self) -> EmojiRConfig:
        if len(set(self.test_families)) == len(FAMILIES):
            raise ValueError("test_families are all families, so that none is left to train on; leave one out")
        return self


class EmojiR(PublishedFiles, CachedBenchmark[EmojiRConfig]):
    """Drawings on drawn backgrounds, one seed an image: more images a class do not change the first ones."""

    name: ClassVar[str] = "emoji_r"
    Config: ClassVar[type[BenchmarkConfig]] = EmojiRConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="Emoji in renditions",
        source="npm packages @iconify-json/… of " + ", ".join(f"{one.name} {one.version}" for one in SETS),
        licence="; ".join(
            f"{licence}: {', '.join(one.name for one in SETS if one.licence == licence)}"
            for licence in dict.fromkeys(one.licence for one in SETS)
        ),
        summary="200 things drawn by twelve hands in seven families, four of which are trained on and three tested on;"
        " 48 training and 12 test images a class",
    )
    published_counts: ClassVar[tuple[int, int] | None] = None
    remotes: ClassVar[tuple[Remote, ...]] = tuple(one.remote() for one in SETS)
    layout: ClassVar[str] = "the twelve archives, such as " + SETS[0].remote().name + ","

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the emoji show."""
        return tuple(concept.name.replace("-", " ") for concept in concepts("class"))

    def class_order(self, seed: int) -> tuple[int, ...]:
        """See ``Benchmark.class_order``; by ``related``, classes of one category are moved together or apart."""
        order = super().class_order(seed)
        if self.config.related == "any":
            return order
        groups = defaultdict[str, list[int]](list)
        for label in order:
            groups[concepts("class")[label].category].append(label)
        if self.config.related == "together":
            return tuple(label for group in groups.values() for label in group)
        places = {label: (place + 0.5) / len(group) for group in groups.values() for place, label in enumerate(group)}
        return tuple(sorted(order, key=places.__getitem__))

    def recipe(self) -> dict[str, Any]:
        """What the stored images depend on."""
        config = self.config
        return {
            "benchmark": self.name,
            "rules": RULES,
            "renderer": f"{RENDERER} {RENDERER_VERSION}",
            "sets": {f"{one.name} {one.version}": one.licence for one in SETS},
            "concepts": [dict(concept.icons) for concept in concepts("class")],
            "image_size": config.image_size,
            "per_class": [config.train_per_class, config.test_per_class],
            "test_families": sorted(set(config.test_families)),
            "data_seed": config.data_seed,
        }

    def expected_counts(self) -> tuple[int, int]:
        """As many images as asked for, of every class."""
        classes = len(concepts("class"))
        return classes * self.config.train_per_class, classes * self.config.test_per_class

    def obtain(self, remote: Remote, progress: ProgressCallback) -> Path:
        """See ``PublishedFiles.obtain``; downloads come from the user's own npm registry, where one is set."""
        registry = npm_registry().rstrip("/") + "/"
        moved = tuple(registry + url.removeprefix(REGISTRY) if url.startswith(REGISTRY) else url for url in remote.urls)
        return super().obtain(replace(remote, urls=moved), progress)

    def fill(self, writer: CacheWriter, progress: ProgressCallback) -> None:
        """Draw all classes of both splits."""
        require_renderer()
        wanted, icons = concepts("class"), dict[str, dict[str, Icon]]()
        for one, remote in zip(SETS, self.remotes, strict=True):
            progress(f"{self.name}: reading {one.name}")
            archive = self.obtain(remote, progress)
            icons[one.name] = read_icons(archive, {concept.name: concept.icons[one.name] for concept in wanted})
        counts = self.config.train_per_class, self.config.test_per_class
        for label, concept in enumerate(wanted):
            if label % 20 == 0:
                progress(f"{self.name}: drawing class {label + 1} of {len(wanted)}")
            for split, count in zip(SPLITS, counts, strict=True):
                scenes = [
                    scene(icons[one.name][concept.name], (self.config.data_seed, SPLITS.index(split), label, number))
                    for number, one in enumerate(self.hands(split, count))
                ]
                pixels = in_threads(lambda elements: drawn(elements, self.config.image_size), scenes)
                writer.add(split, np.stack(pixels), np.full(count, label, dtype=np.int64))

    def hands(self, split: Split, count: int) -> Iterator[IconSet]:
        """The set of each image: the split's families in turn, and within a family its sets in turn."""
        tested = set(self.config.test_families)
        families = [
            [one for one in SETS if one.family == family]
            for family in FAMILIES
            if (family in tested) == (split == "test")
        ]
        for number in range(count):
            sets = families[number % len(families)]
            yield sets[number // len(families) % len(sets)]


def npm_registry() -> str:
    """The registry that npm itself would ask: of the environment, else of ``~/.npmrc``, else the public one."""
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if os.environ.get(name):
            return os.environ[name]
    settings = configparser.RawConfigParser(strict=False, delimiters=("=",), default_section="npm")
    try:
        settings.read_string("[npm]\n" + Path("~/.npmrc").expanduser().read_text("utf-8", errors="replace"))
    except (OSError, RuntimeError, configparser.Error):  # no such file, no home, or not in npm's form
        return REGISTRY
    return settings.defaults().get("registry", "").strip().strip("\"'") or REGISTRY


def scene(icon: Icon, key: tuple[int, ...]) -> str:
    """SVG elements of one picture, seeded by ``key``: a background, the icon on it, and a tint over both."""
    rng = np.random.default_rng(key)
    is_dark = rng.random() < 0.25
    paper = rng.uniform(0.08, 0.35, 3) if is_dark else rng.uniform(0.7, 1.0, 3)
    size, angle = rng.uniform(0.5, 0.92), rng.uniform(-15, 15)
    # Up to a tenth of the side may be cut off.
    reach = max(0.6 - size / 2, 0)
    centre = rng.uniform(0.5 - reach, 0.5 + reach), rng.uniform(0.5 - reach, 0.5 + reach)
    ink = rng.uniform(0.65, 1.0, 3) if is_dark else rng.uniform(0.0, 0.35, 3)
    tint, strength = rng.uniform(0, 1, 3), rng.uniform(0, 0.25)
    over = f'<rect width="1" height="1" fill="{colour(tint)}" fill-opacity="{strength:.4f}"/>'
    return background(rng, paper) + icon.group(size, centre, angle, colour(ink)) + over


def background(rng: np.random.Generator, paper: Rgb) -> str:
    """SVG elements that fill the square: plain paper, a slope between two shades, or blots of another shade."""
    kind = rng.integers(3)
    other = np.clip(paper + rng.uniform(-0.25, 0.25, 3), 0, 1)
    plain = f'<rect width="1" height="1" fill="{colour(paper)}"/>'
    if kind == 0:
        return plain
    if kind == 1:
        turn = rng.uniform(0, 360)
        stops = f'<stop offset="0" stop-color="{colour(paper)}"/><stop offset="1" stop-color="{colour(other)}"/>'
        slope = f'<linearGradient id="paper" gradientTransform="rotate({turn:.4f} 0.5 0.5)">{stops}</linearGradient>'
        return f'<defs>{slope}</defs><rect width="1" height="1" fill="url(#paper)"/>'
    blots = [
        f'<circle cx="{x:.4f}" cy="{y:.4f}" r="{0.05 + 0.2 * r:.4f}" fill="{colour(other)}" fill-opacity="0.6"/>'
        for x, y, r in rng.random((rng.integers(3, 9), 3))
    ]
    return plain + "".join(blots)


def colour(rgb: Rgb) -> str:
    """A colour of SVG. ``rgb``: (3,) in [0, 1]."""
    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in rgb)
