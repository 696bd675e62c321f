"""Seeds that a difference needs: against an exact power computation, and from the runs of a store."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from statsmodels.stats.power import TTestPower

from smope_bench import run_all
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.planning.summary.power import ALPHA, POWER, power, seeds_needed
from smope_bench.harness.records.record import RECORD_SCHEMA
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_spec import Component
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]


@pytest.mark.parametrize(("points", "spread", "tests"), [(1.0, 1.0, 1), (0.5, 1.0, 1), (1.0, 2.0, 12), (3.0, 1.0, 17)])
def test_agrees_with_statsmodels(points: float, spread: float, tests: int) -> None:
    exact = float(
        TTestPower().solve_power(effect_size=points / spread, alpha=ALPHA / tests, power=POWER, alternative="two-sided")
    )
    found = seeds_needed(points, spread, tests)
    assert found is not None and found - 1 < exact <= found


def test_extremes() -> None:
    assert seeds_needed(1.0, 0.0, 5) == 3
    assert seeds_needed(100.0, 1e-6, 5) == 3
    assert seeds_needed(0.01, 10.0, 5) is None


def finished(store: Store, row: str, order: int, train: int, faa: float, method: str = "linear_probe") -> PlannedRun:
    """A planned run with its record."""
    config = {"row": row}
    spec = micro_spec("linear_probe").model_copy(
        update={"order_seed": order, "train_seed": train, "method": Component(name="linear_probe", config=config)}
    )
    record = {"schema_version": RECORD_SCHEMA, "run_id": spec.run_id, "spec": spec.model_dump(mode="json")}
    measured = {
        "accuracy_matrix": [[faa]],
        "test_counts": [9],
        "costs": {},
        "timings": {},
        "provenance": {"code_fingerprint": "x"},
    }
    store.write_result(spec.run_id, {**record, **measured})
    return PlannedRun("smoke", row, method, "digits", spec)


def test_the_spread_is_that_of_paired_differences_of_class_orders(tmp_path: Path) -> None:
    store = Store(tmp_path)
    base, other = [80.0, 85.0, 70.0], [78.0, 84.0, 69.5]
    runs = [finished(store, "Ours", order, 0, faa) for order, faa in enumerate(base)]
    runs += [finished(store, "B", order, train, faa + train) for order, faa in enumerate(other) for train in (0, 1)]
    runs += [finished(store, "All at once", order, 0, 90 + order, "joint") for order in range(3)]  # no rival
    (found,) = power(runs, store, 2.0, {"smoke": "Ours"})
    spread = statistics.stdev(b + 0.5 - a for a, b in zip(base, other, strict=True))
    assert (found.reference, found.seeds) == ("Ours", 3) and found.spreads == {"B": pytest.approx(spread)}
    assert found.median == found.largest == seeds_needed(2.0, spread, 1)
    assert "a difference of 2 points to Ours needs" in found.words
    (best,) = power(runs, store, 2.0, {})
    assert best.reference == "Ours"  # the best mean
    assert power(runs[:1], store, 2.0, {}) == []


def test_without_runs_it_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["plan", "smoke", "--results", str(tmp_path), "--power", "2"]) == 0
    assert "no spread is known yet" in capsys.readouterr().out
    assert run_all.main(["plan", "smoke", "--results", str(tmp_path), "--power", "0"]) == 2
