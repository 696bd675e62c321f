"""What a data folder holds beside stores of images: downloaded files, weights of backbones, frozen features, unknown files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smope_bench.benchmarks.errors import BenchmarkError

DOWNLOADS, WEIGHTS, FEATURES = "downloads", "weights", "queries"
Kind = Literal["downloads", "weights", "features", "other"]
WORDS: dict[Kind, str] = {
    "downloads": "downloads, fetched again if needed",
    "weights": "weights of a backbone",
    "features": "frozen features, made again if needed",
    "other": "unknown, or a damaged store",
}


@dataclass(frozen=True)
class OtherData:
    """One part of a data folder. ``name``: its path there; ``used``: its newest file, in seconds since 1970."""

    name: str
    files: tuple[Path, ...]
    kind: Kind
    bytes: int
    used: float


def other_data(root: Path, stores: set[Path]) -> list[OtherData]:
    """Everything below a data folder that is neither hidden nor one of its ``stores``, by name."""
    return [_measured(root, files, kind) for files, kind in sorted(_parts(root, stores))]


def remove_other(part: OtherData) -> None:
    """Delete a part. Raises BenchmarkError where that fails."""
    try:
        aside = Path(tempfile.mkdtemp(prefix=".removed-", dir=part.files[0].parent))
        for file in part.files:
            file.rename(aside / file.name)
        shutil.rmtree(aside)
    except OSError as error:
        raise BenchmarkError(f"{part.files[0]} cannot be removed ({error.strerror})") from error


def _parts(root: Path, stores: set[Path]) -> Iterator[tuple[tuple[Path, ...], Kind]]:
    for place in _visible(root):
        if place.is_symlink() or not place.is_dir():
            yield (place,), "other"
        elif place.name == FEATURES:
            yield (place,), "features"
        elif place.name == WEIGHTS:
            yield from _weights(place)
        else:
            for inner in _visible(place):
                if inner.name == DOWNLOADS:
                    yield (inner,), "downloads"
                elif inner not in stores:
                    yield (inner,), "other"


def _weights(folder: Path) -> Iterator[tuple[tuple[Path, ...], Kind]]:
    """The files of each backbone together: its tensors and their description."""
    named: dict[str, list[Path]] = {}
    for file in _visible(folder):
        if file.name == DOWNLOADS:
            yield (file,), "downloads"
        else:
            named.setdefault(file.stem, []).append(file)
    for files in named.values():
        yield tuple(sorted(files, key=lambda file: (file.suffix != ".safetensors", file))), "weights"


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(place for place in folder.iterdir() if not place.name.startswith("."))
    except OSError:
        return []


def _measured(root: Path, files: tuple[Path, ...], kind: Kind) -> OtherData:
    found = [stat for file in files for stat in _stats(file)]
    name = files[0].relative_to(root)
    shown = name.with_suffix("") if kind == "weights" else name
    size, used = sum(stat.st_size for stat in found), max((stat.st_mtime for stat in found), default=0.0)
    return OtherData(shown.as_posix(), files, kind, size, used)


def _stats(place: Path) -> Iterator[os.stat_result]:
    """Of a file, or of all files below a folder; links are not followed."""
    try:
        if place.is_dir() and not place.is_symlink():
            for below in place.iterdir():
                yield from _stats(below)
        else:
            yield place.lstat()
    except OSError:
        return
