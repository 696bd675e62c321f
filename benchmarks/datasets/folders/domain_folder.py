"""``domain_folder``: a user's own images in domains, one folder a domain with one sub-folder a class."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from smope_bench.benchmarks.base import BenchmarkCard, BenchmarkConfig
from smope_bench.benchmarks.datasets.folders.folder_scan import (
    PART_NAMES,
    Folder,
    by_number,
    folders_in,
    ignored_in,
    readable,
    require_folder,
    scan_folder,
    shown,
)
from smope_bench.benchmarks.datasets.folders.image_folder import ImageFolder, ImageFolderConfig
from smope_bench.benchmarks.domains import DomainBenchmark, DomainConfig, names_of_cells
from smope_bench.benchmarks.errors import BenchmarkError


@dataclass(frozen=True)
class DomainsFolder(Folder):
    """All images of a folder, domain after domain; ``label`` of a file counts classes within domains."""

    domain_names: tuple[str, ...] = ()


def scan_domains(root: Path, *, subsets: bool = False) -> DomainsFolder:
    """Read and hash every file below ``root``.

    Layouts: ``<domain>/<class>/<image>``, or ``<domain>/train/<class>/<image>`` beside ``<domain>/test/<class>/<image>`` in
    every domain. ``subsets``: domains may lack classes that others have. Raises BenchmarkError naming what is out of place.
    """
    require_folder(root, "one sub-folder per domain")
    ignored: list[Path] = []
    tops = folders_in(root, ignored, "domain")
    names = [readable(top.name) for top in tops]
    if tops and all(name.casefold() in PART_NAMES for name in names):
        raise BenchmarkError(
            f"{shown(root)} holds {' and '.join(sorted(names, reverse=True))} where domains are expected; give each domain"
            " its own train and test"
        )
    for place, name in enumerate(names):
        if (first := names.index(name)) != place:
            raise BenchmarkError(
                f"{shown(tops[first])} and {shown(tops[place])} are one name in two Unicode forms; rename one of them"
            )
    if len(tops) < 2:
        there = f"one domain, {names[0]!r}" if tops else "no domains"
        raise BenchmarkError(f"{shown(root)} has {there}; a domain-incremental stream needs at least two")
    found = dict(zip(names, map(scan_folder, tops), strict=True))
    _require_same_layout(root, found)
    by_name = sorted({name for folder in found.values() for name in folder.class_names})
    classes = tuple(by_number(by_name))
    if not subsets:
        _require_same_classes(root, found, classes)
    _require_no_picture_twice(found)
    digest, files = hashlib.sha256(b"by number" if classes != tuple(by_name) else b""), []
    for position, (name, folder) in enumerate(found.items()):
        digest.update(f"{name}\0{folder.content}\n".encode())
        for file in folder.files:
            original = classes.index(folder.class_names[file.label])
            files.append(replace(file, label=position * len(classes) + original))
    notes = [f"domain {name!r}: {note}" for name, folder in found.items() for note in folder.notes]
    return DomainsFolder(
        classes, tuple(files), digest.hexdigest(), (*notes, *ignored_in(root, ignored)), domain_names=tuple(names)
    )


def _require_same_layout(root: Path, found: dict[str, Folder]) -> None:
    has_split = {name: folder.files[0].split is not None for name, folder in found.items()}
    if len(set(has_split.values())) > 1:
        with_split, without = (
            next(name for name, has in has_split.items() if has is wanted) for wanted in (True, False)
        )
        raise BenchmarkError(
            f"domain {with_split!r} of {shown(root)} has train and test but domain {without!r} has not; give all of them"
            " both, or none"
        )


def _require_same_classes(root: Path, found: dict[str, Folder], classes: tuple[str, ...]) -> None:
    for name, folder in found.items():
        for lacking in classes:
            if lacking not in folder.class_names:
                has = next(other for other, one in found.items() if lacking in one.class_names)
                raise BenchmarkError(
                    f"class {lacking!r} of {shown(root)} is in domain {has!r} but not in {name!r}; add it, or allow domains"
                    " with some of the classes by --set benchmark.class_subsets=true"
                )


def _require_no_picture_twice(found: dict[str, Folder]) -> None:
    known: dict[str, tuple[str, Path]] = {}
    for name, folder in found.items():
        for file in folder.files:
            other, path = known.setdefault(file.sha256, (name, file.path))
            if other != name:
                raise BenchmarkError(
                    f"{shown(file.path)} of domain {name!r} is the same picture as {shown(path)} of domain {other!r}; keep"
                    " it in one of them"
                )


class DomainFolderConfig(DomainConfig, ImageFolderConfig):
    """Settings of ``domain_folder``. A run is identified by ``content``, a hash of what ``path`` held."""

    tasks_follow_data: ClassVar[bool] = True

    path: str | None = Field(
        default=None, min_length=1, description="folder with one sub-folder per domain, each with one per class"
    )
    class_subsets: bool = Field(default=False, description="whether domains may lack classes that other domains have")


class DomainFolder(DomainBenchmark[DomainFolderConfig], ImageFolder):  # type: ignore[misc]
    """Images of any folder of domains, kept as those of ``imagefolder`` are."""

    name: ClassVar[str] = "domain_folder"
    Config: ClassVar[type[BenchmarkConfig]] = DomainFolderConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard(
        title="Domain folder",
        source="the folder named by path",
        licence="that of the images",
        summary="domain-incremental: any folder with one sub-folder per domain, each with one per class",
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of all domains, rising."""
        return self._names[1]

    @property
    def domain_names(self) -> tuple[str, ...]:
        """Names of the domains' folders, rising."""
        return self._names[0]

    @cached_property
    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if self.config.path is None:
            return names_of_cells(self.opened().class_names)
        folder = self.folder
        return folder.domain_names, folder.class_names

    def pinned(self) -> DomainFolderConfig:
        """The configuration with ``content`` in place of ``path``, and a task a domain."""
        tasks = self.config.tasks if "tasks" in self.config.model_fields_set else len(self.domain_order(0))
        return self.config.model_copy(update={"path": None, "content": self._content, "tasks": tasks})

    def task_sizes(self) -> tuple[int, ...]:
        if "tasks" in self.config.model_fields_set:
            return super().task_sizes()
        return (len(self.class_names),) * len(self.domain_order(0))

    def source(self) -> dict[str, Any]:
        return super().source() | {"class_subsets": self.config.class_subsets}

    def scan(self, path: Path) -> DomainsFolder:
        return scan_domains(path, subsets=self.config.class_subsets)

    def group_of(self, label: int) -> tuple[str, str]:
        domain, name = divmod(label, len(self.class_names))
        where = f"domain {self.domain_names[domain]!r}"
        return f"class {self.class_names[name]!r} of {where}", f"{where} class {self.class_names[name]!r}"
