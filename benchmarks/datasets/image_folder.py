"""``imagefolder``: a user's own images, one sub-folder a class."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from smope_bench.benchmarks.base import SPLITS, BenchmarkCard, BenchmarkConfig, ProgressCallback, Split, silent
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.picture_benchmark import Picture, PictureBenchmark, PictureConfig
from smope_bench.benchmarks.image_store.pictures import central_square
from smope_bench.benchmarks.image_store.writer import Kind, Part
from smope_bench.benchmarks.stream import stratum


@dataclass(frozen=True)
class ImageFile:
    """One file. ``split`` is None where the folder has no split; ``sha256`` is that of its bytes."""

    path: Path
    label: int
    split: Split | None
    sha256: str

    def read(self) -> bytes:
        """The bytes that were hashed. Raises BenchmarkError where they have changed."""
        data = _read(self.path)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise BenchmarkError(f"{shown(self.path)} has changed while it was being read")
        return data


@dataclass(frozen=True)
class Folder:
    """All images of a folder, class after class, file names rising."""

    class_names: tuple[str, ...]
    files: tuple[ImageFile, ...]
    content: str


def shown(path: Path) -> str:
    """A file's name made printable."""
    return repr(str(path))


def scan_folder(root: Path, progress: ProgressCallback = silent) -> Folder:
    """Read and hash every file below ``root``.

    Layouts: ``<class>/<image>``, or ``train/<class>/<image>`` beside ``test/<class>/<image>``. Names that begin with a
    dot are ignored; anything else out of place is an error that names it. ``content`` is a sha256 (hex) over the
    relative names and bytes of all files: moving the folder does not change it.
    """
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise BenchmarkError(f"{shown(root)} {state}; path must name a folder with one sub-folder per class")
    tops = folders_in(root)
    if not tops:
        raise BenchmarkError(f"{shown(root)} has no classes; it must hold one sub-folder of images per class")
    names = {os.fsencode(top.name): top for top in tops}
    if {b"train", b"test"} <= set(names) and all(_has_folder(names[key]) for key in (b"train", b"test")):
        if len(tops) > 2:
            other = next(top for top in tops if top.name not in SPLITS)
            raise BenchmarkError(f"{shown(other)} lies beside train and test; move it away")
        parts: list[tuple[Split | None, list[Path]]] = [(split, folders_in(root / split)) for split in SPLITS]
    else:
        parts = [(None, tops)]
    classes = _common_classes(root, parts)
    progress(f"reading {len(classes)} classes of {root}")
    digest, files = hashlib.sha256(), []
    for split, folders in parts:
        for label, folder in enumerate(folders):
            for path in _files_in(folder):
                sha256 = hashlib.sha256(_read(path)).hexdigest()
                files.append(ImageFile(path, label, split, sha256))
                digest.update(os.fsencode(path.relative_to(root).as_posix()) + b"\0" + sha256.encode() + b"\n")
    return Folder(tuple(readable(name) for name in classes), tuple(files), digest.hexdigest())


def _common_classes(root: Path, parts: list[tuple[Split | None, list[Path]]]) -> list[str]:
    """Names of the classes, the same in every part."""
    first, *others = [[folder.name for folder in folders] for _, folders in parts]
    for other in others:
        for name in sorted(set(first) ^ set(other)):
            has, lacks = SPLITS if name in first else SPLITS[::-1]
            raise BenchmarkError(f"class {name!r} of {shown(root)} is in {has} but not in {lacks}")
    return first


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=os.fsencode)
    except OSError as error:
        raise BenchmarkError(f"{shown(folder)} cannot be read ({error.strerror})") from error


def _has_folder(folder: Path) -> bool:
    return any(entry.is_dir() for entry in _entries(folder))


def folders_in(root: Path) -> list[Path]:
    """Class folders; a file beside them is an error."""
    entries = _entries(root)
    for entry in entries:
        if not entry.is_dir():
            raise BenchmarkError(f"{shown(entry)} lies beside the class folders; every image must be in one of them")
    return entries


def _files_in(folder: Path) -> list[Path]:
    """Files of one class folder."""
    entries = _entries(folder)
    if not entries:
        raise BenchmarkError(f"class folder {shown(folder)} is empty")
    for entry in entries:
        if entry.is_dir():
            raise BenchmarkError(f"{shown(entry)} is a folder inside a class folder; images must lie directly in it")
        if not entry.is_file():
            # Reading a pipe would block; a dangling link cannot be read.
            raise BenchmarkError(f"{shown(entry)} is neither a file nor a link to one")
    return entries


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchmarkError(f"{shown(path)} cannot be read ({error.strerror})") from error


def readable(name: str) -> str:
    """A class name that can be written as UTF-8: bytes that are not text become ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


RULES = 2  # increase when the pixels or the split of the same folder change


class ImageFolderConfig(PictureConfig):
    """Settings of ``imagefolder``. A run is identified by ``content``, a hash of what ``path`` held."""

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


class ImageFolder(PictureBenchmark[ImageFolderConfig]):
    """Images of any folder, upright and in RGB: their central squares resized once, or whole pictures."""

    name: ClassVar[str] = "imagefolder"
    takes_user_data: ClassVar[bool] = True
    upright: ClassVar[bool] = True
    remedy: ClassVar[str] = "repair them or move them away"
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
        return found

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the sub-folders, in rising order."""
        return self.opened().class_names if self.config.path is None else self.folder.class_names

    def pinned(self) -> ImageFolderConfig:
        """The configuration with ``content`` in place of ``path``."""
        return self.config.model_copy(update={"path": None, "content": self._content})

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
            return BenchmarkError(f"{self.name}: give path=FOLDER, a {self.Config.model_fields['path'].description}")
        return BenchmarkError(
            f"{self.name}: no intact images with content {self.config.content[:12]} under {self.root}; "
            "give path=FOLDER to read them again"
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
