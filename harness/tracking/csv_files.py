"""Tracking as CSV: a file of points a run, and one file with the settings and final values of all runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path

from smope_bench.benchmarks.download.locks import locked
from smope_bench.harness.records.atomic_write import write_atomically
from smope_bench.harness.tracking.tracker import Point, TrackedRun, tracker

RUNS = "runs.csv"


@tracker("csv")
class CsvFiles:
    """Writes CSV files: RUN.csv with the points of a run, and runs.csv with a row a run."""

    def __init__(self, run: TrackedRun, folder: Path) -> None:
        self._run, self._folder = run, folder
        self._file = (folder / f"{run.run_id}.csv").open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow([field.name for field in fields(Point)])

    def write(self, points: Sequence[Point]) -> None:
        """Append rows; they can be read at once."""
        self._rows.writerows([astuple(point) for point in points])
        self._file.flush()

    def end(self, state: str, summary: Mapping[str, float]) -> None:
        """Close the file and write the run's row of ``runs.csv``, in place of an earlier one."""
        self._file.close()
        run = self._run
        row = {"run_id": run.run_id, "name": run.name, "suite": run.suite, "state": state}
        row |= {name: str(value) for name, value in {**run.settings, **summary}.items()}
        file = self._folder / RUNS
        with locked(self._folder / f".{RUNS}.lock", lambda: None):
            known = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")))) if file.exists() else []
            rows = [*(one for one in known if one["run_id"] != run.run_id), row]
            text = io.StringIO(newline="")
            writer = csv.DictWriter(
                text, list(dict.fromkeys(name for one in rows for name in one)), lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(rows)
            write_atomically(file, text.getvalue().encode())
