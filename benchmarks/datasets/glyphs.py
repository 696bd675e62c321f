"""``glyphs``: 100 character classes in renditions, drawn from the fonts that matplotlib ships; nothing is downloaded.

It relates to a network trained on solid characters as ImageNet-R to one trained on photographs: new classes, in shared styles
(outline, hatching, texture, inversion, low resolution, distortion) that are rare in its training images.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from smope_bench.benchmarks.base import SPLITS, BenchmarkCard, BenchmarkConfig, ProgressCallback, Split
from smope_bench.benchmarks.datasets.glyph_rendering import FACES, Draws, Mix, faces_with, mask_stack, render
from smope_bench.benchmarks.image_store.cache import CacheWriter
from smope_bench.benchmarks.image_store.cached_benchmark import CachedBenchmark

RULES = 1  # increase when the pixels of the same configuration change

# No two look alike in one face (as o/O, c/C, Latin and Cyrillic A do); each is in at least 12 of the 16 faces.
CHARACTERS = "ABCFHJKLMQRTUVWXYZabdefgmn&@#$%§¶?+=∞∑∫√♠♥♪♫€£©†←⇐∈⊂⊕±×◊ΞΦΨΩαβζημωДЖЛЦШЭЮЯЙЉЊԲԳԶԹԺԻԽԾԿՃՆՇՊՔაბდელოუფქ"

# Chosen once, after the tiny backbone was trained, by its acceptance tests: grey paper and paler ink shift all pictures alike, so
# that a prompt shared by all classes can make up for much of what frozen features lack.
RENDITIONS_MIX = Mix(
    kinds=(1, 1, 1, 1, 1, 1),
    strength=(0.5, 1.0),
    invert=0.3,
    clutter=(0.0, 0.09),
    paper=(0.34, 0.48),
    ink=(0.65, 0.82),
    tint=0.2,
)

SOURCE = "rendered by this project from the DejaVu and STIX fonts that come with matplotlib"
LICENCE = "Bitstream Vera and Arev licences (DejaVu), SIL Open Font License 1.1 (STIX)"


class GlyphsConfig(BenchmarkConfig):
    """Settings of ``glyphs``; its images depend on ``data_seed``, not on a run's order or training seed."""

    tasks: int = Field(default=10, ge=1, description="number of tasks that the 100 classes are split into: 5, 10, 20")
    train_per_class: int = Field(default=40, ge=1, le=10_000, description="training images of each class")
    test_per_class: int = Field(default=10, ge=1, le=10_000, description="test images of each class")
    data_seed: int = Field(default=0, ge=0, description="seed of faces and renditions of all images")


class Glyphs(CachedBenchmark[GlyphsConfig]):
    """Rendered characters with one seed an image: more images a class do not change the first ones."""

    name: ClassVar[str] = "glyphs"
    Config: ClassVar[type[BenchmarkConfig]] = GlyphsConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="Glyphs in renditions",
        source=SOURCE,
        licence=LICENCE,
        summary="100 character classes in six renditions and 16 font faces, 40 training and 10 test images a class",
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The characters' Unicode names."""
        return tuple(map(class_name, CHARACTERS))

    def recipe(self) -> dict[str, Any]:
        """What the stored images depend on."""
        config = self.config
        counts = config.train_per_class, config.test_per_class
        return recipe_of(self.name, CHARACTERS, config.image_size, counts, config.data_seed)

    def expected_counts(self) -> tuple[int, int]:
        return len(CHARACTERS) * self.config.train_per_class, len(CHARACTERS) * self.config.test_per_class

    def fill(self, writer: CacheWriter, progress: ProgressCallback) -> None:
        """Render all classes of both splits."""
        progress(f"glyphs: rendering {len(CHARACTERS)} classes")
        for label in range(len(CHARACTERS)):
            for split, count in zip(SPLITS, (self.config.train_per_class, self.config.test_per_class), strict=True):
                labels = np.full(count, label, dtype=np.int64)
                writer.add(
                    split, class_images(label, split, count, self.config.image_size, self.config.data_seed), labels
                )


def recipe_of(
    name: str, characters: Sequence[str], image_size: int, per_class: tuple[int, int], data_seed: int
) -> dict[str, Any]:
    """What stored pictures of characters depend on; another matplotlib may carry other fonts."""
    from matplotlib import __version__

    mix = asdict(RENDITIONS_MIX)
    return {
        "benchmark": name,
        "rules": RULES,
        "matplotlib": __version__,
        "faces": list(FACES),
        "characters": characters,
        "mix": {part: list(value) if isinstance(value, tuple) else value for part, value in mix.items()},
        "image_size": image_size,
        "per_class": list(per_class),
        "data_seed": data_seed,
    }


def class_name(character: str) -> str:
    """The character and its Unicode name."""
    return f"{character} {unicodedata.name(character).lower()}"


def class_images(
    label: int, split: Split, count: int, size: int, data_seed: int, mix: Mix = RENDITIONS_MIX
) -> NDArray[np.uint8]:
    """The first ``count`` images of a class, uint8 (count, size, size, 3); image i does not depend on ``count``."""
    keys = [(data_seed, SPLITS.index(split), label, number) for number in range(count)]
    return pictures_of(CHARACTERS[label], keys, size, mix)


def pictures_of(character: str, keys: list[tuple[int, ...]], size: int, mix: Mix) -> NDArray[np.uint8]:
    """Pictures of a character, uint8 (n, size, size, 3), one a seed."""
    import torch

    faces = faces_with(character)
    # The face has its own generator, so that new scalars in a rendition do not change the faces.
    chosen = [faces[np.random.default_rng((*key, 1)).integers(len(faces))] for key in keys]
    masks = torch.from_numpy(mask_stack((face, character) for face in chosen)).float() / 255
    pictures = render(masks, Draws.one_each(keys, size), mix)
    return (pictures * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
