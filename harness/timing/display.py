"""How measurements of ``bench`` are shown on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from smope_bench.harness.cli.listing import Columns, Rows, print_rows
from smope_bench.harness.timing.records import Compared, StoredRow
from smope_bench.harness.timing.x_bench_words import heading, spread_text

if TYPE_CHECKING:
    from smope_bench.harness.timing.step import StepReport


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
