"""What a finished run publishes: its measurements, its costs, and where every number came from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from smope_bench.benchmarks.stream import Stream
from smope_bench.harness import provenance
from smope_bench.harness.checkpointing.checkpoint import RunProgress
from smope_bench.harness.records.checksum import RECORD_SCHEMA
from smope_bench.harness.records.observations import npz_bytes, write_observations
from smope_bench.harness.records.store import PREDICTIONS, unwritable, write_bytes
from smope_bench.harness.run_spec import RunSpec
from smope_bench.methods.common.backbone.memory_plan import MemoryPlan

if TYPE_CHECKING:
    from smope_bench.harness.training.trainer import Trainer


def make_record(
    spec: RunSpec,
    stream: Stream,
    progress: RunProgress,
    backbone: nn.Module,
    device: str,
    started: str,
    flags: dict[str, bool],
    predictions_sha256: str,
    observations: dict[str, Any] | None = None,
    memory_plan: str | None = None,
) -> dict[str, Any]:
    """The content of ``result.json``; accuracies in percent, times in seconds, memory in MiB.

    ``observations`` says which file holds what was observed beside them; a run that observed nothing has no such entry.
    ``memory_plan``: how the backbone spent memory, where it was short.
    """
    return {
        "schema_version": RECORD_SCHEMA,
        "run_id": spec.run_id,
        "spec": spec.model_dump(mode="json"),
        "accuracy_matrix": progress.matrix,
        "test_counts": [len(view) for view in stream.tests],
        "predictions_sha256": predictions_sha256,
        "class_order": list(stream.class_order),
        "class_names": list(stream.class_names),
        "split_hash": stream.split_hash,
        "timings": {"total_s": _total_seconds(progress), "tasks": progress.timings},
        "costs": {
            "learnable_parameters": sum(progress.learned.values()),
            "backbone_parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            "peak_memory_mb": round(progress.peak_memory_mb, 1),
            "train_images": progress.train_images,
            "test_images": progress.test_images,
            **({"memory_plan": memory_plan} if memory_plan else {}),
        },
        "provenance": provenance.collect(
            device,
            started=started,
            finished=provenance.now(),
            weights_sha256=spec.backbone.sha256,
            split_hash=stream.split_hash,
            **({"plugins": spec.sources} if spec.sources else {}),
        ),
        "flags": flags,
        **({"observations": observations} if observations else {}),
    }


def _total_seconds(progress: RunProgress) -> float:
    parts = ("train_s", "end_s", "evaluate_s")
    return sum(timing[part] for timing in progress.timings for part in parts)


def publish(session: Trainer, started: str) -> None:
    """Write predictions and observations of a finished run, and the record that has their hashes. Raises UserError, LeaseLost."""
    spec, progress, stream, observer = session.spec, session.progress, session.stream, session.observer
    stages = {f"stage_{stage}": np.array(row, dtype=np.int32) for stage, row in enumerate(progress.predictions)}
    labels = np.concatenate([view.labels for view in stream.tests]).astype(np.int32)
    predictions = npz_bytes({"labels": labels, **stages})
    digest, device, memory = hashlib.sha256(predictions).hexdigest(), str(session.device), session.backbone.memory
    plan = None if memory == MemoryPlan() else memory.words
    try:
        write_bytes(session.folder / PREDICTIONS, predictions)
        observed = write_observations(session.folder, observer.names, observer.arrays())
        record = make_record(
            spec, stream, progress, session.backbone, device, started, session.flags, digest, observed, plan
        )
        session.keeper.require_ours()
        session.store.write_result(spec.run_id, record)
    except OSError as error:
        raise unwritable(spec.run_id, session.folder, error) from error
