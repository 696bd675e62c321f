"""Tracking for TensorBoard: a folder of event files a run, with its curves, its settings and its final values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from smope_bench.harness.tracking.tracker import Point, TrackedRun, tracker


@tracker("tensorboard", library="tensorboard", look=lambda folder: f"tensorboard --logdir {folder}")
class TensorBoardEvents:
    """Writes event files for TensorBoard, a folder a run; settings and final values are on its page HPARAMS."""

    def __init__(self, run: TrackedRun, folder: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        place = folder / f"{re.sub(r'[^0-9A-Za-z.+-]+', '-', run.name).strip('-')}-{run.run_id}"
        for old in place.glob("events.out.tfevents.*"):  # TensorBoard joins all that a folder has
            old.unlink()
        self._run, self._writer = run, SummaryWriter(str(place))
        self._writer.add_text("run", f"{run.name}, suite {run.suite}", 0, run.started)
        self._writer.add_text("settings", f"```json\n{json.dumps(dict(run.settings), indent=1)}\n```", 0, run.started)

    def write(self, points: Sequence[Point]) -> None:
        """Append scalars with the wall times of the run."""
        for point in points:
            self._writer.add_scalar(point.name, point.value, point.step, self._run.started + point.seconds)
        self._writer.flush()

    def end(self, state: str, summary: Mapping[str, float]) -> None:
        """Write final values and settings, and close."""
        if summary:
            final = {f"final/{name}": value for name, value in summary.items()}
            self._writer.add_hparams(dict(self._run.settings), final, run_name=".")
        self._writer.add_text("state", state)
        self._writer.close()
