"""One trial of a hyper-parameter search: trained on what is not held out, scored on what is. Test images are out of reach."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass

from smope_bench.harness.execution.job import Job
from smope_bench.harness.hardware.device import pin_arithmetic
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.run_spec import RunSpec

RUNNER = "smope_bench.harness.tuning.trial:run_trial"


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent on the held-out training images; ``caa`` is None for methods that train on all tasks at once."""

    faa: float
    caa: float | None
    seconds: float


def held_out_scores(
    spec: RunSpec, options: RunOptions, registries: Registries, context: RunContext | None = None
) -> Scores:
    """Train ``spec``, whose benchmark holds images out, and score it on them.

    The stream is built without the benchmark's test images: neither the method nor the search can get at them. The results
    folder takes checkpoints, from which a killed trial resumes; nothing is left there at the end. Raises what training raises.
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
        Trainer(spec, options, context or RunContext(), registries, stream=stream) as session,
    ):
        try:
            session.run_tasks()
        except Exception:
            shutil.rmtree(session.folder, ignore_errors=True)
            raise
    shutil.rmtree(session.folder, ignore_errors=True)
    matrix = session.progress.matrix
    faa = final_average_accuracy(matrix)
    assert faa is not None
    return Scores(faa, cumulative_average_accuracy(matrix), time.monotonic() - started)


def run_trial(job: Job, options: RunOptions, context: RunContext) -> None:
    """The runner of trials: as a run's, but nothing is published; the scores are the last event."""
    pin_arithmetic(options.threads or 1)
    scores = held_out_scores(job.spec, options, open_registries(options.plugins), context)
    context.emit({"event": "run_finished", **asdict(scores)})
