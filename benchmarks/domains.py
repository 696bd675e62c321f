"""Domain-incremental benchmarks: the same classes, or a part of them, in one new domain a task.

A cache keeps one label for each class of each domain, ``domain * classes + class``, under the name ``domain/class``.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from smope_bench.benchmarks.base import BenchmarkConfig, ClassOrder, ImageSet, ProgressCallback, Protocol, Split
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.cached_benchmark import CachedBenchmark


class DomainConfig(BenchmarkConfig):
    """Settings of every domain-incremental benchmark: a task is a domain, so that tasks follow from the domains."""

    task_word: ClassVar[str] = "domain"

    class_order: ClassOrder = Field(
        default="natural", description="classes are numbered as they first arrive with a domain; cannot be changed"
    )
    domains: tuple[str, ...] | None = Field(
        default=None,
        description="names of the domains to train on, in this order in every run; none = all, as domain_order says",
    )
    domain_order: Literal["shuffled", "natural"] = Field(
        default="shuffled",
        description="order of all domains: shuffled by the order seed, or natural, which is by name in every run",
    )

    @model_validator(mode="before")
    @classmethod
    def _tasks_follow_domains(cls, data: Any) -> Any:
        """Take the number of tasks from ``domains`` where only that is given."""
        if not isinstance(data, dict) or data.get("domains") is None:
            return data
        given = data["domains"]
        names = [part.strip() for part in given.split(",")] if isinstance(given, str) else given
        count = {"tasks": len(names)} if isinstance(names, (list, tuple)) else {}
        return {**count, **data, "domains": names}

    @field_validator("domains")
    @classmethod
    def _domains_are_several(cls, domains: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if domains is not None:
            twice = next((name for name in domains if domains.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"domain {twice!r} is named twice")
            if len(domains) < 2:
                raise ValueError("a domain-incremental stream needs at least two domains")
        return domains

    @field_validator("class_order")
    @classmethod
    def _classes_have_no_order(cls, order: ClassOrder) -> ClassOrder:
        if order != "natural":
            raise ValueError("domains arrive, not classes; order the domains by domain_order or by domains=A,B")
        return order

    @field_validator("split")
    @classmethod
    def _classes_are_not_split(cls, split: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if split is not None:
            raise ValueError("a task is a domain here, so that classes are not split; choose domains by domains=A,B")
        return split


DomainConfigT = TypeVar("DomainConfigT", bound=DomainConfig)


class DomainBenchmark(CachedBenchmark[DomainConfigT]):
    """A subclass gives the names of domains and classes, and stores its images under the labels of ``cell``."""

    @property
    @abstractmethod
    def domain_names(self) -> tuple[str, ...]:
        """One name a domain, in natural order."""

    @property
    def protocol(self) -> Protocol:
        return "domain"

    def cell(self, domain: int, original: int) -> int:
        """The label under which a cache keeps a class of a domain."""
        return domain * len(self.class_names) + original

    def names_to_store(self, progress: ProgressCallback) -> tuple[str, ...]:
        del progress
        return cell_names(self.domain_names, self.class_names)

    def image_set(self, split: Split) -> ImageSet:
        return in_domains(super().image_set(split), len(self.class_names))

    def task_sizes(self) -> tuple[int, ...]:
        """All classes with each task. Raises BenchmarkError where the settings do not fit the domains."""
        domains, tasks = len(self.domain_order(0)), self.config.tasks
        if tasks != domains:
            names = ",".join(self.domain_names)
            raise BenchmarkError(
                f"{self.name}: tasks={tasks} but a task is a domain and there are {domains}; leave tasks out, or choose some"
                f" of domains={names}"
            )
        return (self.num_classes,) * domains

    def domain_order(self, seed: int) -> tuple[int, ...]:
        """Positions in ``domain_names`` in order of arrival: as listed, natural, or shuffled by ``seed``."""
        if seed < 0:
            raise BenchmarkError(f"order seed {seed} is negative; use 0 or more")
        names, config = self.domain_names, self.config
        if config.domains is not None:
            for name in config.domains:
                if name not in names:
                    raise BenchmarkError(
                        f"{self.name}: there is no domain {name!r}; the domains are {', '.join(names)}"
                    )
            return tuple(names.index(name) for name in config.domains)
        order = list(range(len(names)))
        if config.domain_order == "shuffled":
            random.Random(seed).shuffle(order)
        return tuple(order)


def cell_names(domains: tuple[str, ...], classes: tuple[str, ...]) -> tuple[str, ...]:
    """``domain/class`` for every pair, domain after domain."""
    return tuple(f"{domain}/{name}" for domain in domains for name in classes)


def names_of_cells(cells: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of domains and of classes, from ``cell_names``."""
    domains = tuple(dict.fromkeys(cell.partition("/")[0] for cell in cells))
    return domains, tuple(cell.partition("/")[2] for cell in cells[: len(cells) // len(domains)])


def in_domains(images: ImageSet, classes: int) -> ImageSet:
    """Images labelled by cell as images with a class and a domain each."""
    return ImageSet(images.images, images.labels % classes, images.labels // classes)
