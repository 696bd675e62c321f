"""Made-up results folders of any size, seeded: every suite at paper scale, or the finished runs of a plan."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smope_bench.benchmarks.suites import SUITES, Column, Row, Suite
from smope_bench.benchmarks.suites.schema import CEILINGS, FLOORS
from smope_bench.harness.records.atomic_write import json_bytes
from smope_bench.harness.records.observations import LABELS, VALIDATION_LOSS, npz_bytes
from smope_bench.harness.records.record import OBSERVATIONS, PREDICTIONS, RECORD, RECORD_SCHEMA, with_checksum
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec

if TYPE_CHECKING:
    from smope_bench.harness.planning.planner import PlannedRun

FINGERPRINT = "5" * 64
_TASKS, _IMAGES, _CLASSES = 10, 500, 200
_TESTS = 40
"""Test images of a task of a planned run."""
_SHAPES: Mapping[str, tuple[int, ...]] = {
    "activation_counts": (_TASKS, 6, 4, 25),
    "prefix_keys": (_TASKS, 6, 4, 25, 32),
    "expert_scores": (_IMAGES, 4, 25),
    "head_inputs": (_IMAGES, 4, 32),
}
_OTHER_SETTINGS = {f"setting_{number}": number / 7 for number in range(40)}
"""Settings beside a row's own, as real specifications have them: they are read and hashed too."""


@dataclass(frozen=True)
class _Place:
    """A cell of one suite."""

    suite: str
    row: Row
    column: Column


def make_store(root: Path, runs: int) -> Store:
    """Write ``runs`` finished records over all suites that train, with manifests and observations.

    Suites that share a cell share its runs. Cells get seeds 0, 1, ... in turn until there are enough records.
    """
    places = [
        _Place(suite.name, row, column) for suite in _suites() for column in _columns(suite) for row in suite.rows
    ]
    cells: dict[str, list[_Place]] = {}
    for place in places:
        cells.setdefault(_spec(place, 0).run_id, []).append(place)
    manifests: dict[str, list[dict[str, Any]]] = {suite.name: [] for suite in _suites()}
    store = Store(root)
    for number in range(runs):
        seed, cell = divmod(number, len(cells))
        shared = list(cells.values())[cell]
        spec = _spec(shared[0], seed)
        _write_run(store, spec, shared, level=70.0 + 20.0 * cell / len(cells))
        for place in shared:
            manifests[place.suite].append(_cell_entry(place, spec))
    for suite in _suites():
        store.write_manifest(suite.name, _manifest(suite, manifests[suite.name]))
    return store


def finish_all(store: Store, planned: Iterable[PlannedRun]) -> None:
    """Write a record and predictions for each planned run, as if this code had finished it, without syncing the disk."""
    predictions: dict[int, tuple[bytes, str]] = {}
    for run in planned:
        tasks = run.spec.num_tasks or _TASKS
        if tasks not in predictions:
            data = _predictions(tasks)
            predictions[tasks] = data, hashlib.sha256(data).hexdigest()
        data, digest = predictions[tasks]
        record = _record(run.spec, 70 + sum(run.row.encode()) % 20, is_joint=False, tasks=tasks)
        record["test_counts"], record["predictions_sha256"] = [_TESTS] * tasks, digest
        record["provenance"]["code_fingerprint"] = run.spec.fingerprint
        folder = store.path(run.run_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PREDICTIONS).write_bytes(data)
        (folder / RECORD).write_bytes(json_bytes(with_checksum(record)))


def _predictions(tasks: int) -> bytes:
    """An archive of predictions: ``_TESTS`` images a task, each task of classes of its own, eight of ten right."""
    labels = np.repeat(np.arange(2 * tasks, dtype=np.int32), _TESTS // 2)
    found = {f"stage_{t}": labels[: (t + 1) * _TESTS].copy() for t in range(tasks)}
    for row in found.values():
        row[::5] = 0
    return npz_bytes({"labels": labels, **found})


def _suites() -> list[Suite]:
    return [suite for suite in SUITES.values() if not suite.counts_only]


def _columns(suite: Suite) -> tuple[Column, ...]:
    return suite.full or suite.tiny


def _tasks(column: Column) -> int:
    return int(column.config.get("tasks", _TASKS))


def _spec(place: _Place, seed: int) -> RunSpec:
    """The specification of a run; equal cells of several suites have equal ones."""
    return RunSpec(
        method=Component(name=place.row.method, config={**_OTHER_SETTINGS, **place.row.settings}),
        benchmark=Component(name=place.column.benchmark, config=dict(place.column.config)),
        backbone=BackboneRef(name=place.column.backbone, sha256="ab" * 32),
        schedule={"batch_size": 64, "epochs": 20, "lr": 0.005},
        order_seed=seed,
        train_seed=seed,
    )


def _write_run(store: Store, spec: RunSpec, shared: Iterable[_Place], level: float) -> None:
    """Write the record and the observations of its suites, without syncing the disk."""
    shared = list(shared)
    names = sorted({name for place in shared for name in SUITES[place.suite].observe})
    record = _record(spec, level, is_joint=shared[0].row in CEILINGS, tasks=_tasks(shared[0].column))
    folder = store.path(spec.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    if names:
        data = npz_bytes(_observed(names, int(spec.run_id, 16)))
        (folder / OBSERVATIONS).write_bytes(data)
        record["observations"] = {"file": OBSERVATIONS, "sha256": hashlib.sha256(data).hexdigest(), "names": names}
    (folder / "result.json").write_text(json.dumps(with_checksum(record), indent=1), encoding="utf-8")


def _record(spec: RunSpec, level: float, *, is_joint: bool, tasks: int) -> dict[str, Any]:
    draw = random.Random(spec.run_id)
    split = hashlib.sha256(f"{spec.benchmark} {spec.order_seed}".encode()).hexdigest()
    order = random.Random(split).sample(range(_CLASSES), _CLASSES)  # equal for runs of one split, as in real records
    day, minute = divmod(spec.order_seed, 60)
    return {
        "schema_version": RECORD_SCHEMA,
        "run_id": spec.run_id,
        "spec": spec.model_dump(mode="json"),
        "accuracy_matrix": _matrix(draw, tasks, level, is_joint=is_joint),
        "test_counts": [600 + task for task in range(tasks)],
        "predictions_sha256": "cd" * 32,
        "class_order": order,
        "class_names": [f"class number {number}" for number in order],
        "split_hash": split,
        "timings": {
            "total_s": 900.0,
            "tasks": [
                {"task": task, "train_s": 80 + draw.random(), "end_s": 5.5, "evaluate_s": 2.5} for task in range(tasks)
            ],
        },
        "costs": {
            "learnable_parameters": draw.randrange(100_000, 900_000),
            "backbone_parameters": 85_798_656,
            "peak_memory_mb": 7000.5,
            "memory_increase_mib": 2000.5 + draw.randrange(1000),
            "train_images": 480_000,
            "test_images": 60_000,
        },
        "provenance": {
            "project": "0.1.0",
            "git_revision": "0123456789abcdef",
            "git_dirty": False,
            "code_fingerprint": FINGERPRINT,
            **dict.fromkeys(("python", "torch", "timm", "numpy"), "1.0"),
            "platform": "Linux x86_64",
            **dict.fromkeys(("cpu", "device", "device_name"), "made up"),
            "started": f"2026-01-{1 + day % 28:02d}T00:{minute:02d}:00Z",
            "finished": f"2026-01-{1 + day % 28:02d}T00:{minute:02d}:59Z",
            "weights_sha256": spec.backbone.sha256,
            "split_hash": split,
        },
        "flags": {"leaking": False, "tiny": False, "random_backbone": False},
    }


def _matrix(draw: random.Random, tasks: int, level: float, *, is_joint: bool) -> list[list[float | None]]:
    """(tasks, tasks) in percent: each task fades a little with every later one; a joint run has its last row only."""
    rows = range(tasks - 1, tasks) if is_joint else range(tasks)
    matrix: list[list[float | None]] = [[None] * tasks for _ in range(tasks)]
    for stage in rows:
        for task in range(stage + 1):
            matrix[stage][task] = min(100.0, level + 5 - 0.5 * (stage - task) + draw.gauss(0, 1.5))
    return matrix


def _observed(names: Iterable[str], seed: int) -> dict[str, NDArray[Any]]:
    draw = np.random.default_rng(seed)
    found: dict[str, NDArray[Any]] = {LABELS: draw.integers(0, _CLASSES, _IMAGES)}
    for name in names:
        if name == VALIDATION_LOSS:
            epochs = np.arange(20 * _TASKS)
            found[f"{name}.task"], found[f"{name}.epoch"] = epochs // 20, epochs % 20
            found[f"{name}.phase"] = np.array(["train"] * len(epochs))
            found[f"{name}.loss"] = 1 / (1 + epochs % 20) + draw.random(len(epochs)) / 10
        elif name in _SHAPES:
            found[name] = draw.integers(0, 100, _SHAPES[name]) if "counts" in name else draw.normal(size=_SHAPES[name])
    return found


def _cell_entry(place: _Place, spec: RunSpec) -> dict[str, Any]:
    return {
        "row": place.row.label,
        "column": place.column.label,
        "order_seed": spec.order_seed,
        "train_seed": spec.train_seed,
        "run_id": spec.run_id,
        "recipe": "made up",
        "settings": [],
    }


def _manifest(suite: Suite, cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "suite": suite.name,
        "title": suite.title,
        "description": suite.summary,
        "tiny": False,
        "rows": [{"label": row.label, "method": row.method, "kind": _kind(row)} for row in suite.rows],
        "columns": [
            {
                "label": column.label,
                "benchmark": column.benchmark,
                "tasks": _tasks(column),
                "backbone": column.backbone,
                "summary": "made up",
            }
            for column in _columns(suite)
        ],
        "cells": cells,
    }


def _kind(row: Row) -> str:
    return "floor" if row in FLOORS else "ceiling" if row in CEILINGS else "method"
