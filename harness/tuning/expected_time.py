"""How long a search will take: trials that are left, times what a trial takes by measurement. Reads no image."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from smope_bench.harness.console import counted, duration
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_spec import RunSpec
from smope_bench.harness.tuning.study import TrialResult

SAME_SCHEDULE = ("epochs", "batch_size", "steps_per_epoch")
SAME_BENCHMARK = ("tasks", "limit", "image_size")
"""Settings that decide how long a run takes."""


def trial_seconds(results: Iterable[TrialResult], spec: RunSpec, seeds: int, store: Store) -> tuple[float, str] | None:
    """Median seconds of a trial and what they were measured on: trials of this search, else finished runs of the same method,
    backbone, benchmark and length, less the held-out share. None where neither is there."""
    own = [result.seconds for result in results if result.seconds]
    if own:
        return statistics.median(own), f"{counted(len(own), 'trial')} of this search"
    share = 1 - float(spec.benchmark.config.get("holdout") or 0.0)
    wanted = _kind(spec.model_dump(mode="json"))
    runs = [
        float(found.result["timings"].get("total_s") or 0.0)
        for found in store.scan()
        if isinstance(found, Record) and _kind(found.spec) == wanted
    ]
    if not any(runs):
        return None
    seconds = statistics.median(filter(None, runs)) * share * seeds
    return seconds, f"{counted(len(runs), 'finished run')} of the same length"


def _kind(spec: Mapping[str, Any]) -> tuple[object, ...]:
    benchmark, schedule = spec["benchmark"], spec["schedule"]
    return (
        spec["method"]["name"],
        spec["backbone"]["name"],
        spec["precision"],
        benchmark["name"],
        *(benchmark["config"].get(name) for name in SAME_BENCHMARK),
        *(schedule.get(name) for name in SAME_SCHEDULE),
    )


def expected_time(left: int, done: int, workers: int, known: tuple[float, str] | None) -> str:
    """A sentence for before the search; ``left``, ``done``: trials; ``known``: seconds of a trial and their source."""
    before = f" ({done} done)" if done else ""
    if not left:
        return f"no trial to do{before}"
    trials = f"{counted(left, 'trial')} to do{before}"
    if known is None:
        return f"{trials}; how long is not known before the first has ended"
    seconds, source = known
    at_once = min(workers, left)
    shared = f", {at_once} at a time" if at_once > 1 else ""
    return f"{trials}, about {duration(seconds * -(-left // at_once))}: {duration(seconds)} each{shared}, by {source}"
