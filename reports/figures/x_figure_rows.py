"""What every figure of a suite shares: the order, names and looks of its rows, and the runs behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from smope_bench.reports.figures.style import COLOURS, GREY, MARKERS
from smope_bench.reports.loading.model import KINDS, Cell, Column, SuiteResults

Looks = dict[str, dict[str, object]]
_LONGEST = 32


def ordered_cells(results: SuiteResults, column: Column) -> list[Cell]:
    """A benchmark's cells, floors first and ceilings last."""
    return [results.cell(row, column) for kind in KINDS for row in results.rows_of(kind)]


def row_label(cell: Cell) -> str:
    """The row's name, cut where it is very long, with what has to be said of its runs."""
    return shortened(cell.row.label) + (f" ({', '.join(cell.marks)})" if cell.marks else "")


def legend_label(cell: Cell) -> str:
    """The name for a legend or an axis: the space keeps matplotlib from hiding one that begins with an underscore."""
    return " " + row_label(cell)


def shortened(name: str) -> str:
    """A row's name as figures write it."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def row_looks(results: SuiteResults) -> Looks:
    """Row label -> colour, marker and line style, the same on every benchmark of a suite.

    Methods are solid and the first to choose a colour, floors are dashed, ceilings grey and dotted. A method that has to take
    a colour for the second time has dashes and dots.
    """
    looks: Looks = {}
    for i, row in enumerate([*results.rows_of("method"), *results.rows_of("floor")]):
        again = i >= len(COLOURS)
        dash: object = (0, (4, 1.6)) if row.kind == "floor" else (0, (6, 1.5, 1, 1.5)) if again else "-"
        looks[row.label] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": dash}
    for i, row in enumerate(results.rows_of("ceiling")):
        looks[row.label] = {"color": GREY, "marker": "*PX"[i % 3], "linestyle": ":"}
    return looks


def run_ids(cells: Iterable[Cell]) -> tuple[str, ...]:
    """The runs that are averaged in these cells, each once."""
    return tuple(dict.fromkeys(run.run_id for cell in cells for run in cell.used))


def metric_values(cell: Cell, metric: str) -> list[float]:
    """A metric of each run that has it, in percent."""
    return [value for outcome in cell.outcomes if (value := outcome.metrics[metric]) is not None]


def listed(labels: Sequence[str], most: int = 8) -> str:
    """``a, b and c``; of a long list the first few and how many more there are."""
    shown = [*labels[:most], f"{len(labels) - most} more"] if len(labels) > most + 1 else list(labels)
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def runs_a_point(cells: Iterable[Cell]) -> str:
    """``3 runs each``, ``1 run each`` or ``1 to 5 runs each``."""
    counts = sorted({len(cell.outcomes) for cell in cells}) or [0]
    few = f"{counts[0]} to " if len(counts) > 1 else ""
    return f"{few}{counts[-1]} run{'s' * (counts[-1] != 1)} each"


def frame(setter: Callable[..., object], values: Sequence[float]) -> None:
    """Frame percentages with a margin; nobody is right of 100, though an interval may reach there."""
    low, high = min(values), max(values)
    margin = max(0.5, 0.06 * (high - low))
    setter(max(-1.0, low - margin), min(101.0, high + margin))
