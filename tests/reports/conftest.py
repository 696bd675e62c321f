"""Makes results folders with plausible records, so that reports are tested without training anything."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from matplotlib.backends.backend_pdf import PdfFile

from smope_bench.harness.records.record import RECORD_SCHEMA
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec
from smope_bench.reports.build import ReportFiles, make_document, write_report
from smope_bench.reports.loading.load import load_suites

FRESH, OLD = "f" * 16, "0" * 16
#       label              method          kind       level after the last task, loss a task
ROWS = (
    ("Nearest class mean", "ncm", "floor", 84.0, 0.5),
    ("Linear probe", "linear_probe", "floor", 71.0, 5.0),
    ("One prompt + TAP", "one_prompt", "floor", 90.0, 1.5),
    ("SMoPE", "smope", "method", 94.0, 0.8),
    ("Joint: prompt and head", "joint", "ceiling", 98.0, 0.0),
)


def spec_of(method: str, benchmark: str, order: int, train: int, tasks: int, **config: Any) -> RunSpec:
    """A specification as the planner would make it."""
    return RunSpec(
        method=Component(name=method, config={"prompts": 20, **config}),
        benchmark=Component(name=benchmark, config={"tasks": tasks}),
        backbone=BackboneRef(name="tiny", sha256="ab" * 32),
        schedule={"batch_size": 32, "epochs": 5, "lr": 0.005},
        order_seed=order,
        train_seed=train,
    )


def matrix_of(tasks: int, level: float, loss: float, seed: int, *, joint: bool = False) -> list[list[float | None]]:
    """An accuracy matrix whose tasks fade by ``loss`` points a stage towards ``level``."""
    draw = random.Random(seed)
    start = min(99.0, level + loss * (tasks - 1) / 2)
    matrix: list[list[float | None]] = []
    for t in range(tasks):
        row: list[float | None] = [None] * tasks
        if t == tasks - 1 or not joint:
            for i in range(t + 1):
                row[i] = round(min(100.0, max(0.0, start - loss * (t - i) + draw.gauss(0, 0.9))), 4)
        matrix.append(row)
    return matrix


def result_of(
    spec: RunSpec, matrix: list[list[float | None]], *, fingerprint: str = FRESH, **changes: Any
) -> dict[str, Any]:
    """A record as the engine would publish it; ``changes`` replace top-level fields."""
    tasks, seed = len(matrix), spec.order_seed
    result = {
        "schema_version": RECORD_SCHEMA,
        "run_id": spec.run_id,
        "spec": spec.model_dump(mode="json"),
        "accuracy_matrix": matrix,
        "test_counts": [70 + i for i in range(tasks)],
        "class_order": list(range(2 * tasks)),
        "class_names": [f"digit {i}" for i in range(2 * tasks)],
        "split_hash": f"{spec.benchmark.name}-{seed}".ljust(64, "0"),
        "timings": {
            "total_s": 12.5 + seed,
            "tasks": [{"task": t, "train_s": 1.5 + t / 10, "end_s": 0.4, "evaluate_s": 0.2} for t in range(tasks)],
        },
        "costs": {
            "learnable_parameters": 12_345,
            "backbone_parameters": 1_600_000,
            "peak_memory_mb": 812.5,
            "memory_increase_mib": 41.5,
            "train_images": 14_370,
            "test_images": 1_077,
        },
        "provenance": {
            "project": "0.1.0",
            "git_revision": "0123456789abcdef",
            "git_dirty": False,
            "code_fingerprint": fingerprint,
            "python": "3.11.9",
            "torch": "2.4.0",
            "timm": "1.0.0",
            "numpy": "1.26.0",
            "platform": "Linux-x86_64",
            "cpu": "a CPU of two cores",
            "device": "cpu",
            "device_name": "a CPU of two cores",
            "started": f"2026-11-22T05:0{seed % 10}:00Z",
            "finished": f"2026-11-22T05:0{seed % 10}:12Z",
            "weights_sha256": "ab" * 32,
            "split_hash": f"{spec.benchmark.name}-{seed}".ljust(64, "0"),
        },
        "flags": {"leaking": False, "tiny": True, "random_backbone": False},
    }
    return result | changes


@dataclass
class Factory:
    """Builds one suite in a results folder, run by run. Tests reach the makers above through it, as importing is not theirs."""

    FRESH: ClassVar[str] = FRESH
    OLD: ClassVar[str] = OLD
    spec = staticmethod(spec_of)
    matrix = staticmethod(matrix_of)
    result = staticmethod(result_of)

    root: Path
    suite: str = "smoke"
    title: str = "Smoke: floors, ceilings and SMoPE on small data"
    description: str = "Every run takes seconds."
    tiny: bool = True
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    cells: list[dict[str, Any]] = field(default_factory=list)

    @property
    def store(self) -> Store:
        """The results folder."""
        return Store(self.root)

    def plan(self, label: str, spec: RunSpec, *, kind: str = "method", column: str = "digits") -> RunSpec:
        """Add a run to the manifest without publishing anything."""
        tasks = int(spec.benchmark.config["tasks"])
        self.rows.setdefault(
            label, {"label": label, "method": spec.method.name, "kind": kind, "paper": None, "url": None}
        )
        self.columns.setdefault(
            column, {"label": column, "benchmark": spec.benchmark.name, "tasks": tasks, "summary": "handwritten digits"}
        )
        seeds = {"order_seed": spec.order_seed, "train_seed": spec.train_seed}
        self.cells.append({"row": label, "column": column, **seeds, "run_id": spec.run_id})
        return spec

    def publish(self, label: str, spec: RunSpec, matrix: list[list[float | None]], **options: Any) -> RunSpec:
        """Add a run and its record."""
        placed = {key: options.pop(key) for key in ("kind", "column") if key in options}
        self.plan(label, spec, **placed)
        self.store.write_result(spec.run_id, result_of(spec, matrix, **options))
        return spec

    def level(self, label: str, faa: float, *, seeds: Iterable[int] = (0, 1), tasks: int = 1, **options: Any) -> None:
        """Publish a run a seed whose FAA is ``faa`` exactly."""
        for seed in seeds:
            spec = spec_of(label.lower(), options.get("column", "digits"), seed, seed, tasks)
            self.publish(
                label, spec, [[faa if i <= t else None for i in range(tasks)] for t in range(tasks)], **options
            )

    def fail(self, label: str, spec: RunSpec, error: str, **placed: Any) -> RunSpec:
        """Add a run that stopped."""
        self.plan(label, spec, **placed)
        failure = {
            "schema_version": RECORD_SCHEMA,
            "run_id": spec.run_id,
            "spec": spec.model_dump(mode="json"),
            "error": error,
        }
        self.store.write_failure(
            spec.run_id, failure | {"kind": "RunDivergedError", "last_good_task": 1, "traceback": "Traceback ...\nboom"}
        )
        return spec

    def fill(self, seeds: Iterable[int], columns: Mapping[str, int], rows: Iterable[tuple[Any, ...]] = ROWS) -> Factory:
        """Publish every row on every benchmark for every seed."""
        for column, tasks in columns.items():
            for label, method, kind, level, loss in rows:
                for seed in seeds:
                    spec = spec_of(method, column.split("-")[0], seed, seed, tasks)
                    matrix = matrix_of(tasks, level, loss, seed * 31 + tasks, joint=kind == "ceiling")
                    self.publish(label, spec, matrix, kind=kind, column=column)
        return self

    def publish_levels(self, label: str, method: str, column: Any, levels: Iterable[float], **options: Any) -> None:
        """Publish a paper-scale run a level on a suite's column: each accuracy of a run is its level, so FAA and CAA are too.

        ``backbone`` replaces the column's own in the runs' specifications; other options are those of ``publish``.
        """
        self.tiny, tasks = False, column.config["tasks"]
        backbone = options.pop("backbone", column.backbone)
        options = {"flags": {"leaking": False, "tiny": False, "random_backbone": False}, **options}
        entry = {"label": column.label, "benchmark": column.benchmark, "tasks": tasks, "backbone": column.backbone}
        self.columns.setdefault(column.label, entry)
        for seed, level in enumerate(levels):
            spec = spec_of(method, column.benchmark, seed, seed, tasks, row=label)
            spec = spec.model_copy(update={"backbone": BackboneRef(name=backbone, sha256="cd" * 32)})
            first = tasks - 1 if options.get("kind") == "ceiling" else 0
            matrix = [[level if first <= t and i <= t else None for i in range(tasks)] for t in range(tasks)]
            self.publish(label, spec, matrix, column=column.label, **options)

    def write(self) -> Store:
        """Write the manifest."""
        head: Mapping[str, Any] = {
            "suite": self.suite, "title": self.title, "description": self.description, "tiny": self.tiny,
        }  # fmt: skip
        parts = {"rows": list(self.rows.values()), "columns": list(self.columns.values()), "cells": self.cells}
        self.store.write_manifest(self.suite, {**head, **parts})
        return self.store


@pytest.fixture
def only_svg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the three forms of a figure the tests read one; the letters of a PDF take most of the time of the others."""
    monkeypatch.setattr(PdfFile, "finalize", lambda _: None)


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    """An empty suite."""
    return Factory(tmp_path / "results")


@pytest.fixture
def make_factory(tmp_path: Path) -> Callable[..., Factory]:
    """Makes suites in one results folder."""
    return lambda **options: Factory(tmp_path / "results", **options)


@pytest.fixture(scope="session")
def make_suite() -> Callable[[Path], Factory]:
    """Makes an empty suite in a folder of the test's own."""
    return Factory


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished suite of five rows, three seeds and one benchmark."""
    return Factory(tmp_path_factory.mktemp("smoke")).fill(range(3), {"digits": 5}).write()


@pytest.fixture(scope="session")
def smoke_report(smoke: Store, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    """The written report of the finished suite."""
    document = make_document(load_suites(smoke, ["smoke"], FRESH), smoke)
    return write_report(document, tmp_path_factory.mktemp("report"))
