"""The measurement of the feeder: what it times and reports. The claims themselves are made by the command."""

from __future__ import annotations

import pytest

from smope_bench.harness.timing.claims import feed
from smope_bench.harness.timing.claims.feed import EXACT, FAST, HOST_FAST, LOADER, Accelerator, timed_epoch
from smope_bench.harness.timing.records import Spread


def test_every_side_is_timed_with_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "BATCH", 2)
    rows = {row.name: row for row in feed.bench_feed(3, 2, 1)}
    assert rows[LOADER]["times_faster"] == Spread(1, 1, 1)
    for name in (LOADER, EXACT, FAST, HOST_FAST):
        assert rows[name]["images_a_second"].median > 0 and rows[name]["cpu_ms"].median > 0
    simulated = [row for name, row in rows.items() if "simulated" in name]
    assert len(simulated) == 4 and all(row["to_longer"].median > 0.9 for row in simulated)


def test_an_epoch_lasts_as_long_as_its_steps_and_counts_what_is_computed() -> None:
    busy = Accelerator(0.01)

    def epoch(step: object) -> None:
        for _ in range(3):
            assert callable(step)
            step()

    took = timed_epoch(epoch, busy)
    assert 0.03 <= busy.slept <= took.wall and took.cpu < took.wall + 0.05
