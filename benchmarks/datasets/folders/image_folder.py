"""``imagefolder``: a user's own images, one sub-folder a class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from smope_bench.benchmarks.base import BenchmarkCard, BenchmarkConfig, ProgressCallback, Split, silent
from smope_bench.benchmarks.datasets.folders.folder_scan import ImageFile, require_no_repeats, scan_folder, shown
from smope_bench.benchmarks.disk import shown_bytes
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.cache import cache_folder
from smope_bench.benchmarks.image_store.picture_benchmark import Picture, PictureBenchmark, PictureConfig
from smope_bench.benchmarks.image_store.pictures import central_square
from smope_bench.benchmarks.image_store.stores import PreparedStore, remove_earlier
from smope_bench.benchmarks.image_store.writer import Kind, Part
from smope_bench.benchmarks.stream import stratum

RULES = 2  # increase when the pixels or the split of the same folder change


class ImageFolderConfig(PictureConfig):
    """Settings of ``imagefolder``. A run is identified by ``content``, a hash of what ``path`` held."""

    unstated_defaults: ClassVar[frozenset[str]] = PictureConfig.unstated_defaults | {"repeats"}

    path: str | None = Field(default=None, min_length=1, description="folder with one sub-folder of images per class")
    content: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="hash of the folder's content; filled in from path"
    )
    keep: Literal["square", "whole"] = Field(
        default="square",
        description="square: the central square of each picture, cache_size wide; whole: as image_mode says",
    )
    cache_size: int | None = Field(
        default=None, ge=8, le=1024, description="side in pixels of the squares that are kept; none = image_size"
    )
    test_fraction: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="fraction of each class that is tested on, where the folder has no train and test",
    )
    split_seed: int = Field(
        default=0, ge=0, description="seed of the stratified split, where the folder has no train and test"
    )
    repeats: Literal["refuse", "allow"] = Field(
        default="refuse", description="what to do where the folder's test part repeats pictures of its training part"
    )


class ImageFolder(PictureBenchmark[ImageFolderConfig]):
    """Images of any folder, upright and in RGB: their central squares resized once, or whole pictures."""

    name: ClassVar[str] = "imagefolder"
    takes_user_data: ClassVar[bool] = True
    upright: ClassVar[bool] = True
    remedy: ClassVar[str] = "repair them or move them away"
    _removed: Sequence[PreparedStore] = ()
    Config: ClassVar[type[BenchmarkConfig]] = ImageFolderConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="Image folder",
        source="the folder named by path",
        licence="that of the images",
        summary="any folder with one sub-folder per class, or with train and test folders of such",
    )

    def scan(self, path: Path) -> Any:
        """Read and hash all files of the folder."""
        return scan_folder(path)

    @cached_property
    def folder(self) -> Any:
        """The folder at ``path``, read once. Raises BenchmarkError if its hash is not ``content``."""
        if self.config.path is None:
            raise self.missing()
        path = Path(self.config.path).expanduser()
        found = self.scan(path)
        if self.config.content not in (None, found.content):
            raise BenchmarkError(
                f"{shown(path)} holds content {found.content[:12]} but the run was planned with "
                f"{str(self.config.content)[:12]}; restore the folder or plan anew"
            )
        if self.config.repeats == "refuse":
            require_no_repeats(found)
        return found

    @property
    def origin(self) -> Path | None:
        return None if self.config.path is None else Path(self.config.path).expanduser()

    def prepare(self, progress: ProgressCallback = silent, given: Sequence[Path] = ()) -> None:
        """See ``CachedBenchmark.prepare``. Of earlier states of the folder one is kept, for runs that are not finished."""
        super().prepare(progress, given)
        if self.config.path is not None:
            self._removed = [
                store for part in self.parts() for store in remove_earlier(cache_folder(self.cache_parent, part.recipe))
            ]

    def notes(self) -> tuple[str, ...]:
        """How the folder was read and split, and what Pillow remarked on its pictures."""
        if self.config.path is None:
            return super().notes()
        parts = self._split()
        trained = {file.sha256 for file in parts["train"]}
        repeated = sum(file.sha256 in trained for file in parts["test"])
        said = list(self.folder.notes)
        if any(file.split is None for file in self.folder.files):
            said.append(
                f"the folder has no test part: a fraction of {self.config.test_fraction:g} of each class is tested on and "
                "never trained on (benchmark.test_fraction, benchmark.split_seed)"
            )
        if repeated:
            said.append(f"{repeated:,} of {len(parts['test']):,} test pictures are copies of training pictures")
        if self._removed:
            size = shown_bytes(sum(store.bytes for store in self._removed))
            said.append(f"images of earlier states of the folder were removed, {size}; the last state's are kept")
        return (*said, *super().notes())

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the sub-folders, in their order."""
        return self.opened().class_names if self.config.path is None else self.folder.class_names

    def pinned(self) -> ImageFolderConfig:
        """The configuration with ``content`` in place of ``path``; ``content`` decides what ``repeats`` would ask for."""
        return self.config.model_copy(update={"path": None, "content": self._content, "repeats": "refuse"})

    def source(self) -> dict[str, Any]:
        """The folder's content and its split."""
        return {
            "rules": RULES,
            "content": self._content,
            "test_fraction": self.config.test_fraction,
            "split_seed": self.config.split_seed,
        }

    def parts(self) -> tuple[Part, ...]:
        """Squares are kept as plain arrays, whole pictures by the settings."""
        if self.config.keep == "whole":
            return super().parts()
        return (Part({"benchmark": self.name, **self.source(), "side": self._side}),)

    def pictures(self, progress: ProgressCallback) -> Iterator[Picture]:
        """Training pictures, then test pictures, each class after class."""
        progress(f"{self.name}: decoding {len(self.folder.files):,} images")
        for split, files in self._split().items():
            for file in files:
                yield Picture(split, file.label, shown(file.path), file.read())

    def _pixels(self, image: Image.Image, kind: Kind) -> NDArray[np.uint8] | None:
        return central_square(image, self._side) if kind == "pixels" else super()._pixels(image, kind)

    def missing(self) -> BenchmarkError:
        if self.config.path is not None:
            return super().missing()
        if self.config.content is None:
            return BenchmarkError(
                f"{self.name}: give --set benchmark.path=FOLDER, a {self.Config.model_fields['path'].description}"
            )
        return BenchmarkError(
            f"{self.name}: no intact images with content {self.config.content[:12]} under {self.root}; "
            "give --set benchmark.path=FOLDER to read them again"
        )

    @property
    def _content(self) -> str:
        if self.config.path is None and self.config.content is not None:
            return self.config.content
        return self.folder.content

    @property
    def kept_side(self) -> int | None:
        return self._side if self.config.keep == "square" else None

    @property
    def _side(self) -> int:
        return self.config.cache_size or self.config.image_size

    def group_of(self, label: int) -> tuple[str, str]:
        """What a label stands for, in messages and as a part of the split's seed."""
        return f"class {self.folder.class_names[label]!r}", f"class {label}"

    def _split(self) -> dict[Split, list[ImageFile]]:
        """The folder's own split, or a stratified one drawn by ``split_seed``."""
        parts: dict[Split, list[ImageFile]] = {"train": [], "test": []}
        open_classes: dict[int, list[ImageFile]] = defaultdict(list)
        for file in self.folder.files:
            (open_classes[file.label] if file.split is None else parts[file.split]).append(file)
        for label, files in open_classes.items():
            name, drawn_for = self.group_of(label)
            if len(files) < 2:
                raise BenchmarkError(f"{name} has one image; at least two are needed, one to test on")
            seed = f"imagefolder {self.config.split_seed} {drawn_for}"
            for split, rows in zip(parts, stratum(len(files), self.config.test_fraction, seed), strict=True):
                parts[split].extend(files[row] for row in rows)
        return parts
