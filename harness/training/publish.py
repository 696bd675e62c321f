"""Publication of a finished run: predictions, observations and the record with their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.torch import save

from smope_bench.benchmarks.stream import Stream
from smope_bench.harness import provenance
from smope_bench.harness.cancellation import LeaseLost
from smope_bench.harness.checkpointing.checkpoint import RunProgress
from smope_bench.harness.records.atomic_write import write_atomically
from smope_bench.harness.records.observations import npz_bytes, write_observations
from smope_bench.harness.records.record import MODEL, PREDICTIONS, RECORD, RECORD_SCHEMA
from smope_bench.harness.records.store import Store, unwritable
from smope_bench.harness.run_spec import RunSpec
from smope_bench.harness.training.kept_model import kept_tensors, task_entry
from smope_bench.harness.training.observer import Observer
from smope_bench.methods.common.api import Method
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from smope_bench.methods.common.vit.vit import PromptedViT


@dataclass(frozen=True)
class FinishedRun:
    """The values from which a record is made. ``started``: UTC time; ``flags``: warnings that accompany the run's results.

    ``method``: the trained method, which is kept beside the record; None keeps nothing. ``extendable``: with what only training
    needs, whatever its size.
    """

    spec: RunSpec
    stream: Stream
    progress: RunProgress
    backbone: PromptedViT
    device: str
    started: str
    flags: dict[str, bool | int]
    method: Method | None = None
    extendable: bool = False


def publish(store: Store, run: FinishedRun, observer: Observer, require_lease: Callable[[], None]) -> None:
    """Write predictions and observations, then the record, which marks the run as finished.

    ``require_lease`` is called right before the record is written and raises where another process has taken over the run.
    Raises LeaseLost where another process has published the run, UserError where the folder cannot be written.
    """
    run_id = run.spec.run_id
    folder = store.path(run_id)
    stages = {f"stage_{stage}": np.array(row, dtype=np.int32) for stage, row in enumerate(run.progress.predictions)}
    labels = np.concatenate([view.labels for view in run.stream.tests]).astype(np.int32)
    predictions = npz_bytes({"labels": labels, **stages})
    try:
        write_atomically(folder / PREDICTIONS, predictions, sync_name=False)
        observations = write_observations(folder, observer.names, observer.arrays())
        model = _write_model(store, run)
        record = make_record(run, hashlib.sha256(predictions).hexdigest(), observations, model)
        # Before the look at the lease: a record that appears afterwards is another process's.
        replace = (folder / RECORD).exists()
        require_lease()
        try:
            store.write_result(run_id, record, replace=replace)
        except FileExistsError as error:
            raise LeaseLost("another process has published this run") from error
    except OSError as error:
        raise unwritable(run_id, folder, error) from error


def _write_model(store: Store, run: FinishedRun) -> dict[str, Any] | None:
    """Write what predictions need of the trained method; returns the record's entry, or removes the file and returns None."""
    file = store.path(run.spec.run_id) / MODEL
    if run.method is None:
        file.unlink(missing_ok=True)
        return None
    data = save(kept_tensors(run.method, extendable=run.extendable))
    write_atomically(file, data, sync_name=False)
    tasks = [task_entry(task) for task in run.stream.tasks]
    return {
        "file": MODEL,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "tasks": tasks,
        "learned": run.progress.learned,
    }


def make_record(
    run: FinishedRun,
    predictions_sha256: str,
    observations: dict[str, Any] | None,
    model: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``result.json``; accuracies in percent, times in seconds, memory in MiB.

    ``observations``, ``model``: name, hash and content of the file with observations and with the model, None without one.
    """
    spec, stream, progress = run.spec, run.stream, run.progress
    return {
        "schema_version": RECORD_SCHEMA,
        "run_id": spec.run_id,
        "spec": spec.model_dump(mode="json"),
        "accuracy_matrix": progress.matrix,
        "test_counts": [len(view) for view in stream.tests],
        "predictions_sha256": predictions_sha256,
        "class_order": list(stream.class_order),
        "class_names": list(stream.class_names),
        **({"domains": list(stream.domains)} if stream.domains else {}),
        "split_hash": stream.split_hash,
        "timings": {"total_s": _total_seconds(progress), "tasks": progress.timings},
        "costs": _costs(progress, run.backbone),
        "provenance": provenance.collect(
            run.device,
            started=run.started,
            finished=provenance.now(),
            weights_sha256=spec.backbone.sha256,
            split_hash=stream.split_hash,
            **({"plugins": spec.sources} if spec.sources else {}),
        ),
        "devices": progress.devices,
        **({"device_changes": progress.device_changes} if progress.device_changes else {}),
        "flags": run.flags | ({"device_changed": True} if progress.device_changes else {}),
        **({"observations": observations} if observations else {}),
        **({"model": model} if model else {}),
    }


def _costs(progress: RunProgress, backbone: PromptedViT) -> dict[str, Any]:
    """Sizes, images and memory; the memory plan only where the run had to save memory."""
    costs = {
        "learnable_parameters": sum(progress.learned.values()),
        "backbone_parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "peak_memory_mb": round(progress.peak_memory_mb, 1),
        "memory_increase_mib": round(progress.memory_increase_mib, 1),
        "train_images": progress.train_images,
        "test_images": progress.test_images,
    }
    return costs if backbone.memory == MemoryPlan() else costs | {"memory_plan": backbone.memory.words}


def _total_seconds(progress: RunProgress) -> float:
    parts = ("train_s", "end_s", "evaluate_s")
    return sum(timing[part] for timing in progress.timings for part in parts)
