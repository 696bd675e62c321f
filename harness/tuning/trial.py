"""One trial of a hyper-parameter search, scored on held-out training images without access to test images."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smope_bench.harness.execution.job import Emit, Job, WorkerOptions
from smope_bench.harness.hardware.device import pin_arithmetic
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.harness.run_spec import RunSpec
from smope_bench.harness.tuning.study import TrialResult

RUNNER = "smope_bench.harness.tuning.trial:run_trial"


def held_out_scores(
    spec: RunSpec,
    *,
    work: Path,
    data: Path,
    device: str,
    registries: Registries,
    on_event: Callable[[dict[str, Any]], None] = lambda _: None,
) -> TrialResult:
    """Train ``spec``, whose benchmark holds out training images, and score it on them.

    The stream is built without test images. ``work``: folder of checkpoints, from which a killed trial is resumed; they are
    removed at the end. Raises the errors of the trainer.
    """
    import torch

    from smope_bench.benchmarks.stream import build_stream
    from smope_bench.harness.metrics import cumulative_average_accuracy, final_average_accuracy
    from smope_bench.harness.training.trainer import Trainer

    benchmark = registries.benchmarks.load(spec.benchmark.name)
    opened = benchmark(benchmark.Config(**spec.benchmark.config), data)
    stream = build_stream(opened, spec.order_seed, for_search=True)
    started = time.monotonic()
    with (
        torch.random.fork_rng(devices=[]),
        Trainer(spec, work, data, device, registries, on_event, stream=stream) as trainer,
    ):
        try:
            trainer.run_tasks()
        except Exception:
            shutil.rmtree(trainer.folder, ignore_errors=True)
            raise
    shutil.rmtree(trainer.folder, ignore_errors=True)
    matrix = trainer.progress.matrix
    return TrialResult(final_average_accuracy(matrix), cumulative_average_accuracy(matrix), time.monotonic() - started)


def run_trial(job: Job, options: WorkerOptions, emit: Emit) -> None:
    """The runner of trials: publishes no record; its last event has the scores."""
    pin_arithmetic(options.threads)
    scores = held_out_scores(
        job.spec,
        work=options.results,
        data=options.data,
        device=options.device,
        registries=open_registries(options.plugins),
        on_event=emit,
    )
    emit({"event": "run_finished", "faa": scores.faa, "caa": scores.caa, "seconds": scores.seconds})
