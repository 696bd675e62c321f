"""From suites to runs: every default spelled out, every name checked, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.suites import SUITES, Column, Row, Suite
from harness.errors import UserError, did_you_mean
from harness.registry import Registries
from harness.settings import SCOPES, Seeds, Setting, has_field, merged, nested, validated
from harness.spec import BackboneRef, Component, Precision, RunSpec


@dataclass(frozen=True)
class Selection:
    """What of a suite is asked for; empty means all of it."""

    tiny: bool = False
    methods: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    seeds: tuple[Seeds, ...] = ()
    settings: tuple[Setting, ...] = ()
    precision: Precision = "fp32"


@dataclass(frozen=True)
class PlannedRun:
    """One cell entry of one suite's table."""

    suite: str
    row: str
    method: str
    benchmark: str
    spec: RunSpec
    leaking: bool = False
    recipe: str = ""

    @property
    def run_id(self) -> str:
        """Identity of the run; two suites may plan the same one."""
        return self.spec.run_id


def plan(names: Sequence[str], selection: Selection, registries: Registries, data_root: Path) -> list[PlannedRun]:
    """All runs of some suites, in the order of their tables. Raises UserError and the rooms' errors; trains nothing."""
    suites = [find_suite(name) for name in names]
    runs: list[PlannedRun] = []
    used: set[str] = set()
    for suite in suites:
        rows = select_rows(suite, selection.methods, registries)
        for column in select_columns(suite, selection):
            for row in rows:
                seeds = selection.seeds or tuple(Seeds(seed, seed) for seed in suite.seeds)
                runs += _cell(suite, row, column, seeds, selection, registries, data_root, used)
    unused = [setting for setting in selection.settings if setting.text not in used]
    if unused:
        raise UserError(_unused_setting(unused[0], runs, registries))
    return runs


def find_suite(name: str) -> Suite:
    """A suite by name."""
    if name not in SUITES:
        raise UserError(f"unknown suite {name!r}{did_you_mean(name, SUITES)}")
    return SUITES[name]


def select_columns(suite: Suite, selection: Selection) -> tuple[Column, ...]:
    """The columns of the asked size, narrowed to, or replaced by, the asked benchmarks."""
    tiny = selection.tiny or suite.is_tiny_only
    columns = suite.tiny if tiny else suite.full
    if not columns:
        raise UserError(f"suite {suite.name!r} has no paper-scale benchmarks in this version; run it with --tiny")
    if not selection.benchmarks:
        return columns
    own = {column.benchmark: column for column in columns}
    return tuple(own.get(name) or Column(name, name, {}, columns[0].backbone) for name in selection.benchmarks)


def select_rows(suite: Suite, methods: Iterable[str], registries: Registries) -> tuple[Row, ...]:
    """The suite's rows of the asked methods; a registered method that the suite lacks becomes a row of its own."""
    asked = tuple(methods)
    if not asked:
        return suite.rows
    rows: list[Row] = []
    for name in asked:
        method = registries.methods.load(name)
        rows += [row for row in suite.rows if row.method == name] or [Row(method.card.title, name)]
    return tuple(rows)


def _cell(
    suite: Suite,
    row: Row,
    column: Column,
    seeds: Sequence[Seeds],
    selection: Selection,
    registries: Registries,
    data_root: Path,
    used: set[str],
) -> list[PlannedRun]:
    spec, leaking, recipe = build_spec(row, column, selection, registries, data_root, used)
    return [
        PlannedRun(
            suite=suite.name,
            row=row.label,
            method=row.method,
            benchmark=column.label,
            spec=spec.model_copy(update={"order_seed": seed.order, "train_seed": seed.train}),
            leaking=leaking,
            recipe=recipe,
        )
        for seed in seeds
    ]


def build_spec(
    row: Row, column: Column, selection: Selection, registries: Registries, data_root: Path, used: set[str]
) -> tuple[RunSpec, bool, str]:
    """The spec of a table cell with seeds 0, whether it leaks, and the source of its recipe.

    The texts of the ``--set`` values that applied are added to ``used``.
    """
    from methods.common.schedules import Schedule
    from methods.recipes import find_recipe

    method = registries.methods.load(row.method)
    benchmark = registries.benchmarks.load(column.benchmark)
    backbone = registries.backbones.load(column.backbone)
    backbone.verify()
    own = registries.methods.owner(row.method) != "built-in" or benchmark.takes_user_data
    recipe = find_recipe(row.method, column.benchmark, column.backbone, own=own)
    method_values = merged(recipe.config, row.settings) if recipe.method == row.method else dict(row.settings)
    schedule_values, benchmark_values = dict(recipe.schedule), dict(column.config)
    for setting in selection.settings:
        scope, path = _scope(setting, row.method, method.Config, Schedule)
        if scope is None:
            continue
        used.add(setting.text)
        change = nested(path, setting.value)
        if scope == "schedule":
            schedule_values = merged(schedule_values, change)
        elif scope == "benchmark":
            benchmark_values = merged(benchmark_values, change)
        else:
            method_values = merged(method_values, change)
    config = validated(method.Config, method_values, row.method)
    schedule = validated(Schedule, schedule_values, "schedule")
    data = benchmark(validated(benchmark.Config, benchmark_values, "benchmark"), data_root)
    _check_fit(data, backbone, column)
    if benchmark.takes_user_data:
        data.prepare()
    spec = RunSpec(
        method=Component(name=row.method, config=config.model_dump(mode="json")),
        benchmark=Component(name=column.benchmark, config=data.pinned().model_dump(mode="json")),
        backbone=BackboneRef(name=column.backbone, sha256=backbone.sha256),
        schedule=schedule.model_dump(mode="json"),
        precision=selection.precision,
    )
    return spec, method.leaks(config), recipe.source


def _scope(setting: Setting, method: str, config: type[Any], schedule: type[Any]) -> tuple[str | None, tuple[str, ...]]:
    """Where a setting belongs in this row: ``schedule``, ``benchmark``, the method itself, or nowhere."""
    head, rest = setting.path[0], setting.path[1:]
    if rest and head in (*SCOPES, method):
        return head, rest
    if has_field(config, setting.path):
        return method, setting.path
    if has_field(schedule, setting.path):
        return "schedule", setting.path
    return None, ()


def _unused_setting(setting: Setting, runs: Sequence[PlannedRun], registries: Registries) -> str:
    from methods.common.schedules import Schedule

    methods = sorted({run.method for run in runs})
    known: set[str] = {*Schedule.model_fields, *(f"schedule.{name}" for name in Schedule.model_fields)}
    for name in methods:
        known |= set(registries.methods.load(name).Config.model_fields)
        known |= {f"{name}.{field}" for field in registries.methods.load(name).Config.model_fields}
    key = ".".join(setting.path)
    return f"--set {setting.text!r}: no method of this plan ({', '.join(methods)}) has a setting {key!r}{did_you_mean(key, known)}"


def _check_fit(data: Any, backbone: Any, column: Column) -> None:
    if data.config.image_size != backbone.image_size:
        raise UserError(
            f"{column.benchmark} gives images of {data.config.image_size} px but backbone {column.backbone!r} takes"
            f" {backbone.image_size} px; use --set benchmark.image_size={backbone.image_size}"
        )


def manifest(suite_name: str, runs: Sequence[PlannedRun], registries: Registries) -> dict[str, Any]:
    """What the store notes of a planned suite, so that reports need neither torch nor the plan."""
    suite = find_suite(suite_name)
    mine = [run for run in runs if run.suite == suite_name]
    rows = {run.row: run for run in mine}
    columns = {run.benchmark: run for run in mine}
    return {
        "suite": suite.name,
        "title": suite.title,
        "description": suite.summary,
        "tiny": all(registries.backbones.load(run.spec.backbone.name).is_tiny for run in mine),
        "rows": [_row_entry(label, run, registries) for label, run in rows.items()],
        "columns": [_column_entry(label, run, registries) for label, run in columns.items()],
        "cells": [
            {
                "row": run.row,
                "column": run.benchmark,
                "order_seed": run.spec.order_seed,
                "train_seed": run.spec.train_seed,
                "run_id": run.run_id,
            }
            for run in mine
        ],
    }


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
    return {
        "label": label,
        "benchmark": run.spec.benchmark.name,
        "tasks": run.spec.benchmark.config.get("tasks"),
        "backbone": run.spec.backbone.name,
        "summary": card.summary,
    }


def estimate(run: PlannedRun, train_images: int | None, seconds: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    """What a run would cost: image passes of its schedule, and the median time of finished runs of its kind, if any."""
    epochs = int(run.spec.schedule["epochs"])
    passes = None if train_images is None else train_images * epochs
    return {"train_image_passes": passes, "seconds": seconds.get((run.method, run.spec.benchmark.name))}
