"""Expected values of a suite's metrics, and whether stored runs meet them: for continuous integration.

``python -m smope_bench.harness.cli.expectations SUITE`` runs the suite over several training seeds and writes the file anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smope_bench.benchmarks.suites import Suite
from smope_bench.harness.errors import UserError
from smope_bench.harness.metrics import METRICS, Metric, final_average_accuracy

if TYPE_CHECKING:
    from smope_bench.harness.records.store import Store

STORED = "stored"
LEAST_TOLERANCE = 2.0
DEVIATIONS = 3.0
TRAIN_SEEDS = tuple(range(3))

Cell = tuple[str, str]


@dataclass(frozen=True)
class ExpectationResult:
    """One metric of one cell of the suite: the mean that was found and what was expected, in the metric's unit."""

    row: str
    column: str
    metric: Metric
    found: float | None
    expected: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the run exists and lies within the tolerance."""
        return self.found is not None and abs(self.found - self.expected) <= self.tolerance

    def __str__(self) -> str:
        found = "no finished run" if self.found is None else f"{self.metric.heading} {self.found:.2f}"
        mark = "ok" if self.holds else "OUTSIDE"
        return f"{mark:7} {self.row} on {self.column}: {found}, expected {self.expected:.2f} ± {self.tolerance:.2f}"


def stored_file(suite: Suite) -> Path:
    """The file of a built-in suite's expected accuracies."""
    return Path(__file__).parents[2] / "benchmarks" / "suites" / f"{suite.name}_expected.json"


def read_expected(suite: Suite, source: str, metrics: Sequence[Metric] = METRICS) -> list[dict[str, Any]]:
    """The expected cells from ``stored`` or a file; each has one or several metrics by name, e.g. ``faa``.

    Raises UserError where there are none, or a cell lacks its row, column, tolerance or any known metric.
    """
    file = stored_file(suite) if source == STORED else Path(source)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        cells = found.get("cells") if isinstance(found, dict) else None
        if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
            raise ValueError("no list of cells")
        return [_expected_cell(cell, {metric.name for metric in metrics}) for cell in cells]
    except FileNotFoundError as error:
        hint = "this suite has no stored expectations; give --expect FILE" if source == STORED else "no such file"
        raise UserError(f"--expect {source}: {hint}") from error
    except (OSError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise UserError(
            f'--expect {source}: {file.name} must be JSON of the form {{"cells": [{{"row", "column", "faa", "tolerance"}}]}}'
            f", where any metric may stand for faa: {', '.join(metric.name for metric in metrics)}"
            f" ({type(error).__name__}: {error})"
        ) from error


def _expected_cell(cell: dict[str, Any], metrics: Collection[str]) -> dict[str, Any]:
    values = {name: _number(cell, name) for name in cell if name in metrics}
    if not values:
        raise KeyError("faa")
    return {
        **cell,
        **values,
        "row": str(cell["row"]),
        "column": str(cell["column"]),
        "tolerance": _number(cell, "tolerance"),
    }


def _number(cell: Mapping[str, Any], name: str) -> float:
    if not isinstance(cell[name], int | float | str):
        raise ValueError(f"{name} is {cell[name]!r} and no number")
    return float(cell[name])


def verify(
    suite: str,
    store: Store,
    expected: Sequence[dict[str, Any]],
    *,
    only_planned: bool = False,
    metrics: Sequence[Metric] = METRICS,
) -> list[ExpectationResult]:
    """Compare means over seeds of a suite's stored runs with the expected cells.

    ``only_planned`` leaves out cells that the suite's manifest lacks; otherwise they count as missing.
    """
    needed = [metric for metric in metrics if any(metric.name in cell for cell in expected)]
    found = {metric.name: measured(suite, store, metric) for metric in needed}
    planned = {cell for values in found.values() for cell in values}
    return [
        ExpectationResult(*key, metric, _mean(found[metric.name].get(key)), cell[metric.name], cell["tolerance"])
        for cell in expected
        if (key := (cell["row"], cell["column"])) in planned or not only_planned
        for metric in needed
        if metric.name in cell
    ]


def read_all_expected(
    suites: Sequence[str], source: str | None, metrics: Sequence[Metric] = METRICS
) -> dict[str, list[dict[str, Any]]]:
    """What is expected of each suite, none where no source is named; read before anything trains."""
    from smope_bench.harness.planning.suites.find import find_suites

    if source is None:
        return {}
    return {suite.name: read_expected(suite, source, metrics) for suite in find_suites(suites)}


def print_expectations(
    store: Store,
    expected: dict[str, list[dict[str, Any]]],
    *,
    only_planned: bool,
    metrics: Sequence[Metric] = METRICS,
) -> int:
    """Print how the stored runs compare with what was expected; returns how many values lie outside their tolerance."""
    outside = 0
    for name, cells in expected.items():
        verdicts = verify(name, store, cells, only_planned=only_planned, metrics=metrics)
        outside += sum(not verdict.holds for verdict in verdicts) + (not verdicts)
        for verdict in verdicts:
            print(verdict)
        if not verdicts:
            print(f"failed: nothing is expected of the rows of suite {name!r} that ran", file=sys.stderr)
    return outside


def measured(suite: str, store: Store, metric: Metric = final_average_accuracy) -> dict[Cell, list[float]]:
    """A metric of every finished run of a suite's manifest, by row and column; runs where it is not defined are left out."""
    from smope_bench.harness.records.record import Record

    found: dict[Cell, list[float]] = {}
    for cell in store.read_cells(suite):
        values = found.setdefault((cell["row"], cell["column"]), [])
        record = store.load(cell["run_id"])
        if isinstance(record, Record):
            value = metric.compute(record.result["accuracy_matrix"], record.result["test_counts"])
            values += [] if value is None else [value]
    return found


def _mean(values: list[float] | None) -> float | None:
    return statistics.fmean(values) if values else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a suite over training seeds; store the first seed's FAA and a tolerance of three deviations."""
    from rich.console import Console

    from smope_bench.harness.execution.launcher import launch
    from smope_bench.harness.planning.selection import Selection
    from smope_bench.harness.planning.settings import Seeds
    from smope_bench.harness.planning.suites.find import find_suite
    from smope_bench.harness.records.atomic_write import write_json_atomically
    from smope_bench.harness.records.store import Store
    from smope_bench.harness.run_options import RunOptions

    parser = argparse.ArgumentParser(prog="python -m smope_bench.harness.cli.expectations", description=__doc__)
    parser.add_argument("suite")
    parser.add_argument("--results", type=Path, required=True, help="an empty folder for the runs")
    parser.add_argument("--data", type=Path, default=Path("data"))
    options = parser.parse_args(arguments)
    suite, store = find_suite(options.suite), Store(options.results)
    order = suite.seeds[0]
    for train in TRAIN_SEEDS:
        selection = Selection(seeds=(Seeds(order, train),))
        launch([options.suite], selection, RunOptions(options.results, options.data, "auto"), Console())
    cells = [
        {
            "row": row,
            "column": column,
            "faa": round(values[0], 2),
            "tolerance": round(max(LEAST_TOLERANCE, DEVIATIONS * statistics.stdev(values)), 2),
        }
        for (row, column), values in measured(suite.name, store).items()
        if values
    ]
    how = f"training seed 0; {DEVIATIONS:g} deviations over {len(TRAIN_SEEDS)} training seeds, at least {LEAST_TOLERANCE:g}"
    write_json_atomically(stored_file(suite), {"suite": suite.name, "how": how, "cells": cells})
    return 0


if __name__ == "__main__":
    sys.exit(main())
