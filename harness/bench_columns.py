"""How measurements of ``bench`` are shown on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.markup import escape

from harness.bench_store import Compared, StoredRow
from harness.catalogue import Columns, Rows, print_rows

if TYPE_CHECKING:
    from harness.bench import StepReport


def spread_text(found: Mapping[str, float] | None) -> str:
    """``0.951 (0.930 to 0.972)``: the median of ratios with their extremes."""
    if found is None:
        return "–"
    if found["least"] == found["most"]:
        return f"{found['median']:.3f}"
    return f"{found['median']:.3f} ({found['least']:.3f} to {found['most']:.3f})"


def _mebibytes(found: float | None) -> str:
    return "–" if found is None else f"{found:.2f}"


STEP_COLUMNS: Columns = (
    ("step of", lambda row: escape(row["name"])),
    ("median ms", lambda row: f"{1000 * row['seconds']['median']:.0f}"),
    ("times bare", lambda row: spread_text(row["to_bare"])),
    ("queries", lambda row: str(row["queries"])),
    ("times its passes", lambda row: spread_text(row["to_passes"])),
    ("times its floor", lambda row: spread_text(row["to_floor"])),
    ("peak MiB", lambda row: f"{row['peak_mb']:.0f}"),
    ("kept MiB", lambda row: _mebibytes(row["kept_mb"])),
    ("of it a task", lambda row: _mebibytes(row["task_mb"])),
)
EVAL_COLUMNS: Columns = (
    ("evaluations of", lambda row: escape(row["name"])),
    ("uncached s", lambda row: f"{row['uncached_s']['median']:.1f}"),
    ("times uncached, first run", lambda row: spread_text(row["cold"])),
    ("times uncached, later runs", lambda row: spread_text(row["warm"])),
)
TAP_COLUMNS: Columns = (
    ("covariance", lambda row: escape(row["covariance"])),
    ("classes", lambda row: str(row["classes"])),
    ("dimensions", lambda row: str(row["dim"])),
    ("epochs", lambda row: str(row["epochs"])),
    ("seconds", lambda row: spread_text(row["seconds"])),
)
ATTENTION_COLUMNS: Columns = (
    ("logit", lambda row: escape(row["logit"])),
    ("form", lambda row: escape(row["form"])),
    ("median ms", lambda row: f"{1000 * row['seconds']['median']:.1f}"),
    ("times the first", lambda row: spread_text(row["to_used"])),
    ("kept for backward, MiB", lambda row: _mebibytes(row["kept_mb"])),
)
MEASURE_COLUMNS: Columns = (
    ("of", lambda row: escape(row["name"])),
    ("measure", lambda row: escape(row["measure"])),
    ("median (least to most)", spread_text),
)
AGAINST_COLUMNS: Columns = (
    ("of", lambda row: escape(row["name"])),
    ("measure", lambda row: escape(row["measure"])),
    ("now", lambda row: spread_text(row["now"])),
    ("then", lambda row: spread_text(row["then"])),
    ("now / then", lambda row: "–" if row["ratio"] is None else f"{row['ratio']:.3f}"),
    ("", lambda row: "spreads overlap" if row["is_within"] else "[bold]outside[/]"),
)


def print_step(report: StepReport, kept: str | None) -> None:
    """A report of ``bench step`` with its conditions; ``kept``: the throughput that was kept for plans, in words."""
    print_rows([asdict(row) for row in report.rows], STEP_COLUMNS)
    print(
        f"{report.backbone}, batch {report.batch}, {report.precision}, finished tasks: {report.finished}, {report.threads}"
        f" threads, {report.repeats} repeats, {report.device}"
    )
    if kept:
        print(f"kept for 'plan': {kept}")


def print_measures(rows: Sequence[StoredRow]) -> None:
    """One line a measure, for rows that do not share their measures."""
    flat: Rows = [
        {"name": row.name, "measure": words(measure), **found.model_dump()}
        for row in rows
        for measure, found in row.measures.items()
    ]
    print_rows(flat, MEASURE_COLUMNS)


def print_compared(rows: Sequence[Compared]) -> None:
    """Now beside then, and whether the difference may be chance."""
    flat: Rows = [
        {
            "name": row.name,
            "measure": words(row.measure),
            "now": row.now.model_dump(),
            "then": row.then.model_dump(),
            "ratio": row.ratio,
            "is_within": row.is_within,
        }
        for row in rows
    ]
    print_rows(flat, AGAINST_COLUMNS)


def words(measure: str) -> str:
    """A measure's name as it is read."""
    return measure.replace("_", " ")
