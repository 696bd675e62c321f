"""Benchmarks of pictures of any size: stored as the original files (exact) or resized to one size (fast).

Exact: the encoded files are packed one behind another and decoded whenever they are used. Fast: training pictures are
kept squeezed, whole, to a square of ``store_size``, from which boxes are cut; test pictures are kept as the test
transform leaves them, computed from the original. Test pictures are therefore the same to the bit in both modes; training
pictures, under the test transform too, come from the squeezed ones in the fast mode.
"""

from __future__ import annotations

import hashlib
import threading
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from smope_bench.benchmarks.base import SPLITS, BenchmarkConfig, ProgressCallback, Split
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.cached_benchmark import CachedBenchmark
from smope_bench.benchmarks.image_store.pictures import Frame, framed, in_threads, open_picture, squeezed
from smope_bench.benchmarks.image_store.writer import CacheWriter, Kind, Part

RULES = 2  # increase when the stored bytes of the same pictures change
BATCH = 64
NAMED_AT_MOST = 5

ImageMode = Literal["exact", "fast"]


class PictureConfig(BenchmarkConfig):
    """Settings of benchmarks of pictures."""

    image_mode: ImageMode = Field(
        default="exact",
        description="exact: pictures are decoded whenever they are used, as the official code does;"
        " fast: training pictures are kept decoded, squeezed to store_size",
    )
    store_size: int = Field(default=256, ge=8, le=2048, description="side in pixels of what the fast mode keeps")


PictureConfigT = TypeVar("PictureConfigT", bound=PictureConfig)


@dataclass(frozen=True)
class Picture:
    """An encoded image file of one split, with its original class id.

    ``name``: in messages; rows of a split are sorted by it.
    """

    split: Split
    label: int
    name: str
    data: bytes


class PictureBenchmark(CachedBenchmark[PictureConfigT]):
    """A subclass gives the source of its pictures and yields them one by one; this class stores them."""

    upright: ClassVar[bool] = False
    """Whether pictures are turned by their EXIF tag and put on white, which the official loaders do not."""
    remedy: ClassVar[str] = "the archive is damaged: fetch it again"
    """The remedy for pictures that cannot be decoded."""

    @abstractmethod
    def source(self) -> dict[str, Any]:
        """What the pictures depend on, as JSON: the archive's digest, lists, rules. Not how they are kept."""

    @abstractmethod
    def pictures(self, progress: ProgressCallback) -> Iterator[Picture]:
        """Every picture of both splits, one at a time, in any order: rows are those of the sorted names."""

    def recipe(self) -> dict[str, Any]:
        """The source and how the pictures are kept: everything that the images of a run depend on."""
        return {"parts": [part.recipe for part in self.parts()]}

    def parts(self) -> tuple[Part, ...]:
        """One cache in exact mode. In fast mode one a split: only the test pictures depend on the test transform."""
        common = {"benchmark": self.name, "rules": RULES, "source": self.source(), "upright": self.upright}
        config = self.config
        if config.image_mode == "exact":
            return (Part({**common, "keeps": "files"}, "encoded", upright=self.upright),)
        frame = {"size": config.image_size, "resize": config.test_resize, "filter": config.test_interpolation}
        frame |= {"squeeze": True} if config.test_squeeze else {}
        return (
            Part({**common, "keeps": "squeezed train", "side": config.store_size}, "squeezed", ("train",)),
            Part({**common, "keeps": "finished test", "frame": frame}, "finished", ("test",)),
        )

    def fill(self, writer: CacheWriter, progress: ProgressCallback) -> None:
        self.fill_parts([writer], progress)

    def fill_parts(self, writers: Sequence[CacheWriter], progress: ProgressCallback) -> None:
        """Decode every picture once, a few at a time. The error names several that cannot be decoded."""
        bad, done, warned = [], 0, list[str]()
        digests: dict[Split, list[bytes]] = {split: [] for split in SPLITS}
        pictures = iter(self.pictures(progress))
        while batch := list(islice(pictures, BATCH)):
            with _warnings_named(warned):
                entries = in_threads(partial(self._entries, writers=writers), batch)
            for picture, made in zip(batch, entries, strict=True):
                digests[picture.split].append(hashlib.sha256(picture.data).digest())
                if isinstance(made, str):
                    bad.append(f"{picture.name}: {made}")
                elif not bad:
                    for writer, pixels, size in made:
                        _append(writer, picture, pixels, size)
            done += len(batch)
            progress(f"{self.name}: decoded {done:,} pictures")
        if bad:
            raise BenchmarkError(f"{len(bad)} of {done} files cannot be used: {_named(bad)}; {self.remedy}")
        self.state_repeats(digests, progress)
        if warned:
            self.remarks.append(
                f"Pillow warns of {len(warned)} of {done} files, which are used: {_named(sorted(warned))}"
            )
            progress(f"{self.name}: {self.remarks[-1]}")

    def _entries(self, picture: Picture, writers: Sequence[CacheWriter]) -> list[Entry] | str:
        """What each writer of the picture's split stores of it, or the error."""
        _reading.name = picture.name
        with ExitStack() as held:
            try:
                image = open_picture(picture.data, upright=self.upright, held=held)
            except BenchmarkError as error:
                return str(error)
            size = (image.height, image.width)
            wanted = [writer for writer in writers if picture.split in writer.part.splits]
            return [(writer, self._pixels(image, writer.part.kind), size) for writer in wanted]

    def _pixels(self, image: Image.Image, kind: Kind) -> NDArray[np.uint8] | None:
        config = self.config
        if kind == "encoded":
            return None
        if kind == "squeezed":
            return squeezed(image, config.store_size)
        return framed(
            image, Frame(config.image_size, config.test_resize, config.test_interpolation, config.test_squeeze)
        )


_reading = threading.local()
"""``name``: of the picture that this thread reads."""


@contextmanager
def _warnings_named(found: list[str]) -> Iterator[None]:
    """Inside, a warning of any thread that reads a picture goes to ``found``, once for each name and text."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show = warnings.showwarning

        def note(message: Warning | str, *place: Any, **more: Any) -> None:
            name = getattr(_reading, "name", None)
            if name is None:
                show(message, *place, **more)
            elif (text := f"{name}: {' '.join(str(message).split())}") not in found:
                found.append(text)

        warnings.showwarning = note
        yield


def _named(texts: list[str]) -> str:
    more = f" and {len(texts) - NAMED_AT_MOST} more" if len(texts) > NAMED_AT_MOST else ""
    return "; ".join(texts[:NAMED_AT_MOST]) + more


Entry = tuple[CacheWriter, NDArray[np.uint8] | None, tuple[int, int]]


def _append(writer: CacheWriter, picture: Picture, pixels: NDArray[np.uint8] | None, size: tuple[int, int]) -> None:
    if pixels is None:
        writer.add_file(picture.split, picture.data, picture.label, picture.name)
    else:
        writer.add_picture(picture.split, pixels, picture.label, picture.name, size)
