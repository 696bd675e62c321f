"""Tracking with MLflow: an experiment a suite, in the user's MLFLOW_TRACKING_URI or in a database in the folder."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from smope_bench.harness.tracking.tracker import Point, TrackedRun, tracker

TAG = "smope-bench run"
MOST_METRICS, MOST_SETTINGS, LONGEST = 1000, 100, 500
"""Limits of one request to the library's server, and of a setting's text."""
T = TypeVar("T")
STATES = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


def _ui(folder: str) -> str:
    server = os.environ.get("MLFLOW_TRACKING_URI")
    return f"mlflow ui --backend-store-uri {shlex.quote(server) if server else f'sqlite:///{folder}/mlflow.db'}"


@tracker(
    "mlflow",
    library="mlflow",
    look=_ui,
    environment={"MLFLOW_DISABLE_TELEMETRY": "true"},
)
class MlflowRuns:
    """Sends runs to MLflow: to MLFLOW_TRACKING_URI, or into a SQLite file."""

    def __init__(self, run: TrackedRun, folder: Path) -> None:
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute()}/mlflow.db"
        self._run, self._client = run, MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(run.suite)
        experiment = (
            known.experiment_id
            if known is not None
            else self._client.create_experiment(run.suite, (folder.absolute() / "artifacts").as_uri())
        )
        for old in self._client.search_runs([experiment], f"tags.`{TAG}` = '{run.run_id}'"):
            self._client.delete_run(old.info.run_id)
        made = self._client.create_run(experiment, self._at(0.0), {TAG: run.run_id}, run.name)
        self._id = made.info.run_id
        for some in _parts(run.settings.items(), MOST_SETTINGS):
            self._client.log_batch(self._id, params=[Param(name, str(value)[:LONGEST]) for name, value in some])

    def write(self, points: Sequence[Point]) -> None:
        """Log the points with the wall times of the run."""
        self._log((point.name, point.value, self._at(point.seconds), point.step) for point in points)

    def end(self, state: str, summary: Mapping[str, float]) -> None:
        """Log the final values and close the run."""
        at = self._at(summary.get("total_s", 0.0))
        self._log((f"final/{name}", value, at, 0) for name, value in summary.items())
        self._client.set_terminated(self._id, STATES[state], at)

    def _log(self, values: Iterable[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        for some in _parts(values, MOST_METRICS):
            metrics = [Metric(re.sub(r"[^\w. /-]", "-", name), value, at, step) for name, value, at, step in some]
            self._client.log_batch(self._id, metrics=metrics)

    def _at(self, seconds: float) -> int:
        return round(1000 * (self._run.started + seconds))


def _parts(values: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(values)
    while part := list(islice(left, size)):
        yield part
