"""``cub200``: Caltech-UCSD Birds-200-2011 in its official split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from smope_bench.benchmarks.base import BenchmarkCard, BenchmarkConfig, ProgressCallback, Split
from smope_bench.benchmarks.download.fetch import Remote
from smope_bench.benchmarks.download.published_files import PaperPictureConfig, PublishedFiles, below, named
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.picture_benchmark import Picture, PictureBenchmark

RULES = 1  # increase when the split or the ids of the same archive change
TOP = "CUB_200_2011"
TEXTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
IMAGES = "images/"
CLASSES = 200
TEXT_BYTES = 1 << 24
AGAIN = "get the original archive again"

ARCHIVE = Remote(
    name="CUB_200_2011.tgz",
    urls=(
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        "https://s3.amazonaws.com/fast-ai-imageclas/CUB_200_2011.tgz",
    ),
    digest="md5:97eceeb196236b17998738112f37df78",
    size=1_150_585_339,
)

Assigned = dict[str, tuple[Split, int]]
"""``<class folder>/<file>`` to its split and class id from 0."""


@dataclass(frozen=True)
class Survey:
    """What an archive holds: its text files as tables, and ``<class folder>/<file>`` of its pictures."""

    texts: dict[str, dict[int, str]]
    pictures: set[str]


class Cub200(PublishedFiles, PictureBenchmark[PaperPictureConfig]):
    """Whole pictures: the bounding boxes are not used."""

    name: ClassVar[str] = "cub200"
    Config: ClassVar[type[BenchmarkConfig]] = PaperPictureConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="CUB-200",
        source="C. Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001, 2011; "
        "https://data.caltech.edu/records/65de6-vp158",
        licence="for non-commercial research and education, as stated by its authors",
        summary="11,788 photographs of 200 bird species, 5,994 to train on and 5,794 to test on",
    )
    published_counts: ClassVar[tuple[int, int] | None] = (5_994, 5_794)
    remotes: ClassVar[tuple[Remote, ...]] = (ARCHIVE,)
    layout: ClassVar[str] = (
        "CUB_200_2011.tgz (or the unpacked folder CUB_200_2011/ with images/, images.txt, image_class_labels.txt, "
        "train_test_split.txt and classes.txt)"
    )
    image_count: ClassVar[int] = 11_788

    @property
    def num_classes(self) -> int:
        return CLASSES

    def names_to_store(self, progress: ProgressCallback) -> tuple[str, ...]:
        """Names as in ``classes.txt``, for example ``001.Black_footed_Albatross``."""
        return read_classes(self._survey(self.archive_or_folder(self.remotes[0], TOP, progress)).texts["classes.txt"])

    def source(self) -> dict[str, Any]:
        """The archive."""
        return {"rules": RULES, "archive": self.remotes[0].digest}

    def pictures(self, progress: ProgressCallback) -> Iterator[Picture]:
        """All pictures in the archive's order, after a first pass that checks that none is missing."""
        source = self.archive_or_folder(self.remotes[0], TOP, progress)
        survey = self._survey(source)
        assigned = read_split(survey.texts)
        if len(assigned) != self.image_count:
            raise BenchmarkError(
                f"images.txt in {source} names {len(assigned):,} pictures and not {self.image_count:,}; {AGAIN}"
            )
        lost = sorted(assigned.keys() - survey.pictures)
        if lost:
            raise BenchmarkError(f"{source} lacks {len(lost):,} pictures of images.txt: {named(lost)}; {AGAIN}")
        for name, member in below(source, TOP):
            if name.startswith(IMAGES) and (found := name.removeprefix(IMAGES)) in assigned:
                yield Picture(*assigned[found], found, member.read())

    @cached_property
    def _surveys(self) -> dict[Path, Survey]:
        return {}

    def _survey(self, source: Path) -> Survey:
        """One pass over the archive. Raises BenchmarkError where a text file is lacking or not in its form."""
        if source not in self._surveys:
            texts, pictures = {}, set()
            for name, member in below(source, TOP):
                if name in TEXTS:
                    if member.size > TEXT_BYTES:
                        raise BenchmarkError(f"{name} in {source} is far larger than the original; {AGAIN}")
                    texts[name] = read_table(name, member.read())
                elif name.startswith(IMAGES):
                    pictures.add(name.removeprefix(IMAGES))
            absent = [name for name in TEXTS if name not in texts]
            if absent:
                raise BenchmarkError(f"{source} has no {named(absent)} in its folder {TOP}; {AGAIN}")
            self._surveys[source] = Survey(texts, pictures)
        return self._surveys[source]


def read_table(name: str, data: bytes) -> dict[int, str]:
    """Lines ``<number> <value>`` of a text file; every number from 1 on once."""
    table: dict[int, str] = {}
    for row, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), start=1):
        number, _, value = line.strip().partition(" ")
        if not number.isascii() or not number.isdigit() or not value:
            raise BenchmarkError(f"{name}, line {row}: {line!r} is not a number and a value; {AGAIN}")
        if int(number) in table:
            raise BenchmarkError(f"{name}, line {row}: number {number} has been there before; {AGAIN}")
        table[int(number)] = value
    absent = next((number for number in range(1, len(table) + 1) if number not in table), None)
    if absent is not None or not table:
        raise BenchmarkError(f"{name} has no line for number {absent or 1}; {AGAIN}")
    return table


def read_classes(table: dict[int, str]) -> tuple[str, ...]:
    """Names by class id, from 0."""
    if len(table) != CLASSES or len(set(table.values())) != CLASSES:
        raise BenchmarkError(f"classes.txt does not name {CLASSES} classes; {AGAIN}")
    return tuple(table[number] for number in range(1, CLASSES + 1))


def read_split(texts: dict[str, dict[int, str]]) -> Assigned:
    """Split and class id of every picture; the four files must agree with each other."""
    names, classes = texts["images.txt"], read_classes(texts["classes.txt"])
    labels, splits = texts["image_class_labels.txt"], texts["train_test_split.txt"]
    for other, table in (("image_class_labels.txt", labels), ("train_test_split.txt", splits)):
        if table.keys() != names.keys():
            odd = min(table.keys() ^ names.keys())
            raise BenchmarkError(f"picture {odd} is not in both images.txt and {other}; {AGAIN}")
    assigned: Assigned = {}
    for number, name in names.items():
        label, split = labels[number], splits[number]
        if not label.isdigit() or not 1 <= int(label) <= CLASSES:
            raise BenchmarkError(f"image_class_labels.txt gives picture {number} the class {label!r}; {AGAIN}")
        if split not in ("0", "1"):
            raise BenchmarkError(f"train_test_split.txt gives picture {number} {split!r} and not 0 or 1; {AGAIN}")
        if name.split("/")[0] != classes[int(label) - 1]:
            raise BenchmarkError(
                f"picture {number}, {name!r}, has class {label}, which is {classes[int(label) - 1]!r}; {AGAIN}"
            )
        if name in assigned:
            raise BenchmarkError(f"images.txt names {name!r} twice; {AGAIN}")
        assigned[name] = ("train" if split == "1" else "test", int(label) - 1)
    return assigned
