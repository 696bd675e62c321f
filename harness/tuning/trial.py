"""One trial of a hyper-parameter search, scored on held-out training images without access to test images."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from smope_bench.harness.execution.job import Job
from smope_bench.harness.hardware.device import pin_arithmetic
from smope_bench.harness.records.event_log import EVENTS
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.run_spec import RunSpec
from smope_bench.harness.tuning.study import TrialResult

RUNNER = "smope_bench.harness.tuning.trial:run_trial"


def held_out_scores(
    spec: RunSpec, options: RunOptions, registries: Registries, context: RunContext | None = None
) -> TrialResult:
    """Train ``spec``, whose benchmark holds out training images, and score it on them.

    The stream is built without test images. The results folder takes checkpoints, from which a killed trial
    is resumed; all but the event log is removed at the end. Raises the errors of the trainer.
    """
    import torch

    from smope_bench.benchmarks.stream import build_stream
    from smope_bench.harness.metrics import cumulative_average_accuracy, final_average_accuracy
    from smope_bench.harness.training.trainer import Trainer

    benchmark = registries.benchmarks.load(spec.benchmark.name)
    opened = benchmark(benchmark.Config(**spec.benchmark.config), options.data)
    stream = build_stream(opened, spec.order_seed, for_search=True)
    started = time.monotonic()
    with (
        torch.random.fork_rng(devices=[]),
        Trainer(spec, options, context or RunContext(), registries, stream=stream) as trainer,
    ):
        try:
            trainer.run_tasks()
        except Exception:
            _keep_log(trainer.folder)
            raise
    _keep_log(trainer.folder)
    matrix = trainer.progress.matrix
    return TrialResult(final_average_accuracy(matrix), cumulative_average_accuracy(matrix), time.monotonic() - started)


def _keep_log(folder: Path) -> None:
    """Remove all files of a trial but its event log, which trackers may still read."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.is_dir():
            shutil.rmtree(file, ignore_errors=True)
        elif file.name != EVENTS:
            file.unlink(missing_ok=True)


def run_trial(job: Job, options: RunOptions, context: RunContext) -> None:
    """The runner of trials: publishes no record; its last event has the scores."""
    pin_arithmetic(options.threads or 1)
    scores = held_out_scores(job.spec, options, open_registries(options.plugins), context)
    context.emit({"event": "run_finished", "faa": scores.faa, "caa": scores.caa, "seconds": scores.seconds})
