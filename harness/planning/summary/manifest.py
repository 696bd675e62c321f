"""The manifest of a planned suite, from which reports are built without torch and without the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from smope_bench.benchmarks.suites import Column, Suite
from smope_bench.harness.errors import without_home
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.planning.selection import Selection, resolved
from smope_bench.harness.planning.suites.find import digest, find_suite
from smope_bench.harness.planning.suites.titles import distinct
from smope_bench.harness.registry.registry import Registries

if TYPE_CHECKING:
    pass


def manifest(suite: Suite | str, runs: Sequence[PlannedRun], registries: Registries) -> dict[str, Any]:
    """The manifest of a planned suite, from which reports are built without torch and without the plan."""
    suite = suite if isinstance(suite, Suite) else find_suite(suite)
    mine = [run for run in runs if run.suite == suite.name]
    rows = {run.row: run for run in mine}
    columns = {run.benchmark: run for run in mine}
    stored = cache(without_home)  # thousands of runs share nearly all their words
    return {
        "suite": suite.name,
        "title": suite.title,
        "description": suite.summary,
        "tiny": all(registries.backbones.load(run.spec.backbone.name).ships for run in mine),
        "suite_rows": [[row.label for row in rows] for rows in (suite.tiny_rows, suite.rows) if rows],
        "suite_columns": [_labels(suite, columns, registries) for columns in _forms(suite) if columns],
        **(_of_file(suite) if suite.file else {}),
        "rows": [_row_entry(label, run, registries) for label, run in rows.items()],
        "columns": [_column_entry(label, run, registries) for label, run in columns.items()],
        "cells": [
            {
                "row": run.row,
                "column": run.benchmark,
                "order_seed": run.spec.order_seed,
                "train_seed": run.spec.train_seed,
                "run_id": run.run_id,
                "recipe": run.recipe,
                "settings": list(map(stored, run.settings)),
                **({"plugins": run.spec.sources} if run.spec.sources else {}),
                **({"command": list(map(stored, run.command))} if run.command else {}),
            }
            for run in mine
        ],
    }


def _forms(suite: Suite) -> list[tuple[Column, ...]]:
    """The columns of a suite in each of its sizes."""
    more = [(*suite.tiny, *suite.where_prepared)] if suite.where_prepared else []
    return [suite.tiny, *more, suite.full]


def _of_file(suite: Suite) -> dict[str, Any]:
    """What reports need to know of a suite that is not the project's."""
    return {
        "file": digest(suite),
        "metrics": list(suite.metrics),
        **({"reference": suite.reference} if suite.reference else {}),
        "drawings": [asdict(drawing) for drawing in suite.drawings],
    }


def _labels(suite: Suite, columns: Sequence[Column], registries: Registries) -> list[str]:
    """The labels of a suite's own columns."""
    columns = [replace(one, backbone=registries.files.get(one.backbone, one.backbone)) for one in columns]
    backbones = {column.backbone for column in columns}
    return [
        one.label for one in distinct([resolved(suite, one, backbones, Selection(), registries) for one in columns])
    ]


def _row_entry(label: str, run: PlannedRun, registries: Registries) -> dict[str, Any]:
    card = registries.methods.load(run.method).card
    return {
        "label": label,
        "method": run.method,
        "kind": card.kind,
        "summary": card.summary,
        "paper": card.paper,
        "url": card.paper_url,
        "leaking": run.leaking,
    }


def _column_entry(label: str, run: PlannedRun, registries: Registries) -> dict[str, Any]:
    card = registries.benchmarks.load(run.spec.benchmark.name).card
    backbone = " ".join(part for part in (run.spec.backbone.name, run.spec.backbone.settings.words) if part)
    return {
        "label": label,
        "benchmark": run.spec.benchmark.name,
        "tasks": run.spec.num_tasks,
        "backbone": backbone,
        "summary": card.summary,
        **({"protocol": run.protocol} if run.protocol != "class" else {}),
    }
