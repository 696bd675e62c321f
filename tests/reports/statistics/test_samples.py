"""What may be compared: fresh runs only, each pair of seeds once, by the seeds that the records themselves name."""

from __future__ import annotations

from dataclasses import replace

from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.statistics.samples import sample


def test_stale_runs_are_no_sample_though_their_cell_shows_them(factory) -> None:
    factory.level("A", 80.0, fingerprint=factory.OLD)
    (cell,) = load_suite(factory.write(), "smoke", factory.FRESH).cells.values()
    assert len(cell.used) == 2 and sample(cell, "faa").values == {}


def test_a_pair_of_seeds_counts_once_whatever_the_manifest_says(factory) -> None:
    for width, level in ((1, 70.0), (2, 80.0)):
        factory.publish("A", factory.spec("a", "digits", 0, 0, 1, width=width), [[level]])
    (cell,) = load_suite(factory.write(), "smoke", None).cells.values()
    runs = tuple(replace(run, train_seed=i) for i, run in enumerate(cell.runs))
    first = min(runs, key=lambda run: run.run_id)
    found = sample(replace(cell, runs=runs, used=tuple(reversed(runs))), "faa")
    assert first.outcome is not None
    assert found.values == {(0, 0): first.outcome.metrics["faa"]} and found.runs == {(0, 0): first.run_id}
