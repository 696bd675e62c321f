"""Where numbers come from and what they took: versions, environments and costs of a suite's runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.spec import canonical_json
from reports.model import KINDS, SuiteResults
from reports.outcome import Outcome
from reports.present import NONE, number
from reports.stats import median

_LABELS = {
    "project": "Project", "git_revision": "Git revision", "git_dirty": "Uncommitted changes",
    "code_fingerprint": "Code fingerprint", "python": "Python", "torch": "PyTorch", "timm": "timm", "numpy": "NumPy",
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


@dataclass(frozen=True)
class CostLine:
    """What a row took on a benchmark, as medians over its runs; the numbers sort, the texts are shown."""

    row: str
    column: str
    runs: int
    parts: tuple[tuple[float | None, str], ...]


COST_HEADINGS = ("Learnable parameters", "Training time", "Total time", "Peak memory", "Training images")


def cost_lines(results: SuiteResults) -> list[CostLine]:
    """Costs of every cell with usable runs, floors first and ceilings last."""
    lines = []
    for column in results.columns:
        for row in (row for kind in KINDS for row in results.rows_of(kind)):
            outcomes = results.cell(row, column).outcomes
            if not outcomes:
                continue
            learnable = _median([outcome.costs.learnable_parameters for outcome in outcomes])
            train = _median([outcome.timings.train_s for outcome in outcomes])
            total = _median([outcome.timings.total_s for outcome in outcomes])
            memory = _median([outcome.costs.peak_memory_mb for outcome in outcomes])
            images = _median([outcome.costs.train_images for outcome in outcomes])
            texts = (_whole(learnable), _seconds(train), _seconds(total), _memory(memory), _whole(images))
            parts = tuple(zip((learnable, train, total, memory, images), texts, strict=True))
            lines.append(CostLine(row.label, column.label, len(outcomes), parts))
    return lines


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
    keys = [key for key in _LABELS if key in outcome.provenance]
    keys += sorted(outcome.provenance.keys() - _LABELS.keys() - _OF_THE_RUN)
    return tuple((_LABELS.get(key, key), _said(outcome.provenance[key])) for key in keys)


def _said(value: object) -> str:
    if value is None:
        return "not known"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _median(values: Sequence[float | None]) -> float | None:
    return median(value for value in values if value is not None)


def _whole(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}".replace(",", "\u202f")


def _seconds(value: float | None) -> str:
    if value is None or value < 120:
        return f"{number(value, 1)} s" if value is not None else NONE
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _memory(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.0f} MB" if value < 10_000 else f"{value / 1000:.1f} GB"
