"""The command ``bench report``: how long a report takes, and how large it gets, over a made-up folder of many runs."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.hardware.memory import forget_peak, peak_mb

if TYPE_CHECKING:
    from smope_bench.harness.records.store import Store
    from smope_bench.reports.loading.load import Loaded
    from smope_bench.reports.tables.table import Grid

T = TypeVar("T")

Runs = Annotated[int, typer.Option("--runs", min=1, help="Records of the made-up folder.")]
Repeats = Annotated[
    int, typer.Option("--repeats", min=1, help="How often the tables are made; best and median are shown.")
]
TablesOnly = Annotated[bool, typer.Option("--tables-only", help="Leave out figures and page, which take minutes.")]


@dataclass(frozen=True)
class TablesMeasured:
    """Every table of a folder. Seconds of wall and of CPU time, and this process's peak memory so far in MiB.

    ``scan``: read and check every record. ``tables``: every grid of every suite as Markdown, LaTeX and CSV.
    """

    runs: int
    suites: int
    grids: int
    scan_s: float
    scan_cpu_s: float
    tables_s: float
    tables_cpu_s: float
    peak_mb: float


@dataclass(frozen=True)
class ReportMeasured:
    """All that the command ``report`` does after the scan, in the same units; the page in MB (10^6 bytes).

    ``document``: tables, statistics and figures are made. ``write``: page and files are.
    """

    grids: int
    figures: int
    document_s: float
    document_cpu_s: float
    write_s: float
    write_cpu_s: float
    peak_mb: float
    page_mb: float


@command("bench report")
def bench_report(
    runs: Runs = 2000, repeats: Repeats = 3, tables_only: TablesOnly = False, as_json: opt.AsJson = False
) -> None:
    """Time the scan, the tables and the whole report over a made-up folder of every suite at paper scale."""
    from smope_bench.reports.synthetic_results import make_store

    with tempfile.TemporaryDirectory(prefix="bench-report-") as folder:
        store = make_store(Path(folder) / "results", runs)
        tables = [measure_tables(store) for _ in range(repeats)]
        whole = None if tables_only else measure_report(store, Path(folder) / "report")
    if as_json:
        found = {"tables": [asdict(one) for one in tables], "report": None if whole is None else asdict(whole)}
        print(json.dumps(found, indent=2))
        return
    print("\n".join(sentences(tables, whole)))


def measure_tables(store: Store) -> TablesMeasured:
    """Read a whole folder and write all its tables as texts, once."""
    from smope_bench.reports.loading.load import load_suites, suites_in

    forget_peak()
    loaded, scan = _timed(lambda: load_suites(store, suites_in(store), None))
    grids, tables = _timed(lambda: sum(all(_written(grid)) for grid in suite_grids(loaded)))
    return TablesMeasured(loaded.health.records, len(loaded.suites), grids, *scan, *tables, peak_mb())


def measure_report(store: Store, out: Path) -> ReportMeasured:
    """Make the report of a whole folder into ``out``, once."""
    from smope_bench.reports.build import make_document, write_report
    from smope_bench.reports.document import all_grids
    from smope_bench.reports.loading.load import load_suites, suites_in

    loaded = load_suites(store, suites_in(store), None)
    document, making = _timed(lambda: make_document(loaded, store))
    files, writing = _timed(lambda: write_report(document, out))
    figures = sum(len(group.figures) for section in document.sections for group in section.figures)
    page = files.page.stat().st_size / 1e6
    return ReportMeasured(len(all_grids(document)), figures, *making, *writing, peak_mb(), page)


def suite_grids(loaded: Loaded) -> Iterator[Grid]:
    """Every table of every suite."""
    from smope_bench.reports.build import table_section

    for results in loaded.suites:
        yield from table_section(results, results.suite).grids


def sentences(tables: Sequence[TablesMeasured], whole: ReportMeasured | None) -> list[str]:
    """The measurements in words: best and median of the tables, and the whole report where it was made."""
    first = tables[0]

    def said(what: str, values: Iterable[float], unit: str = "s") -> str:
        found = list(values)
        return f"{what}: {min(found):.2f} {unit} at best, {statistics.median(found):.2f} {unit} in the median"

    lines = [
        f"{first.runs} runs of {first.suites} suites, {first.grids} tables, {len(tables)} repeats",
        said("reading and checking every record", (one.scan_s for one in tables)),
        said("every table as Markdown, LaTeX and CSV", (one.tables_s for one in tables)),
        said("both", (one.scan_s + one.tables_s for one in tables)),
        said("both, CPU time", (one.scan_cpu_s + one.tables_cpu_s for one in tables)),
        said("peak memory", (one.peak_mb for one in tables), "MiB"),
    ]
    if whole is not None:
        lines += [
            f"tables, statistics and {whole.figures} figures: {whole.document_s:.2f} s ({whole.document_cpu_s:.2f} s CPU)",
            f"page and files written: {whole.write_s:.2f} s ({whole.write_cpu_s:.2f} s CPU)",
            f"peak memory of the whole report: {whole.peak_mb:.2f} MiB; the page: {whole.page_mb:.2f} MB",
        ]
    return lines


def _written(grid: Grid) -> tuple[str, str, str]:
    from smope_bench.reports.writers.csv import grid_csv
    from smope_bench.reports.writers.latex import grid_latex
    from smope_bench.reports.writers.markdown import grid_markdown

    return grid_markdown(grid), grid_latex(grid), grid_csv(grid)


def _timed(work: Callable[[], T]) -> tuple[T, tuple[float, float]]:
    """What the work gives, and its seconds of wall and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.perf_counter() - wall, time.process_time() - cpu)
