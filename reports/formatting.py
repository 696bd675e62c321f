"""Text of numbers, cells and notes, the same for the terminal, Markdown, LaTeX, the page and figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from smope_bench.harness.metrics import METRICS
from smope_bench.reports.loading.model import (
    MIXED_CODE,
    NOT_VERIFIED,
    TAKEN,
    Cell,
    CellState,
    Column,
    RowKind,
    Run,
    RunState,
    SuiteResults,
    Summary,
)
from smope_bench.reports.text import NONE, listed, number

MAIN_METRICS = ("faa", "caa", "fm")
"""The metrics of a table whose suite names none, and of the table that ``run`` prints."""
METRIC_NAMES: Mapping[str, str] = {metric.name: metric.heading for metric in METRICS}
"""Headings of the built-in metrics by name."""
KIND_NAMES: Mapping[RowKind, str] = {
    "floor": "Floors",
    "method": "Methods",
    "adapter": "Adapters, for reference",
    "ceiling": "Ceilings",
}
KIND_HELP: Mapping[RowKind, str] = {
    "floor": "simple baselines that any method should beat",
    "method": "the methods under comparison",
    "adapter": "adapters and low-rank updates instead of prompts; not ranked among the methods",
    "ceiling": "trained on all classes at once; not ranked",
}
CELL_HELP: Mapping[CellState, str] = {
    "ok": "every planned run is here",
    "partial": "some planned runs are not here; the rest is averaged",
    "mixed": "the runs were made with different settings or code and are not averaged",
    "stale": "made by another version of the code; shown, but not ranked",
    "failed": "the runs stopped with an error",
    "unusable": "the records of the runs cannot be used; the report says why",
    "missing": "not run yet",
    "unplanned": "not part of what was asked for",
}
RUN_WORDS: Mapping[RunState, str] = {
    "ok": "done",
    "stale": "stale",
    "failed": "failed",
    "broken": "unusable",
    "missing": "missing",
}


def mean_std(summary: Summary | None) -> str:
    """``93.10 ± 0.42``, or ``93.10 (one seed)`` where a single run has no deviation."""
    if summary is None:
        return NONE
    return (
        f"{number(summary.mean)} (one seed)"
        if summary.std is None
        else f"{number(summary.mean)} ± {number(summary.std)}"
    )


def interval(summary: Summary | None) -> str:
    """``[92.1, 94.1]``, or a dash where one run gives none."""
    if summary is None or summary.low is None or summary.high is None:
        return NONE
    return f"[{number(summary.low, 1)}, {number(summary.high, 1)}]"


def runs_text(cell: Cell) -> str:
    """``3``, ``3 stale``, or ``2 of 3 (1 failed)``."""
    if not cell.runs:
        return NONE
    if len(cell.used) == len(cell.runs):
        return str(len(cell.used)) + (" stale" if cell.state == "stale" else "")
    others = ", ".join(f"{n} {RUN_WORDS[state]}" for state, n in cell.counts().items() if state != "ok")
    return f"{len(cell.used)} of {len(cell.runs)}" + (f" ({others})" if others else "")


def counts_text(results: SuiteResults) -> str:
    """``18 runs: 16 done, 1 failed, 1 missing``."""
    states = ", ".join(f"{n} {RUN_WORDS[state]}" for state, n in results.counts().items())
    total = len(results.runs)
    return f"{total} run{'s' * (total != 1)}: {states}" if total else "no runs"


def tasks_text(column: Column) -> str:
    """``5 tasks``, or nothing where the label contains it."""
    text = f"{column.tasks} {column.unit}{'s' * (column.tasks != 1)}"
    return "" if text in column.label else text


def column_text(column: Column) -> str:
    """``digits · 5 tasks``."""
    return " · ".join(part for part in (column.label, tasks_text(column)) if part)


def seeds_text(run: Run) -> str:
    """``order 0, training 1``, and where folders are joined the labels of those that have the run."""
    said = f"order {run.order_seed}, training {run.train_seed}"
    return f"{said}, by {listed(run.sources)}" if run.sources else said


def counted(met: Mapping[str, int]) -> str:
    """``2.4.0``, or ``2.4.0 (12 runs), 2.5.0 (3 runs)`` where there are several values."""
    if len(met) < 2:
        return next(iter(met), NONE)
    ordered = sorted(met.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{value} ({n} run{'s' * (n != 1)})" for value, n in ordered)


def problem_lines(results: SuiteResults) -> list[str]:
    """One line a run that is failed, unusable, stale or missing, in the order of rows."""
    return [
        f"{cell.row.label} on {cell.column.label}, {seeds_text(run)} ({run.run_id}): {RUN_WORDS[run.state]}: {run.problem}"
        for cell in results.all_cells
        for run in cell.runs
        if run.state != "ok"
    ]


def notes(results: SuiteResults, column: Column | None = None) -> list[str]:
    """Notes for every table of the suite, or of one of its benchmarks, as sentences."""
    columns = results.columns if column is None else (column,)
    found = []
    if results.tiny:
        found.append("Tiny suite: small data and a small backbone, not the papers' scale.")
    if any(one.protocol == "domain" for one in columns):
        found.append(
            "Domain-incremental: each task is a new domain of classes that come again; averages are over domains."
        )
    cells = [cell for one in columns for cell in results.cells_of(one)]
    mixed = [cell for cell in cells if MIXED_CODE in cell.marks]
    if mixed:
        found.append(_mixed_code_note(mixed))
    if any("stale" in cell.marks or cell.counts().get("stale") for cell in cells if MIXED_CODE not in cell.marks):
        found.append("Stale: made by another version of the code; never averaged with fresh runs and never ranked.")
    if any("leaking" in cell.marks for cell in cells):
        found.append("Leaking: the protocol lets information through that a test must not have; never ranked.")
    budgets = {cell.row.label: setup.flags.exemplars for cell in cells for setup in cell.setups}
    if kept := [f"{label} up to {count:,}" for label, count in budgets.items() if count]:
        found.append(
            f"Exemplars: keeps training images of earlier tasks ({', '.join(kept)}); never ranked with methods that keep none."
        )
    if any("random backbone" in cell.marks for cell in cells):
        found.append("Random backbone: the frozen weights were drawn at random, not pre-trained.")
    if any(NOT_VERIFIED in cell.marks for cell in cells):
        found.append(
            "Weights not verified: no public source states a hash of the weights file, so that nothing is said about how these"
            " results compare with printed ones."
        )
    if any(setup.limit is not None for cell in cells for setup in cell.setups):
        found.append(
            "Limited: trained and tested on a few images of each class, for trying out; compared with no printed number."
        )
    if any("normalisation slip" in cell.marks for cell in cells):
        found.append(
            "Normalisation slip: some of the data sets are normalised and some are not, as in official code by an oversight."
        )
    found += _taken_recipes(cells)
    found += [f"{cell.row.label} on {cell.column.label}: {cell.note}." for cell in cells if cell.note]
    found += [caution for column in columns if (caution := results.caution(column))]
    return found


def _taken_recipes(cells: Sequence[Cell]) -> list[str]:
    """One sentence for each recipe that was taken from another setting, with the rows that were trained by it."""
    rows: dict[str, dict[str, None]] = {}
    for cell in cells:
        for run in cell.used:
            if run.recipe and run.recipe.startswith(TAKEN):
                rows.setdefault(run.recipe, {})[cell.row.label] = None
    return [f"{', '.join(labels)}: recipe {recipe}." for recipe, labels in rows.items()]


def _mixed_code_note(cells: Sequence[Cell]) -> str:
    outcomes = {outcome.run_id: outcome for cell in cells for outcome in cell.outcomes}
    counts = Counter(outcome.made_by[:8] for outcome in outcomes.values())
    said = ", ".join(f"{version}: {n} run{'s' * (n != 1)}" for version, n in sorted(counts.items()))
    return f"Mixed code: averaged over runs of {len(counts)} versions of the code, as was asked for ({said}); never ranked."
