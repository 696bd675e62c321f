"""A folder of images as its owner keeps it: one sub-folder a class, read strictly and named by its content."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from smope_bench.benchmarks.base import SPLITS, Progress, Split, silent
from smope_bench.benchmarks.errors import BenchmarkError


@dataclass(frozen=True)
class ImageFile:
    """One file. ``split`` is None where the folder leaves the split to us; ``sha256`` is that of its bytes."""

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
    """A file's name as a message can carry it, whatever characters are in it."""
    return repr(str(path))


def scan_folder(root: Path, progress: Progress = silent) -> Folder:
    """Read and hash every file below ``root``.

    Layouts: ``<class>/<image>``, or ``train/<class>/<image>`` beside ``test/<class>/<image>``. Names that begin with a
    dot are ignored; anything else out of place is an error that names it. ``content`` is a sha256 (hex) over the
    relative names and bytes of all files: moving the folder does not change it.
    """
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise BenchmarkError(f"{shown(root)} {state}; path must name a folder with one sub-folder per class")
    tops = _folders_in(root)
    if not tops:
        raise BenchmarkError(f"{shown(root)} has no classes; it must hold one sub-folder of images per class")
    names = {os.fsencode(top.name): top for top in tops}
    if {b"train", b"test"} <= set(names) and all(_has_folder(names[key]) for key in (b"train", b"test")):
        if len(tops) > 2:
            other = next(top for top in tops if top.name not in SPLITS)
            raise BenchmarkError(f"{shown(other)} lies beside train and test; move it away")
        parts: list[tuple[Split | None, list[Path]]] = [(split, _folders_in(root / split)) for split in SPLITS]
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
    return Folder(tuple(_readable(name) for name in classes), tuple(files), digest.hexdigest())


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


def _folders_in(root: Path) -> list[Path]:
    """Class folders; a file beside them would belong to no class."""
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
            # A pipe would be waited on for ever, a dangling link read as nothing.
            raise BenchmarkError(f"{shown(entry)} is neither a file nor a link to one")
    return entries


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchmarkError(f"{shown(path)} cannot be read ({error.strerror})") from error


def _readable(name: str) -> str:
    """A class name that can be written as UTF-8: bytes that are not text become ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
