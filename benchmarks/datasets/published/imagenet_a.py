"""``imagenet_a``: ImageNet-A's 200 classes, split by a list of the user's own or by a seed; its owners publish no split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from smope_bench.benchmarks.base import SPLITS, BenchmarkCard, BenchmarkConfig, ProgressCallback, Split
from smope_bench.benchmarks.datasets.published.imagenet_r import TEST_FRACTION, Assigned, seeded_split
from smope_bench.benchmarks.download.fetch import Remote
from smope_bench.benchmarks.download.published_files import PaperPictureConfig, PublishedFiles, below, named
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.picture_benchmark import Picture, PictureBenchmark

RULES = 1  # increase when the split or the ids of the same archive change
TOP = "imagenet-a"
WNID = re.compile(r"n\d{8}")
LINE = re.compile(r"(?:\./)?(train|test)/(n\d{8})/([^/]+)")
LIST = "imagenet-a_split.txt"
LIST_BYTES = 1 << 22


class ImageNetAConfig(PaperPictureConfig):
    """Settings of ``imagenet_a``."""

    split_list: str | None = Field(
        default=None,
        description="sha256 of the list of the split, a file that you have, whose lines are train/<wnid>/<file> or"
        " test/<wnid>/<file>; none = a fifth of each class is tested on, drawn by split_seed",
    )
    split_seed: int = Field(default=0, ge=0, description="seed of the split where there is no list")

    @field_validator("split_list")
    @classmethod
    def _list_is_a_hash(cls, given: str | None) -> str | None:
        if given is not None and not re.fullmatch("[0-9a-f]{64}", given):
            raise ValueError(
                "give the sha256 of the list, 64 digits as sha256sum FILE prints them, and the list itself to"
                " `smope-bench data prepare imagenet_a --from FILE`"
            )
        return given


class ImageNetA(PublishedFiles, PictureBenchmark[ImageNetAConfig]):
    """200 classes named by WordNet ids, in their alphabetical order."""

    name: ClassVar[str] = "imagenet_a"
    Config: ClassVar[type[BenchmarkConfig]] = ImageNetAConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="ImageNet-A",
        source="D. Hendrycks et al., Natural Adversarial Examples, CVPR 2021, https://github.com/hendrycks/natural-adv-examples",
        licence="MIT as stated by the authors; the pictures belong to their owners",
        summary="7,500 photographs of 200 ImageNet classes that a ResNet-50 got wrong; split by your list or by a seed",
    )
    published_counts: ClassVar[tuple[int, int] | None] = (5_981, 1_519)
    remotes: ClassVar[tuple[Remote, ...]] = (
        Remote(
            name="imagenet-a.tar",
            urls=("https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",),
            digest="md5:c3e55429088dc681f30d81f4726b6595",
            size=690_000_000,
        ),
    )
    layout: ClassVar[str] = "imagenet-a.tar (or the unpacked folder imagenet-a/<wnid>/<file>.jpg)"
    class_count: ClassVar[int] = 200
    image_count: ClassVar[int] = 7_500

    @property
    def wanted(self) -> tuple[Remote, ...]:
        """The archive, and the list where the configuration names one."""
        return self.remotes if self.config.split_list is None else (*self.remotes, _list_of(self.config.split_list))

    @property
    def num_classes(self) -> int:
        return self.class_count

    def names_to_store(self, progress: ProgressCallback) -> tuple[str, ...]:
        """WordNet ids, rising."""
        return tuple(dict.fromkeys(name.split("/")[0] for name in self._files(self._source(progress))))

    def source(self) -> dict[str, Any]:
        """The archive and the split."""
        split: dict[str, Any] = {"list": self.config.split_list}
        if self.config.split_list is None:
            split = {"test_fraction": TEST_FRACTION, "split_seed": self.config.split_seed}
        return {"rules": RULES, "archive": self.remotes[0].digest, **split}

    def pictures(self, progress: ProgressCallback) -> Iterator[Picture]:
        """All pictures in the archive's order."""
        source = self._source(progress)
        files = self._files(source)
        ids = {wnid: label for label, wnid in enumerate(dict.fromkeys(name.split("/")[0] for name in files))}
        if self.config.split_list is None:
            assigned = seeded_split(files, f"imagenet_a {self.config.split_seed}")
        else:
            assigned = self._listed(files, self.config.split_list, progress)
        for name, member in below(source, TOP):
            if name in assigned:
                split, wnid = assigned[name]
                yield Picture(split, ids[wnid], name, member.read())

    def _source(self, progress: ProgressCallback) -> Path:
        return self.archive_or_folder(self.remotes[0], TOP, progress)

    def _files(self, source: Path) -> list[str]:
        """``<wnid>/<file>`` of every picture, rising. Raises BenchmarkError where classes or pictures are lacking."""
        files = sorted(name for name, _ in below(source, TOP) if "/" in name)
        folders = {name.split("/")[0] for name in files}
        if unknown := sorted(name for name in folders if not WNID.fullmatch(name)):
            raise BenchmarkError(
                f"{source} holds {named(unknown)}, which is no class of ImageNet-A; get the archive again"
            )
        found = len(folders), len(files)
        if found != (self.class_count, self.image_count):
            raise BenchmarkError(
                f"{source} holds {found[1]:,} pictures of {found[0]} classes and the original {self.image_count:,} of"
                f" {self.class_count}; get the archive again"
            )
        return files

    def _listed(self, files: list[str], sha256: str, progress: ProgressCallback) -> Assigned:
        """The split of the user's list, which names every picture once."""
        path, known, assigned = self._list(sha256, progress), set(files), Assigned()
        for row, line in enumerate(_lines(path), start=1):
            entry = LINE.fullmatch(line)
            if entry is None:
                raise BenchmarkError(
                    f"{path}, line {row}: {line[:80]!r} is neither train/<wnid>/<file> nor test/<wnid>/<file>"
                )
            name = f"{entry[2]}/{entry[3]}"
            if name in assigned:
                raise BenchmarkError(f"{path}, line {row}: {name!r} is listed twice; list every picture once")
            if name not in known:
                raise BenchmarkError(
                    f"{path}, line {row}: the archive has no {name!r}; list its pictures by their names"
                )
            assigned[name] = (_split(entry[1]), entry[2])
        if lost := sorted(known - assigned.keys()):
            raise BenchmarkError(f"{path} does not list {len(lost):,} pictures: {named(lost)}; list every picture once")
        for split in SPLITS:
            if empty := sorted(
                {name.split("/")[0] for name in files} - {wnid for one, wnid in assigned.values() if one == split}
            ):
                raise BenchmarkError(f"{path} has no {split} picture of {named(empty)}; every class needs one")
        return assigned

    def _list(self, sha256: str, progress: ProgressCallback) -> Path:
        try:
            return self.obtain(_list_of(sha256), progress)
        except BenchmarkError as error:
            raise BenchmarkError(
                f"{error}; or leave benchmark.split_list out, and a fifth of each class is tested on, drawn by a seed"
            ) from error


def _list_of(sha256: str) -> Remote:
    return Remote(LIST, (), f"sha256:{sha256}")


def _split(text: str) -> Split:
    return "train" if text == "train" else "test"


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > LIST_BYTES:
            raise BenchmarkError(f"{path} is far larger than a list of ImageNet-A's pictures")
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path} cannot be read as a list ({error})") from error
