"""The drill-down: every cell's runs with specification, matrix and timings, and what went wrong where."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from reports.model import Cell, Run, SuiteResults
from reports.present import METRIC_NAMES, NONE, RUN_WORDS, interval, mean_std, number, runs_text, seeds_text
from reports.provenance import Environments

_CLASSES_SHOWN = 20


@dataclass(frozen=True)
class RunView:
    """A run as the page shows it; ``same_as`` names the anchor where a shared run is already told in full."""

    run: Run
    anchor: str
    state: str
    seeds: str
    scores: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    environment: str | None
    matrix: tuple[tuple[str, ...], ...]
    timings: tuple[tuple[str, ...], ...]
    spec: str | None
    same_as: str | None = None


@dataclass(frozen=True)
class CellView:
    """A cell's runs; ``spec`` where one specification, seeds apart, covers them all."""

    cell: Cell
    anchor: str
    title: str
    runs_text: str
    summaries: tuple[tuple[str, str, str], ...]
    spec: str | None
    runs: tuple[RunView, ...]


def drill_down(results: SuiteResults, key: str, environments: Environments) -> list[CellView]:
    """All planned cells in the order of rows, then benchmarks. ``key`` makes the anchors unique on the page."""
    told: dict[str, str] = {}
    views = []
    for i, row in enumerate(results.rows, 1):
        for j, column in enumerate(results.columns, 1):
            cell = results.cell(row, column)
            if not cell.runs:
                continue
            anchor = f"{key}-c{i}-{j}"
            settings = {run.outcome.setting for run in cell.runs if run.outcome is not None}
            spec = _pretty(json.loads(settings.pop())) if len(settings) == 1 else None
            runs = tuple(
                _run_view(run, f"{anchor}-{n}", told, environments, spec) for n, run in enumerate(cell.runs, 1)
            )
            summaries = tuple(
                (name, mean_std(cell.summary(metric)), interval(cell.summary(metric)))
                for metric, name in METRIC_NAMES.items()
                if cell.outcomes
            )
            title = f"{row.label} on {column.label}" if len(results.columns) > 1 else row.label
            views.append(CellView(cell, anchor, title, runs_text(cell), summaries, spec, runs))
    return views


def problems_by_row(results: SuiteResults) -> list[tuple[str, list[tuple[str, Run]]]]:
    """Row label -> its runs that are not fresh and whole, with where they belong."""
    found = []
    for row in results.rows:
        wanting = [
            (f"{column.label}, {seeds_text(run)}", run)
            for column in results.columns
            for run in results.cell(row, column).runs
            if run.state != "ok"
        ]
        if wanting:
            found.append((row.label, wanting))
    return found


def _run_view(run: Run, anchor: str, told: dict[str, str], environments: Environments, shared: str | None) -> RunView:
    state, seeds = RUN_WORDS[run.state], seeds_text(run)
    if run.run_id in told:
        return RunView(run, anchor, state, seeds, (), (), None, (), (), None, told[run.run_id])
    told[run.run_id] = anchor
    outcome = run.outcome
    if outcome is None:
        return RunView(run, anchor, state, seeds, (), _failure_facts(run), None, (), (), None)
    scores = tuple((name, number(outcome.metrics[metric])) for metric, name in METRIC_NAMES.items())
    matrix = tuple(tuple("" if v is None else number(v, 1) for v in row) for row in outcome.accuracy_matrix)
    timings = tuple(
        (str(t.task + 1), number(t.train_s, 1), number(t.end_s, 1), number(t.evaluate_s, 1))
        for t in outcome.timings.tasks
    )
    provenance = outcome.provenance
    facts = (
        ("Started", str(provenance.get("started") or NONE)),
        ("Finished", str(provenance.get("finished") or NONE)),
        ("Total time", f"{number(outcome.timings.total_s, 1)} s"),
        ("Test images a task", ", ".join(map(str, outcome.test_counts))),
        ("Split hash", str(outcome.split_hash or provenance.get("split_hash") or NONE)),
        ("Classes as they arrive", _classes(outcome.class_names)),
        *((("Note", run.problem),) if run.problem else ()),
    )
    spec = None if shared is not None else _pretty(outcome.spec)
    return RunView(run, anchor, state, seeds, scores, facts, environments.name_of(outcome), matrix, timings, spec)


def _failure_facts(run: Run) -> tuple[tuple[str, str], ...]:
    failure = run.failure or {}
    facts = [("Reason", run.problem or NONE)]
    if failure.get("kind"):
        facts.append(("Kind", str(failure["kind"])))
    if isinstance(failure.get("last_good_task"), int):
        facts.append(("Last good task", str(failure["last_good_task"] + 1)))
    return tuple(facts)


def _classes(names: list[str]) -> str:
    if not names:
        return NONE
    more = f", … ({len(names)} in all)" if len(names) > _CLASSES_SHOWN else ""
    return ", ".join(names[:_CLASSES_SHOWN]) + more


def _pretty(spec: Any) -> str:
    return json.dumps(spec, indent=2, sort_keys=True, ensure_ascii=False)
