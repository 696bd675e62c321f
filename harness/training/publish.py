"""What a finished run publishes: its measurements, its costs, and where every number came from."""

from __future__ import annotations

from typing import Any

from torch import nn

from smope_bench.benchmarks.stream import Stream
from smope_bench.harness import provenance
from smope_bench.harness.checkpointing.checkpoint import Progress
from smope_bench.harness.records.checksum import RECORD_SCHEMA
from smope_bench.harness.run_spec import RunSpec


def make_record(
    spec: RunSpec,
    stream: Stream,
    progress: Progress,
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


def _total_seconds(progress: Progress) -> float:
    parts = ("train_s", "end_s", "evaluate_s")
    return sum(timing[part] for timing in progress.timings for part in parts)
