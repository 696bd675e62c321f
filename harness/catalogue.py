"""What there is and what is planned, as plain rows: the content of ``list`` and ``plan``, for tables and JSON alike."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.suites import SUITES
from harness.plan import PlannedRun, estimate
from harness.provenance import code_fingerprint
from harness.registry import Registries, Registry
from harness.spec import Component
from harness.store import Record, Store

Rows = list[dict[str, Any]]


def list_methods(registries: Registries) -> Rows:
    """Methods with the papers they come from."""
    return _listed(
        registries.methods,
        lambda method: {
            "kind": method.card.kind,
            "title": method.card.title,
            "summary": method.card.summary,
            "paper": method.card.paper,
            "url": method.card.paper_url,
            "settings": sorted(method.Config.model_fields),
        },
    )


def list_benchmarks(registries: Registries) -> Rows:
    """Benchmarks with where their images come from."""
    return _listed(
        registries.benchmarks,
        lambda benchmark: {
            "title": benchmark.card.title,
            "summary": benchmark.card.summary,
            "source": benchmark.card.source,
            "licence": benchmark.card.licence,
            "settings": sorted(benchmark.Config.model_fields),
        },
    )


def list_backbones(registries: Registries) -> Rows:
    """Backbones with the hash that their weights must have."""
    return _listed(
        registries.backbones,
        lambda backbone: {
            "summary": backbone.summary,
            "image_size": backbone.image_size,
            "random": backbone.is_random,
            "sha256": backbone.sha256,
        },
    )


def list_suites() -> Rows:
    """Suites with what they compare."""
    return [
        {
            "name": suite.name,
            "title": suite.title,
            "summary": suite.summary,
            "methods": [row.label for row in suite.rows],
            "tiny_benchmarks": [column.label for column in suite.tiny],
            "full_benchmarks": [column.label for column in suite.full],
            "seeds": list(suite.seeds),
        }
        for suite in SUITES.values()
    ]


def list_plan(runs: Sequence[PlannedRun], store: Store, registries: Registries, data: Path) -> Rows:
    """Each planned run with its state and what it would cost: passes over images, and seconds where one is known."""
    seconds, images = _median_seconds(store), _TrainImages(registries, data)
    return [
        {
            "run_id": run.run_id,
            "state": store.state(run.run_id, code_fingerprint()),
            "suite": run.suite,
            "row": run.row,
            "method": run.method,
            "benchmark": run.benchmark,
            "order_seed": run.spec.order_seed,
            "train_seed": run.spec.train_seed,
            "recipe": run.recipe,
            **estimate(run, images.count(run.spec.benchmark), seconds),
        }
        for run in runs
    ]


def _listed(registry: Registry, describe: Any) -> Rows:
    return [
        {
            "name": entry.name,
            "owner": entry.owner,
            **({"error": entry.error} if entry.value is None else describe(entry.value)),
        }
        for entry in registry.listing()
    ]


def _median_seconds(store: Store) -> dict[tuple[str, str], float]:
    """Median computing time of finished runs by (method, benchmark)."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in store.scan():
        if isinstance(record, Record):
            key = (record.spec["method"]["name"], record.spec["benchmark"]["name"])
            found.setdefault(key, []).append(float(record.result["timings"].get("total_s", 0.0)))
    return {key: statistics.median(values) for key, values in found.items()}


class _TrainImages:
    """Counts the training images of benchmarks whose data is already in place; planning fetches nothing."""

    def __init__(self, registries: Registries, data: Path) -> None:
        self._registries, self._data = registries, data
        self._counts: dict[str, int | None] = {}

    def count(self, component: Component) -> int | None:
        key = component.model_dump_json()
        if key not in self._counts:
            self._counts[key] = self._read(component)
        return self._counts[key]

    def _read(self, component: Component) -> int | None:
        benchmark = self._registries.benchmarks.load(component.name)
        try:
            return len(benchmark(benchmark.Config(**component.config), self._data).image_set("train").labels)
        except (BenchmarkError, OSError):
            return None
