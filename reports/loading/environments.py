"""Where numbers come from and what they took: versions, environments and costs of a suite's runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smope_bench.harness.run_spec import canonical_json
from smope_bench.reports.formatting import NONE, column_text, file_name, number, whole
from smope_bench.reports.loading.model import KINDS, Cell, SuiteResults, median
from smope_bench.reports.loading.run_result import Outcome
from smope_bench.reports.tables.table import Block, Entry, Grid, Heading, Line

FIELD_LABELS = {
    "project": "Project", "git_revision": "Git revision", "git_dirty": "Uncommitted changes",
    "code_fingerprint": "Code fingerprint", "plugins": "Plugin sources", "python": "Python", "torch": "PyTorch",
    "timm": "timm", "numpy": "NumPy",
    "platform": "Platform", "cpu": "CPU", "device": "Device", "device_name": "Device name",
    "weights_sha256": "Backbone weights (SHA-256)",
}  # fmt: skip
# These differ from run to run, and are told with the run.
_OF_THE_RUN = {"started", "finished", "split_hash"}


@dataclass(frozen=True)
class EnvironmentView:
    """A distinct environment: its name on the page, what it was, and how many runs it made."""

    name: str
    anchor: str
    fields: tuple[tuple[str, str], ...]
    runs: int


class Environments:
    """The distinct environments among outcomes, numbered by first use."""

    def __init__(self, outcomes: Sequence[Outcome], key: str) -> None:
        keys = [_environment_key(outcome) for outcome in outcomes]
        distinct = list(dict.fromkeys(keys))
        self._names = {found: f"E{i}" for i, found in enumerate(distinct, 1)}
        first = dict(zip(reversed(keys), reversed(outcomes), strict=True))
        self.listed = [
            EnvironmentView(self._names[found], f"{key}-{self._names[found]}", _fields(first[found]), keys.count(found))
            for found in distinct
        ]

    def name_of(self, outcome: Outcome) -> str:
        """``E1`` and so on."""
        return self._names[_environment_key(outcome)]


COST_HEADINGS = (
    Heading("Learnable parameters", help="Every tensor that the run trains, backbone excluded.", fields=("count",)),
    Heading("Training time", help="Training and what a task does at its end.", fields=("seconds",)),
    Heading("Total time", help="The whole run, with tests.", fields=("seconds",)),
    Heading("Peak memory", fields=("MB",)),
    Heading(
        "Training images",
        help="Images of the training set in every pass over it: to train, and to count or gather statistics.",
        fields=("count",),
    ),
)


def cost_grid(results: SuiteResults) -> Grid | None:
    """What every cell with usable runs took, as medians over its runs; ``None`` where there is none."""
    several = len(results.columns) > 1
    blocks = []
    for column in results.columns:
        cells = [results.cell(row, column) for kind in KINDS for row in results.rows_of(kind)]
        lines = tuple(_cost_line(cell) for cell in cells if cell.outcomes)
        if lines:
            blocks.append(Block(lines, column_text(column) if several else ""))
    lead = "What the rows took: medians over the runs that are averaged, on the machines that made them."
    key, title = f"{file_name(results.suite)}-costs", f"{results.title}: costs"
    return Grid(key, title, "Method", COST_HEADINGS, tuple(blocks), lead) if blocks else None


def _cost_line(cell: Cell) -> Line:
    outcomes, runs = cell.outcomes, tuple(run.run_id for run in cell.used)
    learnable = _median([outcome.costs.learnable_parameters for outcome in outcomes])
    train = _median([outcome.timings.train_s for outcome in outcomes])
    total = _median([outcome.timings.total_s for outcome in outcomes])
    memory = _median([outcome.costs.peak_memory_mb for outcome in outcomes])
    images = _median([outcome.costs.train_images for outcome in outcomes])
    texts = (whole(learnable), _seconds(train), _seconds(total), _memory(memory), whole(images))
    place = (cell.row.label, cell.column.label)
    note = f"median over {len(outcomes)} run{'s' * (len(outcomes) != 1)}"
    values = (learnable, train, total, memory, images)
    entries = (
        Entry(text, (value,), note=note, runs=runs, cell=place) for text, value in zip(texts, values, strict=True)
    )
    return Line(cell.row.label, tuple(entries), marks=cell.marks, url=cell.row.url)


def version_line(outcomes: Sequence[Outcome]) -> str:
    """``smope-bench 0.1.0 · Python 3.11 · ...``: every version met among the records."""
    names = {"project": "smope-bench", "python": "Python", "torch": "PyTorch", "timm": "timm", "numpy": "NumPy"}
    parts = []
    for key, name in names.items():
        met = sorted({str(outcome.provenance[key]) for outcome in outcomes if outcome.provenance.get(key)})
        if met:
            parts.append(f"{name} {', '.join(met)}")
    return " · ".join(parts)


def _environment_key(outcome: Outcome) -> str:
    return canonical_json({key: value for key, value in outcome.provenance.items() if key not in _OF_THE_RUN})


def _fields(outcome: Outcome) -> tuple[tuple[str, str], ...]:
    keys = [key for key in FIELD_LABELS if key in outcome.provenance]
    keys += sorted(outcome.provenance.keys() - FIELD_LABELS.keys() - _OF_THE_RUN)
    return tuple((FIELD_LABELS.get(key, key), said(outcome.provenance[key])) for key in keys)


def said(value: object) -> str:
    """A field of a record's provenance as text."""
    if value is None:
        return "not known"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _median(values: Sequence[float | None]) -> float | None:
    return median(value for value in values if value is not None)


def _seconds(value: float | None) -> str:
    if value is None or value < 120:
        return f"{number(value, 1)} s" if value is not None else NONE
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _memory(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.0f} MB" if value < 10_000 else f"{value / 1000:.1f} GB"
