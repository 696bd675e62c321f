"""An extended run begins where its parent ended: with its trained tensors, which may have to grow, and its measurements."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors.torch import load
from torch import Tensor

from smope_bench.harness.checkpointing.checkpoint import RunProgress
from smope_bench.harness.checkpointing.manager import UnfitError, grow, load_exactly
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.observations import npz_arrays
from smope_bench.harness.records.record import MODEL, PREDICTIONS, Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_spec import Parent
from smope_bench.methods.common.api import Method, TaskInfo

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Inherited:
    """What a run takes over from its parent. ``progress`` has the rows of the whole accuracy matrix, None for later tasks."""

    tensors: Mapping[str, Tensor]
    progress: RunProgress

    def fresh_progress(self) -> RunProgress:
        """A copy, which grows while the run continues."""
        return deepcopy(self.progress)


def read_inherited(store: Store, parent: Parent, num_tasks: int) -> Inherited:
    """The verified state of a parent in a results folder; ``num_tasks``: of the whole stream. Raises UserError."""
    record = store.load(parent.run_id)
    if not isinstance(record, Record):
        raise UserError(f"run {parent.run_id}, which is extended, has no usable record in {str(store.root)!r}")
    folder, result = store.path(parent.run_id), record.result
    tensors = load(_verified(folder / MODEL, parent.state, parent.run_id))
    arrays = npz_arrays(_verified(folder / PREDICTIONS, str(result.get("predictions_sha256")), parent.run_id))
    later = [None] * (num_tasks - parent.tasks)
    costs = result["costs"]
    progress = RunProgress(
        matrix=[[*row, *later] for row in result["accuracy_matrix"]],
        predictions=[arrays[f"stage_{stage}"].tolist() for stage in range(parent.tasks)],
        timings=[dict(timing) for timing in result["timings"]["tasks"]],
        train_images=int(costs["train_images"]),
        test_images=int(costs["test_images"]),
        learned=dict((record.kept_model or {}).get("learned", {})),
        peak_memory_mb=float(costs["peak_memory_mb"]),
        memory_increase_mib=float(costs.get("memory_increase_mib", 0.0)),  # older records have none
    )
    return Inherited(tensors, progress)


def _verified(file: Path, sha256: str, run_id: str) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"{str(file)!r} of run {run_id}, which is extended, cannot be read ({error.strerror})"
        ) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{str(file)!r} of run {run_id}, which is extended, has changed since the run was planned")
    return data


def take_over(method: Method, tensors: Mapping[str, Tensor], tasks: Sequence[TaskInfo]) -> None:
    """Put a method that was made for more tasks into the state in which ``tensors`` were kept after ``tasks``.

    Tensors that are larger than the kept ones begin with them; the rest stays as the method was made. Where a method adds
    parameters task by task, its hooks add them first. Raises UnfitError.
    """
    if not tensors.keys() <= method.state_dict().keys():
        for info in tasks:
            grow(method, info)
    state = method.state_dict()
    kept, own = ({name: tuple(tensor.shape) for name, tensor in each.items()} for each in (tensors, state))
    setup, learnt = method.setup, Sizes(tasks[-1].seen_classes, len(tasks))
    if fault := growth_fault(type(method), kept, own, learnt, Sizes(setup.num_classes, setup.num_tasks)):
        raise UnfitError(fault)
    grown = {name: tensor.clone() for name, tensor in state.items()}
    for name, tensor in tensors.items():
        grown[name][tuple(slice(size) for size in tensor.shape)] = tensor.to(grown[name].device)
    load_exactly(method, grown)


@dataclass(frozen=True)
class Sizes:
    """Numbers that tensors of a method may be sized by."""

    classes: int
    tasks: int


def growth_fault(
    method: type[Method], kept: Mapping[str, Shape], grown: Mapping[str, Shape], old: Sizes, new: Sizes
) -> str:
    """Why tensors of the shapes ``kept`` cannot become those of ``grown``, or nothing.

    An axis may grow from an entry a class to more classes and, in ``Method.grows_with_tasks``, from an entry a task to more tasks.
    Names that only ``grown`` has are new.
    """
    for name, shape in kept.items():
        target = grown.get(name)
        per_task = any(fnmatchcase(name, pattern) for pattern in method.grows_with_tasks)
        growing = {(old.classes, new.classes), *([(old.tasks, new.tasks)] if per_task else [])}
        if target is None or len(target) != len(shape):
            return f"it has no tensor {name!r} of {len(shape)} axes any more"
        if not all(pair[0] == pair[1] or pair in growing for pair in zip(shape, target, strict=True)):
            return (
                f"its tensor {name!r} of shape {shape} would have to become {target}; a method whose tensors have an entry a"
                " task along an axis names them in Method.grows_with_tasks"
            )
    return ""
