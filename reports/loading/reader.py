"""Reads each record and manifest of a results folder at most once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smope_bench.harness.errors import UserError
from smope_bench.harness.metrics import METRICS, Metric
from smope_bench.harness.planning.suites.find import run_argument
from smope_bench.harness.records.record import Broken, Record
from smope_bench.harness.records.store import Derived, Store
from smope_bench.harness.text import shell_command
from smope_bench.reports.loading.manifest import (
    Manifest,
    check_manifest,
    manifest_names,
)
from smope_bench.reports.loading.run_result import (
    Content,
    Kind,
    LeftOut,
    RunResult,
    Setup,
    derive,
    derived_by,
    read_outcome,
    setup_of,
)


@dataclass(frozen=True)
class StoredContent:
    """Content of the store for one run id: a result, an unusable record, a failure, or nothing."""

    outcome: RunResult | None = None
    left_out: LeftOut | None = None
    failure: Mapping[str, Any] | None = None


class Reader:
    """Reads one results folder for one report and keeps what it has read. Its results compute ``metrics``.

    ``brief``: of the records only what tables compare is kept; the rest is read when it is asked for.
    """

    def __init__(self, store: Store, metrics: tuple[Metric, ...] = METRICS, *, brief: bool = False) -> None:
        self.store = store
        self.metrics = metrics
        self._brief = brief
        self._setups: dict[int, tuple[object, Setup]] = {}
        self._last: Content | None = None
        self._found: dict[str, StoredContent] = {}
        self._manifests: dict[str, Manifest | str | None] = {}

    def find(self, run_id: str) -> StoredContent:
        """The content for a run id."""
        found = self._found.get(run_id)
        if found is None:
            found = self._found[run_id] = self._read(run_id)
        return found

    def suites(self) -> list[str]:
        """The suites that have a manifest, usable or not."""
        return manifest_names(self.store)

    def manifest(self, suite: str) -> Manifest | str | None:
        """The result of ``check_manifest``, read once."""
        if suite not in self._manifests:
            self._manifests[suite] = check_manifest(self.store, suite)
        return self._manifests[suite]

    def require_manifest(self, suite: str) -> Manifest:
        """The manifest of a suite. Raises UserError where it was never run here or its manifest cannot be used."""
        root, found = self.store.root, self.manifest(suite)
        if found is None:
            raise UserError(
                f"nothing was run for suite {suite!r} in {str(root)!r}; run: "
                + shell_command("run", run_argument(suite), results=root)
            )
        if isinstance(found, str):
            self.store.read_manifest(suite)  # raises where the file may be sound and cannot be read
            raise UserError(
                f"the manifest of suite {suite!r} in {str(root)!r} {found}; "
                f"delete {str(root / 'suites' / f'{suite}.json')!r} and run the suite again to write it anew, "
                "finished runs are kept"
            )
        return found

    def _read(self, run_id: str) -> StoredContent:
        record = self.store.derived(run_id, derived_by(), derive) if self._brief else self.store.load(run_id)
        if isinstance(record, Derived):
            return StoredContent(
                RunResult.recalled(run_id, self._setup(record.alike), record.own, self.metrics, self._content)
            )
        if record is None:
            return self._unpublished(run_id)
        if isinstance(record, Broken):
            reason = record.reason.replace(f"{self.store.root}{os.sep}", "")
            return StoredContent(left_out=LeftOut(run_id, reason, record.fault))
        outcome = read_outcome(run_id, record.result, self.metrics)
        return StoredContent(left_out=outcome) if isinstance(outcome, LeftOut) else StoredContent(outcome)

    def _setup(self, alike: Any) -> Setup:
        """One object for all runs of which the store has one ``alike``."""
        if id(alike) not in self._setups:
            self._setups[id(alike)] = alike, setup_of(alike)
        return self._setups[id(alike)][1]

    def _content(self, run_id: str) -> Content:
        """The content of a record that could be used a moment ago; that of the last one is kept."""
        if self._last is None or self._last.run_id != run_id:
            record = self.store.load(run_id)
            outcome = read_outcome(run_id, record.result) if isinstance(record, Record) else None
            if not isinstance(outcome, RunResult):
                raise UserError(
                    f"the record of {run_id} was changed or removed while it was read; call the command again"
                )
            self._last = outcome.content
        return self._last

    def _unpublished(self, run_id: str) -> StoredContent:
        if (self.store.path(run_id) / "result.json").is_symlink():
            return _left_out(run_id, "is a link that leads nowhere", "unreadable")
        return StoredContent(failure=self._failure(run_id))

    def _failure(self, run_id: str) -> Mapping[str, Any] | None:
        """The failure of a run, in characters that can be written to a file."""
        try:
            found = self.store.failure(run_id)
            return json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace"))
        except RecursionError:
            return {"error": "failure.json is nested too deeply to be read"}


def _left_out(run_id: str, reason: str, kind: Kind) -> StoredContent:
    return StoredContent(left_out=LeftOut(run_id, f"the record of {run_id} {reason}", kind))
