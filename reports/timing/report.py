"""The command ``bench report``: time and memory of a report over a made-up folder of many runs."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.hardware.memory import forget_peak, peak_mb

if TYPE_CHECKING:
    from smope_bench.harness.records.store import Store
    from smope_bench.harness.timing.records import Row, Spread
    from smope_bench.reports.loading.load import Loaded
    from smope_bench.reports.tables.table import Table

T = TypeVar("T")
Seconds = tuple[float, float]
"""Wall and CPU time."""

Runs = Annotated[int, typer.Option("--runs", min=1, help="Records of the made-up folder.")]
Repeats = Annotated[
    int, typer.Option("--repeats", min=1, help="How often the tables are made; best and median are shown.")
]
TablesOnly = Annotated[bool, typer.Option("--tables-only", help="Leave out figures and page, which take minutes.")]


@dataclass(frozen=True)
class TablesMeasured:
    """Every table of a folder, once. ``scan``: reading and checking every record; ``tables``: Markdown, LaTeX and CSV.

    ``peak_mb``: peak memory of this process so far, in MiB.
    """

    runs: int
    suites: int
    grids: int
    scan: Seconds
    tables: Seconds
    peak_mb: float


@command("bench report")
def bench_report(
    runs: Runs = 2000, repeats: Repeats = 3, tables_only: TablesOnly = False, as_json: opt.AsJson = False
) -> None:
    """Time the scan, the tables and the whole report over a made-up folder of every suite at paper scale."""
    from smope_bench.harness.timing.display import print_measures
    from smope_bench.reports.timing.synthetic_results import make_store

    with tempfile.TemporaryDirectory(prefix="bench-report-") as folder:
        store = make_store(Path(folder) / "results", runs)
        tables = [measure_tables(store) for _ in range(repeats)]
        whole = [] if tables_only else measure_report(store, Path(folder) / "report")
    rows, first = [*table_rows(tables), *whole], tables[0]
    facts = {"runs": first.runs, "suites": first.suites, "tables": first.grids, "repeats": repeats}
    if as_json:
        print(json.dumps({**facts, "rows": [row.model_dump(mode="json") for row in rows]}, indent=2))
        return
    print_measures(rows)
    print(f"{first.runs} runs of {first.suites} suites, {first.grids} tables, {repeats} repeats")


def measure_tables(store: Store) -> TablesMeasured:
    """Read a whole folder and write all its tables as texts, once."""
    from smope_bench.reports.loading.load import load_suites, suites_in

    forget_peak()
    loaded, scan = _timed(lambda: load_suites(store, suites_in(store), None))
    grids, tables = _timed(lambda: sum(all(_written(grid)) for grid in suite_grids(loaded, store)))
    return TablesMeasured(loaded.integrity.records, len(loaded.suites), grids, scan, tables, peak_mb())


def table_rows(found: Sequence[TablesMeasured]) -> list[Row]:
    """Wall and CPU seconds of the scan, of the tables and of both, over the repeats."""
    from smope_bench.harness.timing.records import make_row, spread

    scans, tables = [one.scan for one in found], [one.tables for one in found]
    both = [(scan[0] + table[0], scan[1] + table[1]) for scan, table in zip(scans, tables, strict=True)]
    parts = {"reading and checking every record": scans, "every table as Markdown, LaTeX and CSV": tables}
    rows = [make_row(name, **_seconds(times)) for name, times in parts.items()]
    return [*rows, make_row("both", **_seconds(both), peak_mb=spread([one.peak_mb for one in found]))]


def measure_report(store: Store, out: Path) -> list[Row]:
    """Make the report of a whole folder into ``out``, once: all that the command ``report`` does after the scan."""
    from smope_bench.harness.timing.records import make_row, spread
    from smope_bench.reports.build import make_document, write_report
    from smope_bench.reports.document import all_tables
    from smope_bench.reports.loading.load import load_suites, suites_in

    loaded = load_suites(store, suites_in(store), None)
    document, making = _timed(lambda: make_document(loaded, store))
    files, writing = _timed(lambda: write_report(document, out))
    figures = sum(len(group.figures) for section in document.sections for group in section.figures)
    made = f"{len(all_tables(document))} tables, {figures} figures"
    page = files.page.stat().st_size / 1e6
    return [
        make_row("tables, statistics and figures", made, **_seconds([making])),
        make_row("page and files written", **_seconds([writing]), peak_mb=spread([peak_mb()]), page_mb=page),
    ]


def suite_grids(loaded: Loaded, store: Store) -> Iterator[Table]:
    """Every table of every suite."""
    from smope_bench.reports.build import stored_answers, table_section

    for results in loaded.suites:
        yield from table_section(results, results.suite, stored_answers(store)).all_tables


def _seconds(times: Sequence[Seconds]) -> dict[str, Spread]:
    from smope_bench.harness.timing.records import spread

    wall, cpu = zip(*times, strict=True)
    return {"seconds": spread(wall), "cpu_s": spread(cpu)}


def _written(grid: Table) -> tuple[str, str, str]:
    from smope_bench.reports.writers.csv import table_csv
    from smope_bench.reports.writers.latex import table_latex
    from smope_bench.reports.writers.markdown import table_markdown

    return table_markdown(grid), table_latex(grid), table_csv(grid)


def _timed(work: Callable[[], T]) -> tuple[T, Seconds]:
    """The result, and the seconds that it took."""
    wall, cpu = time.perf_counter(), _cpu_s()
    result = work()
    return result, (time.perf_counter() - wall, _cpu_s() - cpu)


def _cpu_s() -> float:
    """CPU time of this process and of the finished ones that it started."""
    return time.process_time() + sum(os.times()[2:4])
