"""What each run of a plan would cost, and what it needs that is not here yet: the columns behind ``plan``."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smope_bench.harness.cost.estimate import Estimator, Rate, find_rate
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.records.store import Record, Store
from smope_bench.harness.registry.registry import Registries


class Pricing:
    """What runs would cost; looks at finished runs once."""

    def __init__(self, store: Store, registries: Registries, data: Path, tflops: float | None) -> None:
        self._registries, self._data, self._results, self._tflops = registries, data, store.root, tflops
        self._records = [record for record in store.scan() if isinstance(record, Record)]
        self._medians = median_seconds(self._records)
        self._estimator = Estimator(registries, data)
        self._rates: dict[tuple[str, str], Rate | None] = {}

    def price(self, run: PlannedRun) -> dict[str, Any]:
        """The columns of a plan that are about cost, and what has to be fetched first."""
        spec = run.spec
        work = self._estimator.work(spec)
        seconds, rate = self._medians.get((run.method, spec.benchmark.name, spec.backbone.name)), None
        if (seconds is None or self._tflops is not None) and work is not None:
            rate = self._rate(run)
            seconds = work.flops / rate.flops_per_s if rate else seconds
        return {
            "train_image_passes": work and work.image_passes,
            "flops": work and work.flops,
            "seconds": seconds,
            "throughput": rate and rate.words,
            "needs": self._needs(run),
        }

    def _rate(self, run: PlannedRun) -> Rate | None:
        backbone = run.spec.backbone.name
        key = (backbone, run.spec.precision)
        if key not in self._rates:
            tiny = self._registries.backbones.load(backbone).is_tiny
            self._rates[key] = find_rate(
                self._records, self._estimator, run.spec, self._results, self._tflops, is_tiny=tiny
            )
        return self._rates[key]

    def _needs(self, run: PlannedRun) -> list[dict[str, Any]]:
        needs = []
        if run.lacks_weights:
            name = run.spec.backbone.name
            needs.append({"kind": "backbone", "name": name, "bytes": _bytes(self._registries.backbones.load(name))})
        benchmark = self._registries.benchmarks.load(run.spec.benchmark.name)
        images = self._estimator.images(run.spec.benchmark)
        if getattr(benchmark, "remotes", ()) and not (images and images.prepared):
            needs.append({"kind": "benchmark", "name": run.spec.benchmark.name, "bytes": _bytes(benchmark)})
        return needs


def _bytes(owner: Any) -> int | None:
    """About how many bytes are downloaded; None where that of a file is not stated."""
    if megabytes := getattr(owner, "megabytes", None):
        return int(megabytes) * 10**6
    sizes = [remote.size for remote in getattr(owner, "remotes", ())]
    return sum(sizes) if sizes and all(sizes) else None


def median_seconds(records: Iterable[Record]) -> dict[tuple[str, str, str], float]:
    """Median computing time of finished runs by (method, benchmark, backbone)."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for record in records:
        key = (record.spec["method"]["name"], record.spec["benchmark"]["name"], record.spec["backbone"]["name"])
        found.setdefault(key, []).append(float(record.result["timings"].get("total_s", 0.0)))
    return {key: statistics.median(values) for key, values in found.items()}
