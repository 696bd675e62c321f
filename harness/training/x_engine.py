"""The only train/evaluate loop of the project: one method through one benchmark's task stream, published as one record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from smope_bench.harness import provenance
from smope_bench.harness.checkpointing.random_state import seed_everything
from smope_bench.harness.records.event_log import OnEvent
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import RunSpec
from smope_bench.harness.training.trainer import Session
from smope_bench.harness.training.x_parts import load_backbone, open_stream
from smope_bench.harness.x_interruption import Interruption

__all__ = ["OnEvent", "Session", "load_backbone", "open_stream", "run", "seed_everything"]


def run(
    spec: RunSpec,
    *,
    results_root: Path,
    data_root: Path,
    device: str,
    registries: Registries,
    on_event: OnEvent = lambda _: None,
    observe: Iterable[str] = (),
    interruption: Interruption | None = None,
    checkpoint_every_s: float = 300.0,
    may_publish: Callable[[], bool] = lambda: True,
) -> None:
    """Train and evaluate ``spec`` and publish its record; continue where an earlier attempt of this code stopped.

    ``observe`` names what figures need of the run beside accuracies; it changes no number. The data must be prepared.
    Checkpoints are written after every task, and inside a task every ``checkpoint_every_s`` seconds; ``interruption`` is looked
    at after every step. ``may_publish`` is asked before anything is written that another process could have written meanwhile.

    Raises Interrupted once the run is saved, ClaimLost where it is another's, RunDivergedError when a loss stops being finite,
    OutOfMemoryRun, UserError where the method cannot be observed so or the results folder cannot be written, and the rooms'
    own errors.
    """
    started = provenance.now()
    with (
        torch.random.fork_rng(devices=[]),
        Session(
            spec,
            results_root,
            data_root,
            device,
            registries,
            on_event,
            observe=observe,
            interruption=interruption,
            checkpoint_every_s=checkpoint_every_s,
            may_publish=may_publish,
        ) as session,
    ):
        session.run_tasks()
        session.publish(started)
