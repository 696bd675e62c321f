"""The runs of a launch in the hands of trackers: planned runs, their events and their ends, as ``harness/tracking`` takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from smope_bench.harness.execution.monitoring.progress import run_label
from smope_bench.harness.execution.scheduler import RunStatus
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.metrics import open_metrics
from smope_bench.harness.run_options import RunOptions
from smope_bench.harness.tracking.follow import FOLDER, End, Notify, RunFacts, Tracking, TrackWriter
from smope_bench.harness.tracking.tracker import Tracker

OnUpdate = Callable[[PlannedRun, dict[str, Any]], None]
ENDS: dict[str, End] = {"done": "done", "skipped": "done", "failed": "failed"}
"""States of runs that are over; all others are stopped and go on later."""


class TrackedLaunch:
    """Tracks the runs of one launch into its results folder; without trackers it does nothing. A context manager around it."""

    def __init__(
        self, trackers: Sequence[Tracker], options: RunOptions, notify: Notify, trials_out: Path | None = None
    ) -> None:
        """``trials_out``: the folder to write to where the runs are trials of a search, which leave no records."""
        self._writer, self._facts = None, dict[str, RunFacts]()
        if trackers:
            store, metrics = Store(options.results), open_metrics(options.plugins)
            out, stays = trials_out or options.results / FOLDER, trials_out is None
            self._writer = TrackWriter(trackers, store, out, metrics, notify, options.plugins, has_records=stays)
        self._tracking = Tracking(self._writer)

    def __enter__(self) -> Self:
        self._tracking.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._tracking.__exit__(*error)

    def after(self, show: OnUpdate) -> OnUpdate:
        """``show``, after which trackers take notice of an event, too."""

        def update(run: PlannedRun, event: dict[str, Any]) -> None:
            show(run, event)
            self._tracking.update(self._of(run), event)

        return update if self._writer is not None else show

    def finish(self, status: RunStatus) -> None:
        """Take notice of a run's end."""
        if self._writer is not None:
            self._tracking.finish(self._of(status.planned), ENDS.get(status.state, "stopped"))

    def looks(self) -> list[str]:
        """Sentences that name the commands which show what was written."""
        return self._writer.looks() if self._writer is not None else []

    def _of(self, run: PlannedRun) -> RunFacts:
        if run.run_id not in self._facts:
            spec = run.spec.model_dump(mode="json")
            self._facts[run.run_id] = RunFacts(run.run_id, run_label(run), run.suite, spec)
        return self._facts[run.run_id]
