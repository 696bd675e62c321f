"""What figures draw beyond accuracies: the names that may be asked for, and the file in which a run keeps its answers.

A run's ``observations.npz`` holds, by name, an array (tasks, ...) of a state observation; an array (images, ...) of a batch
observation, with the images' labels in ``observed_labels`` (new labels, in order of arrival); and of ``validation_loss`` the
equally long ``validation_loss.task``, ``.phase``, ``.epoch`` and ``.loss``. Importing this module imports no torch.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.records.store import OBSERVATIONS, Record, Store, write_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays: TypeAlias = "dict[str, NDArray[Any]]"

LABELS = "observed_labels"
VALIDATION_LOSS = "validation_loss"
ENGINE_OBSERVES = (VALIDATION_LOSS,)
"""What the engine itself can observe of any method that trains in epochs."""


def require_observable(
    names: Iterable[str], offered: Iterable[str], *, method: str, asker: str, has_validation: bool
) -> None:
    """Raise UserError unless a run can answer to every name: ``offered`` is what the method lists under ``observes``."""
    own = tuple(offered)
    for name in names:
        if name not in (*own, *ENGINE_OBSERVES):
            hint = did_you_mean(name, (*own, *ENGINE_OBSERVES)) if own else "; leave that method out"
            raise UserError(f"{asker} observes {name!r}, which method {method!r} does not offer{hint}")
        if name == VALIDATION_LOSS and not has_validation:
            raise UserError(
                f"{asker} observes {name!r}, but no training images are held out to measure it on;"
                " use --set benchmark.holdout=0.2"
            )


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A compressed npz archive; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    import numpy as np  # planning needs none

    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
    return buffer.getvalue()


def npz_arrays(data: bytes) -> Arrays:
    """The arrays of an npz archive; nothing in it is executed."""
    import numpy as np  # planning needs none

    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return dict(stored)


def write_observations(folder: Path, names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any] | None:
    """Write a run's file and return what its record says of it; without names there is neither."""
    file = folder / OBSERVATIONS
    if not names:
        file.unlink(missing_ok=True)
        return None
    data = npz_bytes(arrays)
    write_bytes(file, data)
    return {"file": OBSERVATIONS, "sha256": hashlib.sha256(data).hexdigest(), "names": list(names)}


def read_observations(store: Store, run_id: str) -> Arrays:
    """What a finished run observed, by name as the module says. Raises UserError where it is absent or not as published."""
    record = store.load(run_id)
    if not isinstance(record, Record):
        why = "has no record" if record is None else f"cannot be used ({record.reason})"
        raise UserError(f"run {run_id} {why} in {str(store.root)!r}; run its suite")
    if not record.observes:
        raise UserError(f"run {run_id} was not asked to observe anything; run the suite that draws it")
    data = store.observations(record)
    if data is None:
        file = store.path(run_id) / OBSERVATIONS
        raise UserError(f"{str(file)!r} is missing or is not the file that its record names; run the suite again")
    return npz_arrays(data)
