"""Observations of runs, which figures draw: their names and the file ``observations.npz`` that stores them. Imports no torch.

The file has, by name: an array (tasks, ...) for an observation of the method's state; an array (images, ...) for one of single
images, whose labels, numbered in order of arrival, are in ``observed_labels``; for ``validation_loss`` the equally long
arrays ``validation_loss.task``, ``.phase``, ``.epoch`` and ``.loss``; and for ``prompt_mass`` the equally long arrays
``prompt_mass.tasks_done``, 0 before any training, ``.block``, from 0, and ``.share``, of attention, from 0 to 1.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.records.atomic_write import write_atomically
from smope_bench.harness.records.record import OBSERVATIONS, Record
from smope_bench.harness.records.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays: TypeAlias = "dict[str, NDArray[Any]]"

LABELS = "observed_labels"
VALIDATION_LOSS = "validation_loss"
PROMPT_MASS = "prompt_mass"
ENGINE_OBSERVES = (VALIDATION_LOSS, PROMPT_MASS)
"""Observations that the harness makes itself: of any method that trains in epochs, and of any method with prompts."""


def require_observable(
    names: Iterable[str], offered: Iterable[str], *, method: str, asker: str, has_validation: bool
) -> None:
    """Raise UserError unless all ``names`` can be observed; ``offered``: what the method lists in ``observes``."""
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
    """The arrays of an npz archive, read without pickle."""
    import numpy as np  # planning needs none

    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return dict(stored)


def write_observations(folder: Path, names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any] | None:
    """Write a run's observations; returns the record's entry of the file, or removes the file and returns None without names."""
    file = folder / OBSERVATIONS
    if not names:
        file.unlink(missing_ok=True)
        return None
    data = npz_bytes(arrays)
    write_atomically(file, data)
    return {"file": OBSERVATIONS, "sha256": hashlib.sha256(data).hexdigest(), "names": list(names)}


def read_observations(store: Store, run_id: str) -> Arrays:
    """The observations of a finished run. Raises UserError where there are none or the file is not the published one."""
    record = store.load(run_id)
    if not isinstance(record, Record):
        why = "has no record" if record is None else f"cannot be used ({record.reason})"
        raise UserError(f"run {run_id} {why} in {str(store.root)!r}; {store.remedy(run_id)}")
    if not record.observes:
        raise UserError(f"run {run_id} was not asked to observe anything; run the suite that draws it")
    data = store.observations(record)
    if data is None:
        file = store.path(run_id) / OBSERVATIONS
        raise UserError(f"{str(file)!r} is missing or is not the file that its record names; {store.remedy(run_id)}")
    return npz_arrays(data)
