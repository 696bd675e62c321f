"""How measurements of ``bench`` are shown on a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from smope_bench.harness.console import Columns, Rows, print_rows
from smope_bench.harness.timing import records as bench_store
from smope_bench.harness.timing.records import Code, Compared, Stored, StoredRow, Value

if TYPE_CHECKING:
    from smope_bench.harness.timing.step import StepReport


HEADINGS = {
    "cold": "times uncached, first run",
    "dim": "dimensions",
    "kept_mb": "kept MiB",
    "of_peak": "of the matrix product's speed",
    "peak_mb": "peak MiB",
    "run_s": "run, s",
    "saved_mb": "kept for backward, MiB",
    "start_s": "start, s",
    "task_mb": "of it a task, MiB",
    "tera_per_s": "TFLOP/s",
    "to_bare": "times bare",
    "to_floor": "times its floor",
    "to_passes": "times its passes",
    "to_used": "times the form used",
    "uncached_s": "uncached, s",
    "warm": "times uncached, later runs",
}


def heading(measure: str) -> str:
    """A measure's name as it is read."""
    return HEADINGS.get(measure, measure.replace("_", " "))


def number(value: float) -> str:
    """Three digits or more: ``1,234``, ``12.3``, ``1.23``, ``0.123``; whole numbers below a thousand as they are."""
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.2g}"


def spread_text(found: Mapping[str, float] | None) -> str:
    """``0.951 (0.930 to 0.972)``: a median with its extremes; the number alone where they are equal, ``–`` for nothing."""
    if found is None:
        return "–"
    if found["least"] == found["most"]:
        return number(found["median"])
    return f"{number(found['median'])} ({number(found['least'])} to {number(found['most'])})"


CHANCE = {True: "spreads overlap", False: "[bold]outside[/]", None: "one timing"}
"""What is said of a difference by ``Compared.is_within``."""


def _mebibytes(found: float | None) -> str:
    return "–" if found is None else f"{found:.2f}"


def _spread(measure: str) -> tuple[str, Callable[[dict[str, Any]], str]]:
    return heading(measure), lambda row: spread_text(row[measure])


def _size(measure: str) -> tuple[str, Callable[[dict[str, Any]], str]]:
    return heading(measure), lambda row: _mebibytes(row[measure])


def _text(measure: str, said: str = "") -> tuple[str, Callable[[dict[str, Any]], str]]:
    return said or heading(measure), lambda row: escape(str(row[measure]))


STEP_COLUMNS: Columns = (
    _text("name", "step of"),
    ("median ms", lambda row: f"{1000 * row['seconds']['median']:.0f}"),
    _spread("to_bare"),
    _text("queries"),
    _spread("to_passes"),
    _spread("to_floor"),
    _spread("of_peak"),
    (heading("peak_mb"), lambda row: f"{row['peak_mb']:.0f}"),
    _size("kept_mb"),
    _size("task_mb"),
)
EVAL_COLUMNS: Columns = (_text("name", "evaluations of"), _spread("uncached_s"), _spread("cold"), _spread("warm"))
TAP_COLUMNS: Columns = (_text("covariance"), _text("classes"), _text("dim"), _text("epochs"), _spread("seconds"))
ATTENTION_COLUMNS: Columns = (
    _text("logit"),
    _text("form"),
    ("median ms", lambda row: f"{1000 * row['seconds']['median']:.1f}"),
    _spread("to_used"),
    _size("saved_mb"),
)
MEASURE_COLUMNS: Columns = (
    _text("name", "of"),
    _text("measure"),
    ("median (least to most)", spread_text),
)
AGAINST_COLUMNS: Columns = (
    _text("name", "of"),
    _text("measure"),
    ("now", lambda row: spread_text(row["now"])),
    ("then", lambda row: spread_text(row["then"])),
    ("now / then", lambda row: "–" if row["ratio"] is None else f"{row['ratio']:.3f}"),
    ("", lambda row: CHANCE[row["is_within"]]),
)


def print_step(report: StepReport, kept: str | None) -> None:
    """A report of ``bench step`` with its conditions; ``kept``: the throughput that was kept for plans, in words."""
    print_rows([asdict(row) for row in report.rows], STEP_COLUMNS)
    print(
        f"{report.backbone}, batch {report.batch}, {report.precision}, finished tasks: {report.finished}, {report.threads}"
        f" threads, {report.repeats} repeats, {report.device}"
    )
    for product in report.products:
        rate = spread_text(asdict(product.tera_per_s))
        print(f"{product.name}: {1000 * product.seconds.median:.0f} ms, {rate} {heading('tera_per_s')}")
    if kept:
        print(f"kept for 'plan': {kept}")


def print_measures(rows: Sequence[StoredRow]) -> None:
    """One line a measure, for rows that do not share their measures."""
    flat: Rows = [
        {"name": row.name, "measure": heading(measure), **found.model_dump()}
        for row in rows
        for measure, found in row.measures.items()
    ]
    print_rows(flat, MEASURE_COLUMNS)


def print_compared(rows: Sequence[Compared]) -> None:
    """Now beside then, and whether the difference may be chance."""
    flat: Rows = [
        {
            "name": row.name,
            "measure": heading(row.measure),
            "now": row.now.model_dump(),
            "then": row.then.model_dump(),
            "ratio": row.ratio,
            "is_within": row.is_within,
        }
        for row in rows
    ]
    print_rows(flat, AGAINST_COLUMNS)


@dataclass(frozen=True)
class MeasurementWriter:
    """Where a measurement goes. Made before anything is timed, so that a mistake costs no measurement."""

    bench: str
    command: str
    conditions: dict[str, Value]
    code: Code
    out: Path | None
    then: Stored | None

    def finish(self, rows: Sequence[StoredRow], found: Any, as_json: bool, show: Callable[[], None]) -> None:
        """Keep ``rows``; print ``found`` as JSON or ``show`` it, and the comparison with the earlier measurement."""
        now = bench_store.stored(self.bench, self.command, self.conditions, rows, self.code)
        if self.out is not None:
            bench_store.write(self.out, now)
        if as_json:
            print(json.dumps(self._as_json(found, now), indent=2, ensure_ascii=False))
            return
        show()
        if self.then is not None:
            _show_compared(now, self.then)

    def _as_json(self, found: Any, now: Stored) -> Any:
        if self.then is None:
            return found
        against = [
            asdict(row) | {"now": row.now.model_dump(), "then": row.then.model_dump()}
            for row in bench_store.compared(now, self.then)
        ]
        return {**(found if isinstance(found, dict) else {"rows": found}), "against": against}


def make_keeper(
    context: typer.Context, out: Path | None, against: Path | None, device: str = "cpu", **asked: Value
) -> MeasurementWriter:
    """For the command of ``context`` on ``device`` with the sizes ``asked``; arithmetic must be pinned already.

    Raises UserError for a file that cannot be compared with, or a place that cannot be written.
    """
    bench, conditions = str(context.info_name), bench_store.conditions_here(device, **asked)
    then = None
    if against is not None:
        then = bench_store.read(against)
        bench_store.require_comparable(then, bench, conditions, against)
    if out is not None:
        bench_store.require_writable(out)
    return MeasurementWriter(bench, bench_store.command_line(context), conditions, bench_store.code_here(), out, then)


def _show_compared(now: Stored, then: Stored) -> None:
    from smope_bench.harness.timing import display as bench_columns

    print(f"against {then.command}, {then.made}, {then.code_words}:")
    bench_columns.print_compared(bench_store.compared(now, then))
    for key in sorted(bench_store.MAY_DIFFER & now.conditions.keys() & then.conditions.keys()):
        if now.conditions[key] != then.conditions[key]:
            print(f"{key} was {then.conditions[key]}, is {now.conditions[key]}")
    if alone := bench_store.unmatched(now, then):
        print(f"in one of them only: {', '.join(alone)}")
