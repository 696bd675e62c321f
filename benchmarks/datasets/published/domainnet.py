"""``domainnet``, ``domainnet_classes``, ``domainnet_200``: DomainNet's classes in six domains, or mixed as new classes.

The first two have all 345 classes in the owners' lists of training and test pictures, the third has CPG's lists of 200.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from smope_bench.benchmarks.base import SPLITS, BenchmarkCard, BenchmarkConfig, ProgressCallback, Split
from smope_bench.benchmarks.domains import DomainBenchmark, DomainConfig, cell_names, names_of_cells
from smope_bench.benchmarks.download.fetch import Remote, downloads_folder
from smope_bench.benchmarks.download.published_files import PaperPictureConfig, PublishedFiles, below, named
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.picture_benchmark import Picture, PictureBenchmark

RULES = 1  # increase when the split or the ids of the same files change
DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
CLASSES = 345
LINE = re.compile(r"([^/]+)/([^/]+)/([^/]+) (\d+)")
LIST_BYTES = 1 << 26
CPG_LISTS = "https://raw.githubusercontent.com/zugexiaodui/ConsistentMoEPromptGenerator/3821f6ab42903828b5e6ece14721f157d1627fc7/tools/"
HOLDER = "http://csr.bu.edu/ftp/visda/2019/multi-source/"
KNOWN: dict[str, tuple[str, str, str, float]] = {
    "clipart": (
        "cd0d8f2d77a4e181449b78ed62bccf1e",
        "b4349693a7f9c05c53955725c47ed6cb",
        "f5ddbcfd657a3acf9d0f7da10db22565",
        1.3,
    ),
    "infograph": (
        "720380b86f9e6ab4805bb38b6bd135f8",
        "379b50054f4ac2018dca4f89421b92d9",
        "779626b50869edffe8ea6941c3755c71",
        4.0,
    ),
    "painting": (
        "1ae32cdb4f98fe7ab5eb0a351768abfd",
        "7db0e7ca73ad9982f6e1f7f3ef372c0a",
        "232b35dc53f26d414686ae579e38d9b5",
        3.7,
    ),
    "quickdraw": (
        "bdc1b6f09f277da1a263389efe0c7a66",
        "b732ced3939ac8efdd8c0a889dca56cc",
        "c1a828fdfe216fb109f1c0083a252c6f",
        0.44,
    ),
    "real": (
        "dcc47055e8935767784b7162e7c7cca6",
        "8ebf02c2075fadd564705f0dc7cd6291",
        "6098816791c3ebed543c71ffa11b9054",
        5.6,
    ),
    "sketch": (
        "658d8009644040ff7ce30bb2e820850f",
        "1233bd18aa9a8a200bf4cecf1c34ef3e",
        "d8a222e4672cfd585298aa14d02ea441",
        2.6,
    ),
}
"""Md5 of a domain's archive and of its training and test list, from the source of public libraries, and the archive's gigabytes."""
CLEANED = ("clipart", "painting")
"""Domains whose archives the owners replaced by ones without duplicates, which lie in a folder of their own."""


def _archive(domain: str) -> Remote:
    digest, *_, gigabytes = KNOWN[domain]
    folder = "groundtruth/" if domain in CLEANED else ""
    return Remote(f"{domain}.zip", (f"{HOLDER}{folder}{domain}.zip",), f"md5:{digest}", int(float(gigabytes) * 10**9))


def _lists(domain: str) -> Iterator[Remote]:
    for split, md5 in zip(SPLITS, KNOWN[domain][1:3], strict=True):
        name = f"{domain}_{split}.txt"
        yield Remote(name, (f"{HOLDER}domainnet/txt/{name}",), f"md5:{md5}")


@dataclass(frozen=True)
class PictureList:
    """A published list of the pictures of one split; ``domains``: those that it may name."""

    name: str
    split: Split
    domains: tuple[str, ...] = DOMAINS


class _Published(PublishedFiles):
    """The six archives and the lists that the protocols read."""

    remotes: ClassVar[tuple[Remote, ...]] = tuple(
        remote for domain in DOMAINS for remote in (_archive(domain), *_lists(domain))
    )
    lists: ClassVar[tuple[PictureList, ...]] = tuple(
        PictureList(f"{domain}_{split}.txt", split, (domain,)) for domain in DOMAINS for split in SPLITS
    )
    layout: ClassVar[str] = (
        "clipart.zip, infograph.zip, painting.zip, quickdraw.zip, real.zip, sketch.zip, and clipart_train.txt, clipart_test.txt"
        " and so on"
    )
    class_count: ClassVar[int] = CLASSES
    published_counts: ClassVar[tuple[int, int] | None] = (409_832, 176_743)

    @property
    def downloads(self) -> Path:
        """One folder for all protocols."""
        return downloads_folder(self.root, "domainnet")

    def listed(self, progress: ProgressCallback) -> dict[str, tuple[Split, int, str]]:
        """``<domain>/<class>/<file>`` of every list to its split, class id and class name. Raises BenchmarkError."""
        found: dict[str, tuple[Split, int, str]] = {}
        for one in self.lists:
            path = self.remote_file(one.name, progress)
            for row, line in enumerate(_lines(path), start=1):
                entry = LINE.fullmatch(line)
                if entry is None or entry[1] not in one.domains or int(entry[4]) >= self.class_count:
                    domain = one.domains[0] if len(one.domains) == 1 else "<domain>"
                    raise BenchmarkError(
                        f"{path}, line {row}: {line[:80]!r} is not {domain}/<class>/<file> and an id below"
                        f" {self.class_count}; fetch it again"
                    )
                picture = line.rpartition(" ")[0]
                if picture in found:
                    raise BenchmarkError(f"{path}, line {row}: {picture!r} is listed twice; fetch it again")
                found[picture] = (one.split, int(entry[4]), entry[2])
        return found

    def class_names_of(self, listed: dict[str, tuple[Split, int, str]]) -> tuple[str, ...]:
        """One name a class id. Raises BenchmarkError where lists disagree or lack a class."""
        names: dict[int, str] = {}
        for picture, (_, label, name) in listed.items():
            if names.setdefault(label, name) != name:
                raise BenchmarkError(
                    f"{picture}: id {label} stands for {names[label]!r} elsewhere; fetch the lists again"
                )
        if len(names) != self.class_count:
            raise BenchmarkError(f"the lists name {len(names)} classes and not {self.class_count}; fetch them again")
        return tuple(names[label] for label in range(self.class_count))

    def files(self, progress: ProgressCallback) -> Iterator[tuple[str, str, Split, int, bytes]]:
        """(domain, picture, split, class id, content) of every listed picture. Raises BenchmarkError for one that is lacking."""
        listed = self.listed(progress)
        for domain in DOMAINS:
            wanted = {picture for picture in listed if picture.startswith(f"{domain}/")}
            source = self.archive_or_folder(self._remote(f"{domain}.zip"), domain, progress)
            for name, member in below(source, domain):
                picture = f"{domain}/{name}"
                if picture in wanted:
                    wanted.remove(picture)
                    split, label, _ = listed[picture]
                    yield domain, picture, split, label, member.read()
            if wanted:
                raise BenchmarkError(
                    f"{source} lacks {len(wanted):,} listed pictures: {named(sorted(wanted))}; get the archive again"
                )

    def remote_file(self, name: str, progress: ProgressCallback) -> Path:
        return self.obtain(self._remote(name), progress)

    def _remote(self, name: str) -> Remote:
        return next(remote for remote in self.remotes if remote.name == name)


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > LIST_BYTES:
            raise BenchmarkError(f"{path} is far larger than the original list; fetch it again")
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path} cannot be read as a list ({error}); fetch it again") from error


SOURCE = "X. Peng et al., Moment Matching for Multi-Source Domain Adaptation, ICCV 2019; https://ai.bu.edu/M3SDA/"
LICENCE = "for research, as stated by the authors; the pictures belong to their owners"


def everything(benchmark: _Published) -> dict[str, Any]:
    """What the pictures of every protocol depend on."""
    return {"rules": RULES, "files": {remote.name: remote.digest for remote in benchmark.remotes}}


class DomainNetConfig(DomainConfig, PaperPictureConfig):
    """Settings of ``domainnet``."""

    tasks: int = Field(default=len(DOMAINS), ge=1, description="number of domains; follows from domains")


class DomainNet(_Published, DomainBenchmark[DomainNetConfig], PictureBenchmark[DomainNetConfig]):
    """A domain a task, 345 classes in each."""

    name: ClassVar[str] = "domainnet"
    Config: ClassVar[type[BenchmarkConfig]] = DomainNetConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="DomainNet, six domains",
        source=SOURCE,
        licence=LICENCE,
        summary="domain-incremental: 345 classes as clipart, infographics, paintings, quick drawings, photographs, sketches",
    )

    @property
    def num_classes(self) -> int:
        return self.class_count

    @property
    def class_names(self) -> tuple[str, ...]:
        """As in the lists, without a domain."""
        return names_of_cells(self.opened().class_names)[1]

    @property
    def domain_names(self) -> tuple[str, ...]:
        return DOMAINS

    def names_to_store(self, progress: ProgressCallback) -> tuple[str, ...]:
        return cell_names(DOMAINS, self.class_names_of(self.listed(progress)))

    def source(self) -> dict[str, Any]:
        """The published files."""
        return {**everything(self), "protocol": "domain"}

    def pictures(self, progress: ProgressCallback) -> Iterator[Picture]:
        """Every listed picture but those of a class that a domain has in one of its two lists only, domain after domain.

        The official lists of paintings have no t-shirt to train on and no syringe to test on.
        """
        listed = self.listed(progress)
        places = {
            split: {(name.partition("/")[0], label) for name, (one, label, _) in listed.items() if one == split}
            for split in SPLITS
        }
        apart, left_out = places["train"] ^ places["test"], 0
        for domain, picture, split, label, data in self.files(progress):
            if (domain, label) in apart:
                left_out += 1
            else:
                yield Picture(split, DOMAINS.index(domain) * self.class_count + label, picture, data)
        if left_out:
            names = self.class_names_of(listed)
            what = ", ".join(f"{domain}/{names[label]}" for domain, label in sorted(apart))
            self.remarks.append(
                f"{left_out} pictures of {what} are left out: the official lists have them in one split only"
            )
            progress(f"{self.name}: {self.remarks[-1]}")


class DomainNetClassesConfig(PaperPictureConfig):
    """Settings of ``domainnet_classes``."""

    tasks: int = Field(default=5, ge=1, description="number of tasks the 345 classes are split into: 5 of 69")


class DomainNetClasses(_Published, PictureBenchmark[DomainNetClassesConfig]):
    """New classes a task, their pictures of all six domains."""

    name: ClassVar[str] = "domainnet_classes"
    Config: ClassVar[type[BenchmarkConfig]] = DomainNetClassesConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="DomainNet, mixed",
        source=SOURCE,
        licence=LICENCE,
        summary="345 classes in five tasks, pictures of six domains mixed, in the official lists of training and test pictures",
    )

    @property
    def num_classes(self) -> int:
        return self.class_count

    def names_to_store(self, progress: ProgressCallback) -> tuple[str, ...]:
        return self.class_names_of(self.listed(progress))

    def source(self) -> dict[str, Any]:
        """The published files."""
        return {**everything(self), "protocol": "class"}

    def pictures(self, progress: ProgressCallback) -> Iterator[Picture]:
        """Every listed picture, domain after domain."""
        for _, picture, split, label, data in self.files(progress):
            yield Picture(split, label, picture, data)


class DomainNet200Config(PaperPictureConfig):
    """Settings of ``domainnet_200``."""

    tasks: int = Field(default=10, ge=1, description="number of tasks the 200 classes are split into: 10 of 20")


class DomainNet200(DomainNetClasses):
    """Two hundred of the classes, which CPG's lists number and split."""

    name: ClassVar[str] = "domainnet_200"
    Config: ClassVar[type[BenchmarkConfig]] = DomainNet200Config
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="DomainNet, 200 classes",
        source=f"{SOURCE}; lists: Y. Lu et al., CPG, AAAI 2025, https://github.com/zugexiaodui/ConsistentMoEPromptGenerator",
        licence=LICENCE,
        summary="200 classes in ten tasks, pictures of six domains mixed, in CPG's lists of training and test pictures",
    )
    remotes: ClassVar[tuple[Remote, ...]] = (
        *map(_archive, DOMAINS),
        Remote(
            "sdomain_train.txt",
            (f"{CPG_LISTS}sdomain_train.txt",),
            "sha256:87671cd9a6309dc5e9ebfa8eab8c14abbc270d605c9430c7525ff8e9d7e7e74e",
            1_926_106,
        ),
        Remote(
            "sdomain_val.txt",
            (f"{CPG_LISTS}sdomain_val.txt",),
            "sha256:112d39337e19ea1b5b81f1a423145be007c5a42e16aeea84473a98c28462a8d2",
            828_845,
        ),
    )
    lists: ClassVar[tuple[PictureList, ...]] = (
        PictureList("sdomain_train.txt", "train"),
        PictureList("sdomain_val.txt", "test"),
    )
    layout: ClassVar[str] = (
        "clipart.zip, infograph.zip, painting.zip, quickdraw.zip, real.zip, sketch.zip, sdomain_train.txt and sdomain_val.txt"
    )
    class_count: ClassVar[int] = 200
    published_counts: ClassVar[tuple[int, int] | None] = (47_532, 20_450)
