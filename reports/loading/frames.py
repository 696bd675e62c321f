"""Results of a folder as pandas data frames, one row a run and one row a cell, for analyses outside the report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from smope_bench.harness.errors import UserError
from smope_bench.harness.metrics import METRICS, Metric
from smope_bench.harness.planning.suites.find import name_in_results
from smope_bench.harness.provenance import code_fingerprint
from smope_bench.harness.records.index import IndexedStore
from smope_bench.harness.registry.registry import uncollected
from smope_bench.reports.loading.load import load_suite, load_suites, suites_in
from smope_bench.reports.loading.model import Cell, Run, SuiteResults


@dataclass(frozen=True)
class ResultFrames:
    """Results as data frames; missing values are NaN or None.

    ``runs``: a row for each planned run of each suite: suite, row, method, kind, benchmark, column (its label), tasks, backbone,
    order_seed, train_seed, run_id, state, is_stale, problem, recipe, set_by_hand, one column for every metric, total_s and
    train_s (seconds), memory_increase_mib, peak_memory_mb (MiB, too), learnable_parameters, started, finished, code_version
    (fingerprint), git_revision, and one column ``method.FIELD``, ``benchmark.FIELD`` or ``schedule.FIELD`` for every setting.

    ``cells``: a row for each row and benchmark of each suite: the same names, planned and used numbers of runs, state, marks,
    run_ids and seeds of the averaged runs (lists), and METRIC, METRIC_std, METRIC_low, METRIC_high (95 % t-interval).
    """

    runs: pd.DataFrame
    cells: pd.DataFrame


def read_results(
    folder: str | os.PathLike[str],
    suites: str | Sequence[str] | None = None,
    *,
    mixed: bool = False,
    metrics: tuple[Metric, ...] = METRICS,
) -> ResultFrames:
    """Read a results folder; ``suites`` names some of them, all that were run by default.

    Records of another code version are stale: they are rows of ``runs``, and of a cell only where nothing is fresh.
    ``mixed``: average runs of all code versions together. Raises UserError for a folder or suite that cannot be read.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{os.fspath(folder)!r} is not a folder; name a results folder")
    suites = [suites] if isinstance(suites, str) else suites
    with uncollected(), IndexedStore(Path(folder)) as store:
        names = [name_in_results(name) for name in suites] if suites is not None else suites_in(store)
        if mixed:
            loaded = load_suites(store, names, code_fingerprint(), mixed=True, metrics=metrics, brief=True).suites
        else:
            loaded = [load_suite(store, name, code_fingerprint(), metrics, brief=True) for name in names]
        return ResultFrames(
            pd.DataFrame([row for results in loaded for row in _runs(results)]),
            pd.DataFrame([row for results in loaded for row in _cells(results)]),
        )


def _head(results: SuiteResults, cell: Cell) -> dict[str, Any]:
    return {
        "suite": results.suite,
        "row": cell.row.label,
        "method": cell.row.method,
        "kind": cell.row.kind,
        "benchmark": cell.column.benchmark,
        "column": cell.column.label,
        "tasks": cell.column.tasks,
        "backbone": cell.column.backbone or None,
    }


def _runs(results: SuiteResults) -> Iterator[dict[str, Any]]:
    for cell in results.all_cells:
        for run in cell.runs:
            yield _head(results, cell) | _run(run, results.metrics)


def _run(run: Run, metrics: Sequence[Metric]) -> dict[str, Any]:
    outcome = run.outcome
    values = {
        "order_seed": run.order_seed,
        "train_seed": run.train_seed,
        "run_id": run.run_id,
        "state": run.state,
        "is_stale": run.state == "stale",
        "problem": run.problem,
        "recipe": run.recipe,
        "set_by_hand": " ".join(run.settings),
        **{metric.name: None if outcome is None else outcome.metrics[metric.name] for metric in metrics},
    }
    if outcome is None:
        return values
    costs, spec = outcome.costs, outcome.spec
    parts = {"method": spec["method"]["config"], "benchmark": spec["benchmark"]["config"], "schedule": spec["schedule"]}
    return {
        **values,
        "backbone": spec["backbone"]["name"],
        "total_s": outcome.total_s,
        "train_s": outcome.train_s,
        "memory_increase_mib": costs.memory_increase_mib,
        "peak_memory_mb": costs.peak_memory_mb,
        "learnable_parameters": costs.learnable_parameters,
        "started": outcome.started,
        "finished": outcome.finished or None,
        "code_version": outcome.fingerprint,
        "git_revision": outcome.git_revision,
        **{f"{part}.{name}": value for part, fields in parts.items() for name, value in fields.items()},
    }


def _cells(results: SuiteResults) -> Iterator[dict[str, Any]]:
    for cell in results.all_cells:
        yield {
            **_head(results, cell),
            "state": cell.state,
            "is_stale": "stale" in cell.marks,
            "marks": list(cell.marks),
            "planned": len(cell.runs),
            "used": len(cell.used),
            "seeds": [(run.order_seed, run.train_seed) for run in cell.used],
            "run_ids": list(cell.run_ids),
            "code_versions": sorted({outcome.fingerprint for outcome in cell.outcomes}),
            **{name: value for metric in results.metrics for name, value in _summary(cell, metric.name).items()},
        }


def _summary(cell: Cell, metric: str) -> dict[str, float | None]:
    found = cell.summary(metric)
    numbers = (None,) * 4 if found is None else (found.mean, found.std, found.low, found.high)
    return dict(zip((metric, f"{metric}_std", f"{metric}_low", f"{metric}_high"), numbers, strict=True))
