"""Joins results folders: equal runs count once, contradicting ones are left out, versions of the code and plugins stay apart."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from smope_bench.harness.errors import UserError
from smope_bench.harness.metrics import METRICS, Metric
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_spec import canonical_json
from smope_bench.reports.loading.integrity import Integrity, examine
from smope_bench.reports.loading.load import VERSION_DIGITS, make_cell
from smope_bench.reports.loading.manifest import Manifest
from smope_bench.reports.loading.model import Column, ResultRow, RowKind, Run, SuiteResults
from smope_bench.reports.loading.reader import Reader
from smope_bench.reports.loading.run_result import RunResult
from smope_bench.reports.text import plain

Identity = tuple[str, str]
"""Name of a method or benchmark, and the hash of the plugin that it comes from; empty for the project's own."""


@dataclass(frozen=True)
class Place:
    """What a suite's manifest calls a run: its row and column, the source of its recipe, and what was set by hand."""

    label: str
    kind: RowKind
    url: str | None
    column: Column
    recipe: str | None = None
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A results folder under its label. ``outcomes``, ``places``: by run id; a run that no manifest names has no place."""

    label: str
    integrity: Integrity
    outcomes: Mapping[str, RunResult]
    places: Mapping[str, tuple[Place, ...]]


@dataclass(frozen=True)
class Held:
    """A folder's result of a run that other folders have with other numbers; ``is_used``: it has a line of its own."""

    source: str
    outcome: RunResult
    is_used: bool


@dataclass(frozen=True)
class Conflict:
    """A run of which folders have different results."""

    run_id: str
    held: tuple[Held, ...]


@dataclass(frozen=True)
class Board(SuiteResults):
    """All results on one benchmark. Its columns are the settings of data, backbone and precision; rows may be compared in one.

    Each row was made by one version of the code.
    """

    identity: Identity = ("", "")
    methods: Mapping[str, Identity] = field(default_factory=dict)
    """Row label -> the method."""

    def _caution(self, column: Column) -> str | None:  # several versions of the code are one more reason
        versions = {outcome.fingerprint for cell in self.cells_of(column) for outcome in cell.outcomes}
        if len(versions) > 1:
            return f"{column.label}: made by {len(versions)} versions of the code, between which nothing is ranked."
        return super()._caution(column)


@dataclass(frozen=True)
class Joined:
    """Several folders as one. ``methods``, ``boards``: in the order of names; ``methods``: identity -> name that is its alone."""

    sources: tuple[Source, ...]
    boards: tuple[Board, ...]
    methods: Mapping[Identity, str]
    conflicts: tuple[Conflict, ...]

    @property
    def outcomes(self) -> list[RunResult]:
        """Every result that is shown, each once."""
        return [outcome for board in self.boards for outcome in board.outcomes]


def read_source(label: str, folder: Path, suites: Sequence[str] = (), metrics: tuple[Metric, ...] = METRICS) -> Source:
    """Read and check every record of a folder; with ``suites``, those that their manifests name. Raises UserError."""
    store = Store(folder)
    reader = Reader(store, metrics)
    integrity = examine(store, reader)
    found = {run_id: one for run_id in store.published() if (one := reader.find(run_id).outcome) is not None}
    manifests = [one for name in reader.suites() if isinstance(one := reader.manifest(name), Manifest)]
    places: dict[str, list[Place]] = {}
    for manifest in manifests:
        if suites and manifest.suite not in suites:
            continue
        for run_id, place in _places(manifest, found):
            places.setdefault(run_id, []).append(place)
    outcomes = {run_id: one for run_id, one in found.items() if not suites or run_id in places}
    return Source(label, integrity, outcomes, {run_id: tuple(some) for run_id, some in places.items()})


def _places(manifest: Manifest, found: Mapping[str, RunResult]) -> Iterable[tuple[str, Place]]:
    """(run id, place) of the runs that a manifest names for the method and benchmark of their records."""
    rows = {row.label: row for row in manifest.rows}
    columns = {column.label: column for column in manifest.columns}
    for cell in manifest.cells:
        row, column, outcome = rows[cell.row], columns[cell.column], found.get(cell.run_id)
        if outcome is not None and (row.method, column.benchmark) == (_method(outcome)[0], _benchmark(outcome)[0]):
            yield cell.run_id, Place(row.label, row.kind, row.url, column, cell.recipe, cell.settings)


def join(sources: Iterable[Source], metrics: tuple[Metric, ...] = METRICS) -> Joined:
    """Join folders. Raises UserError where none has a usable result."""
    sources = tuple(sorted(sources, key=lambda source: source.label))
    runs, conflicts = _joined_runs(sources)
    if not runs:
        named = ", ".join(repr(source.label) for source in sources)
        raise UserError(f"nothing can be merged: there is no usable result in {named}")
    methods = _names({_method(run.outcome) for run in runs})
    by_board: dict[Identity, list[_JoinedRun]] = {}
    for run in runs:
        by_board.setdefault(_benchmark(run.outcome), []).append(run)
    titles = _names(by_board)
    boards = tuple(_board(key, title, by_board[key], metrics) for key, title in titles.items())
    return Joined(sources, boards, methods, conflicts)


@dataclass(frozen=True)
class _JoinedRun:
    outcome: RunResult
    sources: tuple[str, ...]
    places: tuple[Place, ...]

    @property
    def key(self) -> tuple[str, str]:
        """Its id, and the code that made it."""
        return self.outcome.run_id, self.outcome.made_by

    @property
    def place(self) -> Place:
        """What most manifests call it."""
        return _commonest(self.places)


def _joined_runs(sources: Sequence[Source]) -> tuple[list[_JoinedRun], tuple[Conflict, ...]]:
    """Every run once for each version of the code that made it, and the runs of which folders have different results."""
    joined, conflicts = [], []
    for run_id in sorted({run_id for source in sources for run_id in source.outcomes}):
        having = [source for source in sources if run_id in source.outcomes]
        by_code: dict[str, list[Source]] = {}
        for source in having:
            by_code.setdefault(source.outcomes[run_id].made_by, []).append(source)
        agreeing = {code: len({_numbers(one.outcomes[run_id]) for one in some}) == 1 for code, some in by_code.items()}
        for code, some in by_code.items():
            if agreeing[code]:
                outcome = some[0].outcomes[run_id]
                places = tuple(place for one in some for place in one.places.get(run_id, ())) or (_own_place(outcome),)
                joined.append(_JoinedRun(outcome, tuple(one.label for one in some), places))
        if len({_numbers(source.outcomes[run_id]) for source in having}) > 1:
            held = ((source.label, source.outcomes[run_id]) for source in having)
            conflicts.append(Conflict(run_id, tuple(Held(name, one, agreeing[one.made_by]) for name, one in held)))
    return joined, tuple(conflicts)


def _numbers(outcome: RunResult) -> str:
    """What must be equal for two results of one run to be the same: its accuracies, to the last digit, and its data."""
    return canonical_json([outcome.accuracy_matrix, outcome.test_counts, outcome.split_hash])


def _method(outcome: RunResult) -> Identity:
    return str(outcome.spec["method"]["name"]), outcome.plugins.get("method", "")


def _benchmark(outcome: RunResult) -> Identity:
    return str(outcome.spec["benchmark"]["name"]), outcome.plugins.get("benchmark", "")


def _own_place(outcome: RunResult) -> Place:
    """For a run that no manifest names."""
    name, spec = _benchmark(outcome)[0], outcome.spec
    protocol = "domain" if outcome.domains else "class"
    column = Column(name, name, outcome.tasks, backbone=str(spec["backbone"]["name"]), protocol=protocol)
    return Place(_method(outcome)[0], "method", None, column)


def _commonest(places: Iterable[Place]) -> Place:
    counts = Counter(places)
    return min(counts, key=lambda place: (-counts[place], place.label, repr(place)))


def _names(identities: Iterable[Identity]) -> dict[Identity, str]:
    """Identity -> its name, with the hash of its plugin where several have the name."""
    found = sorted(identities)
    return dict(zip(found, told_apart([(name, source_text(source)) for name, source in found]), strict=True))


def source_text(source: str) -> str:
    """``plugin 1a2b3c4d``, or ``built in``."""
    return f"plugin {source[:VERSION_DIGITS]}" if source else "built in"


def told_apart(names: Sequence[Sequence[str]]) -> list[str]:
    """A label for each: its first part, and of the others, in their order, those that tell equal ones apart."""
    labels = [plain(name[0]) for name in names]
    for part in range(1, max(map(len, names), default=0)):
        places: dict[str, list[int]] = {}
        for i, label in enumerate(labels):
            places.setdefault(label, []).append(i)
        for members in places.values():
            if len({names[i][part] for i in members}) > 1:
                for i in members:
                    labels[i] += f" · {names[i][part]}"
    met: Counter[str] = Counter()
    for i, label in enumerate(labels):  # labels that differ in what cannot be printed, or that look like a longer one
        met[label] += 1
        labels[i] = label if met[label] == 1 else f"{label} ({met[label]})"
    return labels


_RowKey = tuple[str, RowKind, Identity, str, str]
"""Label, kind, method, code, and the hash of its settings where rows of one label differ in them, else nothing."""
_ColumnKey = tuple[str, str]
"""Setting of data, backbone and precision, and the hash of the plugin that the backbone comes from."""
_OF_COLUMNS = ("benchmark", "backbone", "precision", "order_seed", "train_seed")


def _board(identity: Identity, title: str, runs: Sequence[_JoinedRun], metrics: tuple[Metric, ...]) -> Board:
    by_column: dict[_ColumnKey, list[_JoinedRun]] = {}
    for run in runs:
        by_column.setdefault((run.outcome.protocol, run.outcome.plugins.get("backbone", "")), []).append(run)
    columns, keys = _columns(by_column), _row_keys(by_column.values())
    rows = _rows({keys[run.key]: run for run in reversed(runs)})
    placed: dict[tuple[str, str], list[Run]] = {}
    for column_key, some in by_column.items():
        for run in some:
            place = (rows[keys[run.key]].label, columns[column_key].label)
            placed.setdefault(place, []).append(_run(run))
    shown = sorted(columns.values(), key=lambda column: column.label)
    return Board(
        suite=title,
        title=title,
        description=next((said for run in runs if (said := run.place.column.summary)), ""),
        tiny=all(run.outcome.flags.tiny for run in runs),
        rows=tuple(rows.values()),
        columns=tuple(shown),
        cells={
            (row.label, column.label): make_cell(
                row, column, sorted(placed.get((row.label, column.label), ()), key=_seeds)
            )
            for row in rows.values()
            for column in shown
        },
        fingerprint=None,
        metrics=metrics,
        identity=identity,
        methods={row.label: key[2] for key, row in rows.items()},
    )


def _seeds(run: Run) -> tuple[int, int, str]:
    return run.order_seed, run.train_seed, run.run_id


def _columns(by_column: Mapping[_ColumnKey, Sequence[_JoinedRun]]) -> dict[_ColumnKey, Column]:
    """The columns, called as most manifests do, and told apart by what they differ in."""
    found: list[Column] = []
    names: list[tuple[str, ...]] = []
    for (protocol, plugin), runs in by_column.items():
        column, outcome = _commonest(place for run in runs for place in run.places).column, runs[0].outcome
        backbone, precision = str(outcome.spec["backbone"]["name"]), str(outcome.spec.get("precision"))
        name = _benchmark(outcome)[0]
        found.append(Column(column.label, name, outcome.tasks, column.summary, backbone, column.protocol))
        known = (column.label, f"{outcome.tasks} tasks", backbone, precision)
        names.append((*known, source_text(plugin), f"setting {_short(protocol)}"))
    labelled = (replace(column, label=label) for column, label in zip(found, told_apart(names), strict=True))
    return dict(zip(by_column, labelled, strict=True))


def _row_keys(columns: Iterable[Sequence[_JoinedRun]]) -> dict[tuple[str, str], _RowKey]:
    """Key of a run -> key of its row."""
    keys: dict[tuple[str, str], _RowKey] = {}
    several: set[_RowKey] = set()
    settings: dict[tuple[str, str], str] = {}
    for runs in columns:
        met: dict[_RowKey, str] = {}
        labels = _labels(runs)
        for run in runs:
            label, kind = labels[run.outcome.setting]
            key = (label, kind, _method(run.outcome), run.outcome.made_by, "")
            keys[run.key], settings[run.key] = key, run.outcome.setting
            if met.setdefault(key, run.outcome.setting) != run.outcome.setting:
                several.add(key)
    return {run: (*key[:4], _own_settings(settings[run])) if key in several else key for run, key in keys.items()}


def _own_settings(setting: str) -> str:
    """A hash of a row's settings: those that are not of the column."""
    return _short(canonical_json({key: value for key, value in json.loads(setting).items() if key not in _OF_COLUMNS}))


def _labels(runs: Sequence[_JoinedRun]) -> dict[str, tuple[str, RowKind]]:
    """Setting -> (label, kind) that most manifests give it."""
    by_setting: dict[str, list[Place]] = {}
    for run in runs:
        by_setting.setdefault(run.outcome.setting, []).extend(run.places)
    found = {setting: _commonest(places) for setting, places in by_setting.items()}
    return {setting: (place.label, place.kind) for setting, place in found.items()}


def _rows(keys: Mapping[_RowKey, _JoinedRun]) -> dict[_RowKey, ResultRow]:
    """The rows by their keys, in the order of these, with labels that are told apart; each key has one of its runs."""
    ordered = sorted(keys)
    names = []
    for key in ordered:
        label, kind, (method, plugin), code, settings = key
        version = keys[key].outcome.fingerprint[:VERSION_DIGITS]
        told = (f"code {version}", f"settings {settings}", f"made by {code[:VERSION_DIGITS]}", kind)
        names.append((label, method, source_text(plugin), *told))
    return {
        key: ResultRow(label, key[2][0], key[1], url=keys[key].place.url)
        for key, label in zip(ordered, told_apart(names), strict=True)
    }


def _run(run: _JoinedRun) -> Run:
    outcome, place = run.outcome, run.place
    seeds = (int(outcome.spec.get("order_seed", 0)), int(outcome.spec.get("train_seed", 0)))
    facts = {"recipe": place.recipe, "settings": place.settings, "sources": run.sources}
    return Run(outcome.run_id, *seeds, "ok", outcome, **facts)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:VERSION_DIGITS]
