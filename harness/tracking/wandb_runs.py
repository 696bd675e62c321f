"""Tracking with Weights & Biases. Where it goes (server, project, offline) is decided by the library's own variables."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from smope_bench.harness.tracking.tracker import Point, TrackedRun, tracker


def _sync(folder: str) -> str:
    return f"wandb sync {folder}/wandb/offline-run-*" if os.environ.get("WANDB_MODE") == "offline" else ""


def _no_login() -> str:
    import wandb

    # In a terminal the library would ask for it in the middle of the sweep.
    if "prompt" not in inspect.signature(wandb.login).parameters:
        return "this wandb is too old; get a later one with: pip install 'wandb>=0.30'"
    if os.environ.get("WANDB_MODE", "online") != "online" or wandb.login(prompt=False, verify=False):
        return ""
    return "you are not logged in; do it with: wandb login, or set WANDB_MODE=offline to keep the runs here"


@tracker(
    "wandb",
    library="wandb",
    look=_sync,
    check=_no_login,
    environment={"WANDB_ERROR_REPORTING": "false"},
)
class WandbRuns:
    """Sends runs to Weights & Biases, or keeps them for it where WANDB_MODE is offline."""

    def __init__(self, run: TrackedRun, folder: Path) -> None:
        import wandb

        for old in folder.glob(f"wandb/offline-run-*-{run.run_id}"):  # the run is written from its beginning
            shutil.rmtree(old)
        # Without ``resume`` a run of the same id is written anew. Nothing of this machine is sent.
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "smope-bench"),
            id=run.run_id,
            name=run.name,
            group=run.suite,
            config=dict(run.settings),
            dir=folder,
            reinit="create_new",
            settings=settings,
        )
        for axis, names in (("epoch", "loss/*"), ("task", "accuracy/*"), ("task", "time/*")):
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(names, step_metric=axis)

    def write(self, points: Sequence[Point]) -> None:
        """Log the points, those of one step together."""
        for (axis, step), group in groupby(points, lambda point: (point.axis, point.step)):
            self._run.log({axis: step, **{point.name: point.value for point in group}})

    def end(self, state: str, summary: Mapping[str, float]) -> None:
        """Set the final values and close the run."""
        self._run.summary.update({"state": state, **{f"final/{name}": value for name, value in summary.items()}})
        self._run.finish(exit_code=0 if state == "done" else 1)
