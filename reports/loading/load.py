"""Reads the results of suites from a results folder, and decides which runs are averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.errors import UserError
from smope_bench.harness.metrics import METRICS, Metric
from smope_bench.harness.planning.suites.find import run_argument
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import uncollected
from smope_bench.harness.text import shell_command
from smope_bench.reports.loading.integrity import Integrity, examine, integrity_warnings
from smope_bench.reports.loading.manifest import Manifest, PlannedRun
from smope_bench.reports.loading.model import Cell, CellState, Column, ResultRow, Run, RunState, SuiteResults
from smope_bench.reports.loading.reader import Reader, StoredContent
from smope_bench.reports.loading.run_result import LeftOut, RunResult, Setup

VERSION_DIGITS = 8
"""Digits of a fingerprint or git revision that are shown."""
CHOICES = ("--methods", "--benchmarks", "--seeds")
"""Options in which the commands of a manifest's cells differ; each takes several values, joined by commas."""


@dataclass(frozen=True)
class Loaded:
    """Some suites of one results folder, with the integrity of the whole folder.

    ``fingerprints``: code versions of the usable records of the suites, the reference first. ``is_mixed``: there are several,
    and ``--mixed`` was given. ``label``: name of the folder in a comparison.
    """

    suites: tuple[SuiteResults, ...]
    integrity: Integrity
    fingerprints: tuple[str, ...]
    is_mixed: bool
    label: str = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the head of a report: several code versions, and records left out."""
        return (*((_mixed_warning(self),) if self.is_mixed else ()), *integrity_warnings(self.integrity))


def suites_in(store: Store) -> list[str]:
    """Names of the suites with a usable manifest. Raises UserError where there are manifests and none is usable."""
    reader = Reader(store)
    names = reader.suites()
    usable = [name for name in names if isinstance(reader.manifest(name), Manifest)]
    if names and not usable:
        reader.require_manifest(names[0])
    return usable


@uncollected()
def load_suites(
    store: Store,
    names: Sequence[str],
    fingerprint: str | None,
    *,
    mixed: bool = False,
    metrics: tuple[Metric, ...] = METRICS,
    brief: bool = False,
) -> Loaded:
    """Read some suites; the whole folder is examined, and each record is read and checked once.

    ``fingerprint``: the code version of fresh records; ``None`` takes that of the newest record of the suites.
    ``mixed``: average records of several code versions; such cells are marked and not ranked. ``brief``: as of ``Reader``.
    Raises UserError where a suite cannot be read, and without ``mixed`` for records of several code versions.
    """
    reader = Reader(store, metrics, brief=brief)
    manifests = [reader.require_manifest(name) for name in dict.fromkeys(names)]
    integrity = examine(store, reader)
    found = [reader.find(run_id) for run_id in {entry.run_id: None for one in manifests for entry in one.cells}]
    outcomes = [one.outcome for one in found if one.outcome is not None]
    reference = fingerprint or _newest_fingerprint(outcomes)
    versions = _versions(outcomes, reference)
    if len(versions) > 1 and not mixed:
        raise UserError(_refusal(versions, manifests, store.root))
    suites = tuple(_results(manifest, reader, reference, mixed) for manifest in manifests)
    return Loaded(suites, integrity, tuple(versions), len(versions) > 1)


@uncollected()
def load_suite(
    store: Store, suite: str, fingerprint: str | None, metrics: tuple[Metric, ...] = METRICS, *, brief: bool = False
) -> SuiteResults:
    """Read one suite and no other record; records of another code version are stale. ``brief``: as of ``Reader``.

    Raises UserError where the suite was never run here or its manifest cannot be used.
    """
    reader = Reader(store, metrics, brief=brief)
    manifest = reader.require_manifest(suite)
    found = [reader.find(entry.run_id).outcome for entry in manifest.cells]
    reference = fingerprint or _newest_fingerprint(one for one in found if one is not None)
    return _results(manifest, reader, reference, mixed=False)


def make_cell(row: ResultRow, column: Column, runs: Sequence[Run], *, mixed: bool = False) -> Cell:
    """A cell with its state. Runs are averaged only if they share setting, flags and, unless ``mixed``, code version."""
    fresh = [run for run in runs if run.state == "ok"]
    stale = [run for run in runs if run.state == "stale"]
    used = [run for run in runs if run.outcome is not None] if mixed else fresh or stale
    kinds = {_kind(setup, mixed) for setup in {run.outcome.setup for run in used if run.outcome is not None}}
    state: CellState
    note = None
    if len(kinds) > 1:
        state, used = ("mixed" if fresh else "stale"), []
        note = f"{len(kinds)} different settings or versions of the code, which are not averaged; run the suite again"
    elif fresh or len({run.outcome.made_by for run in used if run.outcome}) > 1:
        state = "ok" if len(used) == len(runs) else "partial"
    elif stale:
        state = "stale"
    elif not runs:
        state = "unplanned"
    else:
        states = {run.state for run in runs}
        state = "failed" if "failed" in states else "unusable" if "broken" in states else "missing"
    return Cell(row, column, tuple(runs), tuple(used), state, note)


def _kind(setup: Setup, mixed: bool) -> tuple[object, ...]:
    flags = setup.flags
    code = None if mixed else setup.made_by
    return (setup.setting, code, setup.tasks, flags.leaking, flags.exemplars, flags.tiny, flags.random_backbone)


def _results(manifest: Manifest, reader: Reader, reference: str | None, mixed: bool) -> SuiteResults:
    rows, columns = tuple(manifest.rows), tuple(manifest.columns)
    planned: dict[tuple[str, str], list[Run]] = {(row.label, column.label): [] for row in rows for column in columns}
    row_of, column_of = {row.label: row for row in rows}, {column.label: column for column in columns}
    for entry in sorted(manifest.cells, key=lambda entry: (entry.order_seed, entry.train_seed)):
        found = _agreeing(entry, row_of[entry.row], column_of[entry.column], reader.find(entry.run_id))
        planned[entry.row, entry.column].append(_run(entry, found, reference))
    cells = {
        (row.label, column.label): make_cell(row, column, planned[row.label, column.label], mixed=mixed)
        for row in rows
        for column in columns
    }
    texts = (manifest.suite, manifest.heading, manifest.description, manifest.tiny)
    own_metrics = tuple(name for name in manifest.metrics if name in {metric.name for metric in reader.metrics})
    suite = SUITES.get(manifest.suite)
    label = manifest.reference if suite is None else suite.reference
    row = label if label in row_of else None
    shown = (reader.metrics, own_metrics, manifest.drawings, row)
    return SuiteResults(*texts, rows, columns, cells, reference, *shown, again=_again([manifest], reader.store.root))


def _agreeing(entry: PlannedRun, row: ResultRow, column: Column, found: StoredContent) -> StoredContent:
    """``found``, or the record left out where it is of another method, benchmark or seed than planned."""
    if found.outcome is None:
        return found
    spec, seeds = found.outcome.setup.spec, found.outcome.seeds
    for name, planned, recorded in (
        ("method", row.method, _named(spec.get("method"))),
        ("benchmark", column.benchmark, _named(spec.get("benchmark"))),
        ("order seed", entry.order_seed, seeds.get("order_seed")),
        ("training seed", entry.train_seed, seeds.get("train_seed")),
    ):
        if recorded is not None and recorded != planned:
            reason = (
                f"the manifest names it for {name} {planned!r}, but its record is of {recorded!r}; run the suite again"
            )
            return StoredContent(left_out=LeftOut(entry.run_id, reason, "misplaced"))
    return found


def _named(part: object) -> object:
    return part.get("name") if isinstance(part, dict) else None


def _run(entry: PlannedRun, found: StoredContent, reference: str | None) -> Run:
    def run(state: RunState, **facts: Any) -> Run:
        ids = (entry.run_id, entry.order_seed, entry.train_seed)
        return Run(*ids, state, recipe=entry.recipe, settings=entry.settings, **facts)

    if found.outcome is not None:
        is_current = reference in (None, found.outcome.fingerprint)
        if is_current and entry.plugins == found.outcome.plugins:
            return run("ok", outcome=found.outcome)
        problem = f"made by another version of the {'plugin' if is_current else 'code'}"
        return run("stale", outcome=found.outcome, problem=problem)
    if found.failure is not None:
        return run("failed", problem=str(found.failure.get("error") or "no reason given"), failure=found.failure)
    if found.left_out is not None:
        return run("broken", problem=found.left_out.reason)
    return run("missing", problem="not run yet")


def _newest_fingerprint(outcomes: Iterable[RunResult]) -> str | None:
    dated = [(one.finished, one.fingerprint) for one in outcomes]
    return max(dated)[1] if dated else None


def _versions(outcomes: Iterable[RunResult], reference: str | None) -> dict[str, list[RunResult]]:
    """Code version -> its outcomes: the reference first, then the one with most runs."""
    found: dict[str, list[RunResult]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.fingerprint, []).append(outcome)
    return dict(sorted(found.items(), key=lambda item: (item[0] != reference, -len(item[1]), item[0])))


def _version_text(fingerprint: str, outcomes: Sequence[RunResult]) -> str:
    revisions = sorted({str(outcome.git_revision or "") for outcome in outcomes} - {""})
    git = ", ".join(f"git {revision[:VERSION_DIGITS]}" for revision in revisions[:2]) or "git unknown"
    return f"{fingerprint[:VERSION_DIGITS]} ({git}, {len(outcomes)} run{'s' * (len(outcomes) != 1)})"


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _commands(manifests: Sequence[Manifest]) -> list[list[str]]:
    """The words of the commands that do all runs of some manifests: one for all cells that differ in ``CHOICES`` alone."""
    cells = [cell for manifest in manifests for cell in manifest.cells]
    if not all(cell.command for cell in cells):  # manifests of earlier versions
        tiny = ["--tiny"] if all(manifest.tiny for manifest in manifests) else []
        return [["run", *dict.fromkeys(run_argument(manifest.suite) for manifest in manifests), *tiny]]
    groups: dict[tuple[str, ...], dict[str, dict[str, None]]] = {}
    for cell in cells:
        words, chosen = list(cell.command), dict[str, str]()
        for option in CHOICES:
            if option in words:
                at = words.index(option)
                chosen[option] = words[at + 1]
                del words[at : at + 2]
        group = groups.setdefault(tuple(words), {})
        for option, value in chosen.items():
            group.setdefault(option, {})[value] = None
    return [
        [*words, *(word for option, values in group.items() for word in (option, ",".join(values)))]
        for words, group in groups.items()
    ]


def _again(manifests: Sequence[Manifest], root: Path) -> str:
    """The shell command that does all runs of some manifests."""
    return " && ".join(shell_command(*words, results=root) for words in _commands(manifests))


def _refusal(versions: Mapping[str, Sequence[RunResult]], manifests: Sequence[Manifest], root: Path) -> str:
    named = " ".join(manifest.suite for manifest in manifests)
    again = _again(manifests, root)
    said = _joined([_version_text(fingerprint, outcomes) for fingerprint, outcomes in versions.items()])
    return (
        f"the records of {named} come from {len(versions)} versions of the code: {said}; either run them again with one"
        f" version ({again}), or report them together, marked as mixed, with --mixed"
    )


def _mixed_warning(loaded: Loaded) -> str:
    outcomes = {outcome.run_id: outcome for results in loaded.suites for outcome in results.outcomes}
    versions = _versions(outcomes.values(), loaded.fingerprints[0])
    said = _joined([_version_text(fingerprint, found) for fingerprint, found in versions.items()])
    return (
        f"Mixed code, as was asked for: the runs come from {len(versions)} versions of the code: {said}; "
        f"cells that average several are marked and not ranked."
    )
