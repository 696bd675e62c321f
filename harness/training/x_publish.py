"""The last act of a run: its files in their order, the record last."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from smope_bench.harness.errors import UserError
from smope_bench.harness.records.observations import npz_bytes, write_observations
from smope_bench.harness.records.store import PREDICTIONS, write_bytes
from smope_bench.harness.training.publish import make_record
from smope_bench.methods.common.backbone.memory_plan import MemoryPlan

if TYPE_CHECKING:
    from smope_bench.harness.training.trainer import Session


def publish(session: Session, started: str) -> None:
    """Write predictions and observations of a finished run, and the record that has their hashes. Raises UserError, ClaimLost."""
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


def unwritable(run_id: str, folder: Path, error: OSError) -> UserError:
    """What a run ends with that cannot leave its results."""
    return UserError(
        f"run {run_id} cannot be written to {str(folder)!r} ({error.strerror or type(error).__name__}); make room there or"
        " name another folder with --results DIR, then run the same command: it goes on from its last checkpoint"
    )
