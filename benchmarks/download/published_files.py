"""Base of benchmarks whose files are published by their owners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from smope_bench.benchmarks.augmentation import Augmentation, RandomResizedCrop
from smope_bench.benchmarks.base import ProgressCallback, silent
from smope_bench.benchmarks.disk import shown_bytes
from smope_bench.benchmarks.download.archives import Member, members
from smope_bench.benchmarks.download.fetch import (
    Remote,
    downloads_folder,
    fault_of_download,
    fetch,
    is_published,
    unpinned_on_error,
)
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.picture_benchmark import PictureConfig

ARCHIVE_ENDINGS = (".tar", ".tgz", ".gz", ".zip")


class PaperPictureConfig(PictureConfig):
    """Settings of benchmarks of pictures, with the transforms of most recipes as defaults."""

    tasks: int = Field(default=10, ge=1, description="number of tasks the classes are split into, in order of arrival")
    image_size: int = Field(
        default=224, ge=8, le=1024, description="side in pixels of the images that the network sees"
    )
    augment: Augmentation = Field(
        default_factory=RandomResizedCrop, description="what is done to training images; most recipes' is the default"
    )
    test_resize: int | None = Field(
        default=256,
        ge=8,
        le=2048,
        description="at test the shorter side is resized to this and the central square of image_size is cut out;"
        " none = the whole image is resized to image_size",
    )


class PublishedFiles:
    """Mixed into a cached benchmark. ``remotes`` are verified by digest."""

    name: ClassVar[str]
    root: Path
    given: tuple[Path, ...]
    remotes: ClassVar[tuple[Remote, ...]]
    layout: ClassVar[str]
    """The files that can be placed by hand, for the end of a message."""

    if TYPE_CHECKING:  # of the benchmark that this is mixed into

        @property
        def preparation(self) -> str: ...

    @property
    def wanted(self) -> tuple[Remote, ...]:
        """The files that this configuration reads."""
        return self.remotes

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names that were read from the files when the images were stored, indexed by class id."""
        return self.opened().class_names  # type: ignore[attr-defined]  # of the benchmark that this is mixed into

    @property
    def downloads(self) -> Path:
        """Folder of the original files, downloaded or placed by hand."""
        return downloads_folder(self.root, self.name)

    def missing(self) -> BenchmarkError:
        """The error that names how to get the images."""
        size = shown_bytes(sum(remote.size or 0 for remote in self.remotes))
        places = [[url.removesuffix(remote.name) for url in remote.urls] for remote in self.remotes]
        owners = dict.fromkeys(owner for owner, *_ in places)
        mirrors = dict.fromkeys(mirror for _, *others in places for mirror in others)
        also = f" (mirrors: {', '.join(mirrors)})" if mirrors else ""
        return BenchmarkError(
            f"{self.name}: no prepared images under {self.root}; call `{self.preparation}`, which downloads {size} "
            f"from {' and '.join(owners)}{also}; without a connection, copy {self.layout} into "
            f"{self.downloads}, or name the place where they lie: `{self.preparation} --from PATH`"
        )

    def prepare(self, progress: ProgressCallback = silent, given: Sequence[Path] = ()) -> None:
        """See ``CachedBenchmark.prepare``; files whose content is refused are not pinned. Raises BenchmarkError."""
        self.task_sizes()  # type: ignore[attr-defined]  # raises for an impossible split before the download
        for place in given:
            if not _may_hold(place, self.wanted, self.downloads, progress):
                raise BenchmarkError(
                    f"{self.name}: {place} is none of its files and holds none: give {self.layout.removesuffix(',')}; or leave it"
                    " out, and they are downloaded"
                )
        with unpinned_on_error(self.downloads, [remote.name for remote in self.remotes]):
            super().prepare(progress, given)  # type: ignore[misc]  # the benchmark that this is mixed into

    @classmethod
    def download_fault(cls, file: Path, remote: Remote, folder: Path, progress: ProgressCallback = silent) -> str:
        """Why a file in the downloads folder cannot be used, or '' if it can. Raises BenchmarkError."""
        return fault_of_download(file, remote, folder, progress)

    def obtain(self, remote: Remote, progress: ProgressCallback) -> Path:
        """One published file, verified: given by the user, placed by hand, or downloaded. Raises BenchmarkError."""
        key = (remote, self.given)
        if key not in self._obtained:  # hashed once, not for each file of an archive
            self._obtained[key] = fetch(remote, self.downloads, self.given, progress, self.preparation)
        return self._obtained[key]

    @cached_property
    def _obtained(self) -> dict[tuple[Remote, tuple[Path, ...]], Path]:
        return {}

    def archive_or_folder(self, remote: Remote, top: str, progress: ProgressCallback) -> Path:
        """The archive ``remote``, or a folder ``top`` unpacked from it.

        Given files come before those in the downloads folder. A folder cannot be compared with the published digest: a message
        says so, and the reader of its content checks what it can.
        """
        for places in (self.given, (self.downloads,)):
            packed = any(_is_archive(place) or (place / remote.name).is_file() for place in places)
            unpacked = next((folder for place in places if (folder := _unpacked(place, top))), None)
            if unpacked is not None and not packed:
                progress(f"{self.name}: reading {unpacked}, which no published digest covers")
                return unpacked
        return self.obtain(remote, progress)


def _may_hold(place: Path, remotes: Sequence[Remote], folder: Path, progress: ProgressCallback) -> bool:
    """Whether a given file, or one at most three levels below a given folder, is one of ``remotes``, packed or not."""
    if not place.is_dir() and any(is_published(place, remote, folder, progress) for remote in remotes):
        return True
    below = (path for pattern in ("*", "*/*", "*/*/*") for path in place.glob(pattern))
    return any(_resembles(path.name, remote.name) for path in (place, *below) for remote in remotes)


def _resembles(name: str, published: str) -> bool:
    """Whether a file or folder has a published name, but for endings of archives and what comes before a dash."""
    return f"{published}.".startswith(f"{name}.") or published.endswith(f"-{name}")


def _is_archive(place: Path) -> bool:
    return place.is_file() and place.name.lower().endswith(ARCHIVE_ENDINGS)


def _unpacked(place: Path, top: str) -> Path | None:
    for folder in (place, place / top):
        if folder.resolve().name == top and folder.is_dir():
            return folder
    return None


def below(source: Path, top: str) -> Iterator[tuple[str, Member]]:
    """(name below the folder ``top``, member) of an archive or of an unpacked ``top``; hidden files are left out."""
    for member in members(source):
        parts = PurePosixPath(member.name).parts
        if not source.is_dir():
            if parts[0] != top:
                continue
            parts = parts[1:]
        if parts and not any(part.startswith(".") for part in parts):
            yield "/".join(parts), member


def named(items: list[str], at_most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(items) - at_most:,} more" if len(items) > at_most else ""
    return ", ".join(map(repr, items[:at_most])) + more
