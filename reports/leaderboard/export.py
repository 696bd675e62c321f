"""All results of a leaderboard as plain values for JSON, for others to read."""

from __future__ import annotations

import json
from typing import Any

from smope_bench.harness.run_spec import canonical_json
from smope_bench.reports.leaderboard.merge import Board, Conflict, Joined, Source
from smope_bench.reports.loading.environments import environment_of
from smope_bench.reports.loading.model import Cell, Run
from smope_bench.reports.loading.run_result import RunResult

SCHEMA = 1


class _Environments:
    """The distinct environments, numbered from 0 in the order of their first use."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self._places: dict[str, int] = {}

    def place(self, outcome: RunResult) -> int:
        """Number of a run's environment."""
        found = environment_of(outcome)
        place = self._places.setdefault(canonical_json(found), len(self.listed))
        if place == len(self.listed):
            self.listed.append(found)
        return place


def exported(joined: Joined) -> str:
    """The content of ``results.json``: the same bytes for the same records."""
    environments = _Environments()
    metrics = joined.boards[0].metrics
    results = [_result(board, cell, environments) for board in joined.boards for cell in board.all_cells if cell.used]
    content = {
        "schema_version": SCHEMA,
        "folders": [_folder(source) for source in joined.sources],
        "metrics": [
            {
                "name": metric.name,
                "heading": metric.heading,
                "explanation": metric.explanation,
                "lower_is_better": metric.is_lower_better,
            }
            for metric in metrics
        ],
        "results": results,
        "disputed": [_conflict(conflict, environments) for conflict in joined.conflicts],
        "environments": environments.listed,
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _folder(source: Source) -> dict[str, Any]:
    broken = source.integrity.broken
    return {
        "label": source.label,
        "records": source.integrity.records,
        "left_out": [{"run_id": one.run_id, "fault": one.kind, "reason": one.reason} for one in broken],
    }


def _result(board: Board, cell: Cell, environments: _Environments) -> dict[str, Any]:
    first = cell.outcomes[0]
    summaries = {metric.name: cell.summary(metric.name) for metric in board.metrics}
    return {
        "benchmark": board.title,
        "setting": cell.column.label,
        "row": cell.row.label,
        "method": cell.row.method,
        "kind": cell.row.kind,
        "marks": list(cell.marks),
        "spec": json.loads(first.setting),
        "code_fingerprint": first.fingerprint,
        "plugins": first.plugins,
        "metrics": {
            name: None
            if found is None
            else {"mean": found.mean, "std": found.std, "low": found.low, "high": found.high, "n": found.n}
            for name, found in summaries.items()
        },
        "runs": [_run(run, run.outcome, environments) for run in cell.used if run.outcome is not None],
    }


def _run(run: Run, outcome: RunResult, environments: _Environments) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "folders": list(run.sources),
        "order_seed": run.order_seed,
        "train_seed": run.train_seed,
        "set_by_hand": list(run.settings),
        "recipe": run.recipe,
        "metrics": dict(outcome.metrics),
        "accuracy_matrix": outcome.accuracy_matrix,
        "test_counts": outcome.test_counts,
        "split_hash": outcome.split_hash,
        "seconds": {"total": outcome.timings.total_s, "training": outcome.timings.train_s},
        "costs": outcome.costs.model_dump(),
        "flags": outcome.flags.model_dump(),
        "finished": outcome.provenance.get("finished"),
        "environment": environments.place(outcome),
    }


def _conflict(conflict: Conflict, environments: _Environments) -> dict[str, Any]:
    return {
        "run_id": conflict.run_id,
        "results": [
            {
                "folder": held.source,
                "faa": held.outcome.metrics["faa"],
                "code_fingerprint": held.outcome.fingerprint,
                "environment": environments.place(held.outcome),
                "left_out": not held.is_used,
            }
            for held in conflict.held
        ],
    }
