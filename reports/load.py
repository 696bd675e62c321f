"""From a results folder to a suite's results. Nothing is trained, and nothing unusable is averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import UserError
from harness.store import Broken, Store
from reports.model import Cell, CellState, Column, Row, RowKind, Run, RunState, SuiteResults
from reports.outcome import Outcome, read_outcome


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _RowEntry(_Entry):
    label: str
    method: str
    kind: RowKind = "method"
    paper: str | None = None
    url: str | None = None


class _ColumnEntry(_Entry):
    label: str
    benchmark: str
    tasks: int
    summary: str = ""
    backbone: str = ""


class _CellEntry(_Entry):
    row: str
    column: str
    order_seed: int
    train_seed: int
    run_id: str
    recipe: str | None = None
    settings: tuple[str, ...] = ()


class _Manifest(_Entry):
    suite: str
    title: str = ""
    description: str = ""
    tiny: bool = False
    rows: list[_RowEntry]
    columns: list[_ColumnEntry]
    cells: list[_CellEntry]


@dataclass(frozen=True)
class _Found:
    """What the store holds of one run id."""

    outcome: Outcome | None = None
    problem: str | None = None
    failure: Mapping[str, Any] | None = None


def load_suite(store: Store, suite: str, fingerprint: str | None) -> SuiteResults:
    """Read a suite's manifest and the records it names.

    ``fingerprint``: the code that records have to come from to be fresh; ``None`` takes that of the newest record.
    Raises UserError where the suite was never run here or its manifest cannot be used.
    """
    manifest = _read_manifest(store, suite)
    found = {entry.run_id: _find(store, entry.run_id) for entry in manifest.cells}
    reference = fingerprint or _newest_fingerprint(found.values())
    rows = tuple(Row(**entry.model_dump()) for entry in manifest.rows)
    columns = tuple(Column(**entry.model_dump()) for entry in manifest.columns)
    planned: dict[tuple[str, str], list[Run]] = {(row.label, column.label): [] for row in rows for column in columns}
    for entry in sorted(manifest.cells, key=lambda entry: (entry.order_seed, entry.train_seed)):
        planned[entry.row, entry.column].append(_run(entry, found[entry.run_id], reference))
    cells = {
        (row.label, column.label): make_cell(row, column, planned[row.label, column.label])
        for row in rows
        for column in columns
    }
    title = manifest.title or manifest.suite
    return SuiteResults(manifest.suite, title, manifest.description, manifest.tiny, rows, columns, cells, reference)


def make_cell(row: Row, column: Column, runs: Sequence[Run]) -> Cell:
    """Decide what a cell may show: runs are averaged only where they share setting, code and flags."""
    fresh = [run for run in runs if run.state == "ok"]
    stale = [run for run in runs if run.state == "stale"]
    used = fresh or stale
    kinds = {_kind(run.outcome) for run in used if run.outcome is not None}
    state: CellState
    note = None
    if len(kinds) > 1:
        state, used = ("mixed" if fresh else "stale"), []
        note = f"{len(kinds)} different settings or versions of the code, which are not averaged; run the suite again"
    elif fresh:
        state = "ok" if len(fresh) == len(runs) else "partial"
    elif stale:
        state = "stale"
    elif not runs:
        state = "unplanned"
    else:
        state = "missing" if all(run.state == "missing" for run in runs) else "failed"
    return Cell(row, column, tuple(runs), tuple(used), state, note)


def _kind(outcome: Outcome) -> tuple[object, ...]:
    flags = outcome.flags
    return (outcome.setting, outcome.fingerprint, outcome.tasks, flags.leaking, flags.tiny, flags.random_backbone)


def _read_manifest(store: Store, suite: str) -> _Manifest:
    raw = store.read_manifest(suite)
    if raw is None:
        raise UserError(f"nothing was run for suite {suite!r} in {str(store.root)!r}; run: run_all.py run {suite}")
    try:
        manifest = _Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "manifest"
        raise UserError(
            f"the manifest of suite {suite!r} in {str(store.root)!r} is not usable at {place} ({first['msg']}); "
            f"run the suite again to write it anew"
        ) from error
    _check_labels(manifest)
    return manifest


def _check_labels(manifest: _Manifest) -> None:
    rows, columns = [row.label for row in manifest.rows], [column.label for column in manifest.columns]
    for part, labels, named in (
        ("row", rows, {cell.row for cell in manifest.cells}),
        ("column", columns, {cell.column for cell in manifest.cells}),
    ):
        twice = sorted({label for label in labels if labels.count(label) > 1})
        unknown = sorted(named - set(labels))
        if twice or unknown:
            what = f"names {part} {twice[0]!r} twice" if twice else f"has a cell of an unlisted {part} {unknown[0]!r}"
            raise UserError(f"the manifest of suite {manifest.suite!r} {what}; run the suite again to write it anew")


def _find(store: Store, run_id: str) -> _Found:
    record = store.load(run_id)
    if isinstance(record, Broken):
        return _Found(problem=record.reason)
    if record is None:
        return _Found(failure=store.failure(run_id))
    outcome = read_outcome(run_id, record.result)
    return _Found(problem=outcome) if isinstance(outcome, str) else _Found(outcome)


def _run(entry: _CellEntry, found: _Found, reference: str | None) -> Run:
    def run(state: RunState, **facts: Any) -> Run:
        ids = (entry.run_id, entry.order_seed, entry.train_seed)
        return Run(*ids, state, recipe=entry.recipe, settings=entry.settings, **facts)

    if found.outcome is not None:
        if reference in (None, found.outcome.fingerprint):
            return run("ok", outcome=found.outcome)
        return run("stale", outcome=found.outcome, problem="made by another version of the code")
    if found.failure is not None:
        return run("failed", problem=str(found.failure.get("error") or "no reason given"), failure=found.failure)
    if found.problem is not None:
        return run("broken", problem=found.problem)
    return run("missing", problem="not run yet")


def _newest_fingerprint(found: Iterable[_Found]) -> str | None:
    dated = [
        (str(one.outcome.provenance.get("finished") or ""), one.outcome.fingerprint)
        for one in found
        if one.outcome is not None
    ]
    return max(dated)[1] if dated else None
