"""What the page shows of each run when it is opened, as JSON for the page's script: facts, settings, accuracies.

Values that several runs share (specification, protocol, class order) are written once, in ``pool``, and referred to by index.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from smope_bench.harness.metrics import METRICS, Metric
from smope_bench.reports.formatting import RUN_WORDS, interval, mean_std, runs_text, seeds_text
from smope_bench.reports.loading.environments import Environments
from smope_bench.reports.loading.model import Cell, Run, SuiteResults
from smope_bench.reports.loading.run_result import RunResult
from smope_bench.reports.text import NONE, listed, memory, number, whole

FACTS = (
    "Predictions (SHA-256)", "Started", "Finished", "Total time", "Learnable parameters", "Backbone parameters",
    "Memory increase", "Peak memory of the process", "Training images", "Test images", "Sealed",
)  # fmt: skip
_LABELS = {
    "test_resize": "Size before the crop at test", "test_interpolation": "Interpolation at test",
    "test_squeeze": "Whole picture squeezed to that size",
    "normalize": "Normalisation", "augment": "Augmentation in training", "split": "Published split",
    "holdout": "Held out for validation",
}  # fmt: skip
_CHANGES = {
    "image_size": "Backbone input size", "resample": "Position embeddings resampled", "feature": "Backbone feature",
}  # fmt: skip
Pairs = list[tuple[str, str]]


class PageData:
    """Collects the cells of all sections. ``environments`` names the page's environments; ``metrics`` are those shown."""

    def __init__(self, environments: Environments, metrics: Sequence[Metric] = METRICS) -> None:
        self._metrics = metrics
        self._environments = environments
        self._pool: list[Any] = []
        self._places: dict[str, int] = {}
        self._runs: dict[str, dict[str, Any]] = {}
        self._cells: dict[str, dict[str, Any]] = {}
        self._versions: dict[str, tuple[str, str | None]] = {}

    def add(self, anchor: str, cell: Cell) -> None:
        """Add a cell and its runs; a run of several cells is written once."""
        for run in cell.runs:
            if run.outcome is not None and (name := self._name(run)) not in self._runs:
                self._runs[name] = self._run(run.outcome)
        self._cells[anchor] = {
            "scores": [
                [metric.heading, mean_std(cell.summary(metric.name)), interval(cell.summary(metric.name))]
                for metric in self._metrics
                if cell.outcomes
            ],
            "note": cell.note,
            "runs": [self._planned(run) for run in cell.runs],
        }

    def script(self) -> Markup:
        """The content of a ``<script type="application/json">`` element."""
        parts = {
            "facts": FACTS,
            "metrics": [metric.heading for metric in self._metrics],
            "pool": self._pool,
            "runs": self._runs,
            "cells": self._cells,
        }
        return safe_json(parts)

    def _place(self, value: Any) -> int:
        key = json.dumps(value, sort_keys=True, ensure_ascii=False)
        if key not in self._places:
            self._places[key] = len(self._pool)
            self._pool.append(value)
        return self._places[key]

    def _planned(self, run: Run) -> list[Any]:
        """[id, order seed, training seed, state, word for it, problem, origin of the settings], the last two in the pool.

        Where folders are joined, then also who has the run, and the name of its data.
        """
        origin = [("Recipe", run.recipe or "not noted"), ("Set by hand", ", ".join(run.settings) or "nothing")]
        trouble = None if run.state == "ok" else self._place(_trouble(run))
        seeds = (run.order_seed, run.train_seed)
        joined = [listed(run.sources), self._name(run)] if run.sources else []
        return [run.run_id, *seeds, run.state, RUN_WORDS[run.state], trouble, self._place(origin), *joined]

    def _name(self, run: Run) -> str:
        """The id of a run; joined folders may have one of several versions of the code, of which the later ones are named, too."""
        version = self._versions.setdefault(run.run_id, run.key)
        return run.run_id if version == run.key else " ".join(map(str, run.key))

    def _run(self, outcome: RunResult) -> dict[str, Any]:
        spec = {key: self._place(value) for key, value in outcome.spec.items() if not key.endswith("_seed")}
        return {
            "spec": self._place(spec),
            "protocol": self._place(protocol_of(outcome)),
            "split": str(outcome.split_hash or outcome.provenance.get("split_hash") or NONE),
            "tests": self._place(", ".join(map(str, outcome.test_counts))),
            "classes": self._classes(outcome.class_names),
            "environment": self._environments.name_of(outcome),
            "facts": _facts_of(outcome),
            "scores": [number(outcome.metrics[metric.name]) for metric in self._metrics],
            "matrix": [_trimmed(row) for row in outcome.accuracy_matrix],
            **({"unit": "domain"} if outcome.domains else {}),
            "seconds": [
                [_short(part, 1) for part in (t.train_s, t.end_s, t.evaluate_s)] for t in outcome.timings.tasks
            ],
        }

    def _classes(self, names: Sequence[str]) -> list[int]:
        """[sorted names, indices into them in order of arrival], both in the pool."""
        known = sorted(set(names))
        places = {name: place for place, name in enumerate(known)}
        return [self._place(known), self._place([places[name] for name in names])]


def safe_json(value: object) -> Markup:
    """JSON for a script element, with characters escaped that could end it or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def protocol_of(outcome: RunResult) -> Pairs:
    """The fields that must be equal for results to be comparable: data, transforms, backbone, weights, precision, code."""
    spec, provenance = outcome.spec, outcome.provenance
    benchmark, backbone = _mapping(spec.get("benchmark")), _mapping(spec.get("backbone"))
    pairs = [("Benchmark", _said(benchmark.get("name")))]
    for key, value in _mapping(benchmark.get("config")).items():
        pairs.append((_LABELS.get(key, key.replace("_", " ").capitalize()), _said(value)))
    return [
        *pairs,
        ("Backbone", _said(backbone.get("name"))),
        *((label, _said(backbone[part])) for part, label in _CHANGES.items() if part in backbone),
        ("Backbone weights (SHA-256)", _said(backbone.get("sha256") or provenance.get("weights_sha256"))),
        *(
            (("Backbone weights verified", "no: no public source states their hash"),)
            * outcome.flags.unverified_weights
        ),
        ("Precision", _said(spec.get("precision"))),
        ("Code fingerprint", outcome.fingerprint),
    ]


def _facts_of(outcome: RunResult) -> list[str]:
    costs, provenance = outcome.costs, outcome.provenance
    counts = (costs.learnable_parameters, costs.backbone_parameters)
    images = (costs.train_images, costs.test_images)
    old = outcome.content.migrated_from
    return [
        outcome.content.predictions_sha256 or "not in this record",
        _said(provenance.get("started")),
        _said(provenance.get("finished")),
        f"{number(outcome.timings.total_s, 1)} s",
        *map(whole, counts),
        memory(costs.memory_increase_mib),
        memory(costs.peak_memory_mb),
        *map(whole, images),
        "when it was written" if old is None else f"when it was migrated from schema {old}, not when it was written",
    ]


def _trouble(run: Run) -> Pairs:
    failure = run.failure or {}
    facts = [("Reason", run.problem or NONE)]
    if failure.get("kind"):
        facts.append(("Kind", str(failure["kind"])))
    if isinstance(failure.get("last_good_task"), int):
        facts.append(("Last good task", str(failure["last_good_task"] + 1)))
    return facts


def _trimmed(row: Sequence[float | None]) -> list[float | None]:
    found = [_short(value) for value in row]
    while found and found[-1] is None:
        found.pop()
    return found


def _short(value: float | None, digits: int = 2) -> float | None:
    if value is None:
        return None
    short = round(value, digits)
    return int(short) if short == int(short) else short


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _said(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_said(part)}" for key, part in value.items())
    return str(value)


@dataclass(frozen=True)
class CellView:
    """A cell in the page's list of runs; ``runs``: (run, word for its state, seeds)."""

    anchor: str
    title: str
    runs_text: str
    faa: str
    runs: tuple[tuple[Run, str, str], ...]


def cell_anchors(results: SuiteResults, key: str) -> dict[tuple[str, str], str]:
    """(row label, column label) -> anchor, for every planned cell in the order of rows. ``key`` sets suites apart."""
    return {
        (row.label, column.label): f"{key}-c{i}-{j}"
        for i, row in enumerate(results.rows, 1)
        for j, column in enumerate(results.columns, 1)
        if results.cell(row, column).runs
    }


def drill_down(results: SuiteResults, key: str) -> list[CellView]:
    """All planned cells in the order of rows, then benchmarks."""
    views = []
    for place, anchor in cell_anchors(results, key).items():
        cell = results.cells[place]
        faa = mean_std(cell.summary("faa"))
        runs = tuple((run, RUN_WORDS[run.state], seeds_text(run)) for run in cell.runs)
        views.append(CellView(anchor, " on ".join(place[: len(results.columns)]), runs_text(cell), faa, runs))
    return views


def problems_by_row(results: SuiteResults) -> list[tuple[str, list[tuple[str, Run]]]]:
    """(row label, [(benchmark and seeds, run)]) of runs that are not done."""
    found: dict[str, list[tuple[str, Run]]] = {}
    for cell in results.all_cells:
        for run in cell.runs:
            if run.state != "ok":
                found.setdefault(cell.row.label, []).append((f"{cell.column.label}, {seeds_text(run)}", run))
    return list(found.items())
