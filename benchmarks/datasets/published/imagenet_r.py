"""``imagenet_r``: ImageNet-R in the split that the prompt-based methods share, or in a seeded one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from smope_bench.benchmarks.base import SPLITS, BenchmarkCard, BenchmarkConfig, ProgressCallback, Split
from smope_bench.benchmarks.download.fetch import Remote
from smope_bench.benchmarks.download.published_files import PaperPictureConfig, PublishedFiles, below, named
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.picture_benchmark import Picture, PictureBenchmark
from smope_bench.benchmarks.stream import stratum

ENTRY = re.compile(r"- data/imagenet-r/(n\d{8})/([\w.-]+)")
TARGET = re.compile(r"- (\d+)")


def read_split_list(path: Path, wnids: tuple[str, ...]) -> list[tuple[str, str]]:
    """(``<wnid>/<file>``, wnid) of every line, in order.

    Only this exact form, a small part of YAML, is read. Raises BenchmarkError for a line in another form, and for an id that
    does not belong to the picture's folder.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path} cannot be read as a split list ({error}); fetch it again") from error
    if not lines or lines[0] != "data:" or "targets:" not in lines:
        raise BenchmarkError(f"{path} is not a split list: 'data:' and 'targets:' are expected; fetch it again")
    middle = lines.index("targets:")
    if len(lines) - middle - 1 != middle - 1:
        raise BenchmarkError(
            f"{path} lists {middle - 1:,} pictures and {len(lines) - middle - 1:,} targets; fetch it again"
        )
    entries = []
    for row in range(1, middle):
        picture, target = ENTRY.fullmatch(lines[row]), TARGET.fullmatch(lines[middle + row])
        if picture is None or target is None:
            where, line = (row, lines[row]) if picture is None else (middle + row, lines[middle + row])
            raise BenchmarkError(f"{path}, line {where + 1}: {line!r} is not what a split list holds; fetch it again")
        label, wnid = int(target[1]), picture[1]
        if not (label < len(wnids) and wnids[label] == wnid):
            stands = f"class {wnids[label]}" if label < len(wnids) else f"none of the {len(wnids)} classes"
            raise BenchmarkError(
                f"{path}, line {middle + row + 1}: id {label} stands for {stands} but the picture lies in {wnid}; "
                "fetch it again"
            )
        entries.append((f"{wnid}/{picture[2]}", wnid))
    return entries


RULES = 1  # increase when the split or the ids of the same archive change
TOP = "imagenet-r"
CLASSES_FILE = Path(__file__).with_name("imagenet_r_classes.txt")
TEST_FRACTION = 0.2  # of each class, in the seeded split; the published lists were drawn with the same fraction overall
SEEDED = "split the archive by a seed with '--set benchmark.lists=seeded', which the record then says"

ARCHIVE = Remote(
    name="imagenet-r.tar",
    urls=("https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",),
    digest=None,
    size=2_191_079_424,
)
LISTS = "dataloaders/splits/imagenet-r_{}.yaml"
LIST_HOLDERS = (
    "https://raw.githubusercontent.com/GT-RIPL/CODA-Prompt/main/",
    "https://raw.githubusercontent.com/jiaolifengmi/VQ-Prompt/HEAD/",
    "https://raw.githubusercontent.com/Minhchuyentoancbn/SMoPE/HEAD/",
)
TRAIN_LIST = Remote(
    name="imagenet-r_train.yaml",
    urls=tuple(holder + LISTS.format("train") for holder in LIST_HOLDERS),
    digest="sha256:6bcaa14ca9359915ac3a44c48ae71388146385686eb15da79a37844421a0b845",
    size=1_137_662,
)
TEST_LIST = Remote(
    name="imagenet-r_test.yaml",
    urls=tuple(holder + LISTS.format("test") for holder in LIST_HOLDERS),
    digest="sha256:57275ac242d68983a4f39ccb81ec34f48b1bd920b9cd79e6e8040d7c042db02a",
    size=284_216,
)

Assigned = dict[str, tuple[Split, str]]
"""``<wnid>/<file>`` to its split and wnid."""


class ImageNetRConfig(PaperPictureConfig):
    """Settings of ``imagenet_r``."""

    lists: Literal["published", "seeded"] = Field(
        default="published",
        description="published: the 24,000/6,000 lists of CODA-Prompt; seeded: 80/20 of each class, drawn by split_seed",
    )
    split_seed: int = Field(default=0, ge=0, description="seed of lists=seeded")
    label_ids: Literal["lists", "folder"] = Field(
        default="lists",
        description="class ids before any order: those of the published lists, or ranks of the folders' names",
    )


class ImageNetR(PublishedFiles, PictureBenchmark[ImageNetRConfig]):
    """200 classes named by WordNet ids."""

    name: ClassVar[str] = "imagenet_r"
    Config: ClassVar[type[BenchmarkConfig]] = ImageNetRConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="ImageNet-R",
        source="D. Hendrycks et al., The Many Faces of Robustness, ICCV 2021, https://github.com/hendrycks/imagenet-r; "
        "split: J. Smith et al., CODA-Prompt, CVPR 2023, https://github.com/GT-RIPL/CODA-Prompt",
        licence="MIT as stated by the authors; the pictures belong to their owners",
        summary="30,000 renditions of 200 ImageNet classes, 24,000 to train on and 6,000 to test on",
    )
    published_counts: ClassVar[tuple[int, int] | None] = (24_000, 6_000)
    remotes: ClassVar[tuple[Remote, ...]] = (ARCHIVE, TRAIN_LIST, TEST_LIST)
    layout: ClassVar[str] = (
        "imagenet-r.tar (or the unpacked folder imagenet-r/<wnid>/<style>_<n>.jpg), imagenet-r_train.yaml "
        "and imagenet-r_test.yaml"
    )
    image_count: ClassVar[int] = 30_000
    """Pictures of the published archive; no digest of it is published."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """WordNet ids, by class id."""
        listed = listed_wnids()
        return listed if self.config.label_ids == "lists" else tuple(sorted(listed))

    def source(self) -> dict[str, Any]:
        """The archive, identified by the manifest's hashes, and the split."""
        split: dict[str, Any] = {"lists": [remote.digest for remote in self.remotes[1:]]}
        if self.config.lists == "seeded":
            split = {"lists": "seeded", "test_fraction": TEST_FRACTION, "split_seed": self.config.split_seed}
        return {"rules": RULES, "archive": self.remotes[0].name, "ids": self.config.label_ids, **split}

    def pictures(self, progress: ProgressCallback) -> Iterator[Picture]:
        """All pictures in the archive's order, after a first pass that checks that none is missing."""
        source = self.archive_or_folder(self.remotes[0], TOP, progress)
        files = self._files(source)
        if self.config.lists == "seeded":
            assigned = seeded_split(files, f"imagenet_r {self.config.split_seed}")
        else:
            assigned = self._published(source, files, progress)
        ids = {wnid: label for label, wnid in enumerate(self.class_names)}
        for name, member in below(source, TOP):
            if name in assigned:
                split, wnid = assigned[name]
                yield Picture(split, ids[wnid], name, member.read())

    def _files(self, source: Path) -> list[str]:
        """``<wnid>/<file>`` of every picture, rising. Raises BenchmarkError where classes or pictures are lacking."""
        files = sorted(name for name, _ in below(source, TOP) if "/" in name)
        folders = {name.split("/")[0] for name in files}
        if folders and folders <= {"train", "test"}:
            raise BenchmarkError(
                f"{source} is ImageNet-R in a split of its own, not the original: read it by --benchmarks imagefolder --set"
                " benchmark.path=FOLDER, or get the original archive"
            )
        absent, unknown = sorted(set(self.class_names) - folders), sorted(folders - set(self.class_names))
        if absent or unknown:
            what = f"has no class folder {named(absent)}" if absent else f"holds {named(unknown)}, which is no class"
            raise BenchmarkError(f"{source} {what} of ImageNet-R; get the original archive again")
        if len(files) != self.image_count:
            raise BenchmarkError(
                f"{source} holds {len(files):,} pictures and the original {self.image_count:,}; get the archive again"
            )
        return files

    def _published(self, source: Path, files: list[str], progress: ProgressCallback) -> Assigned:
        """The split of the published lists, which name every picture of the archive once."""
        assigned: Assigned = {}
        for split, remote in zip(SPLITS, self.remotes[1:], strict=True):
            try:
                path = self.obtain(remote, progress)
            except BenchmarkError as error:
                raise BenchmarkError(f"{error}; or {SEEDED}") from error
            for name, wnid in read_split_list(path, listed_wnids()):
                if name in assigned:
                    raise BenchmarkError(f"{path} names {name!r}, which the lists have named before; fetch it again")
                assigned[name] = (split, wnid)
        lost = sorted(assigned.keys() - set(files))
        if lost:
            raise BenchmarkError(
                f"{source} lacks {len(lost):,} pictures that the split lists name: {named(lost)}; get the archive again"
            )
        extra = sorted(set(files) - assigned.keys())
        if extra:
            raise BenchmarkError(
                f"the split lists do not name {len(extra):,} pictures of {source}: {named(extra)}; take them away"
            )
        return assigned


def seeded_split(files: list[str], seed: str) -> Assigned:
    """A fifth of each class to test on, drawn from its file names ``<wnid>/<file>`` in rising order by ``seed`` and the wnid."""
    classes: dict[str, list[str]] = defaultdict(list)
    for name in files:
        classes[name.split("/")[0]].append(name)
    assigned: Assigned = {}
    for wnid, names in classes.items():
        if len(names) < 2:
            raise BenchmarkError(f"class {wnid} has one picture; at least two are needed, one to test on")
        parts = stratum(len(names), TEST_FRACTION, f"{seed} class {wnid}")
        for split, rows in zip(SPLITS, parts, strict=True):
            assigned |= {names[row]: (split, wnid) for row in rows}
    return assigned


@cache
def listed_wnids() -> tuple[str, ...]:
    """The 200 WordNet ids in the order of the published lists' class ids."""
    return tuple(CLASSES_FILE.read_text("ascii").split())
