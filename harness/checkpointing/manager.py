"""When a run writes a checkpoint and when it stops, and the loading of a checkpoint's tensors into a method."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from smope_bench.harness.cancellation import Interrupted, LeaseLost
from smope_bench.harness.checkpointing.checkpoint import Checkpoint, Checkpoints
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.event_log import EVENTS, RunLog, events_in, lines_of
from smope_bench.harness.records.store import unwritable
from smope_bench.harness.run_options import RunContext
from smope_bench.methods.common.api import Method, TaskInfo

BUILT_IN_METHODS = "smope_bench.methods."
PAUSES_S = (0.1, 0.5, 2.0)
"""Pauses between attempts to read the run's lease: a file system that cannot be reached for a moment must not end a run."""


class CheckpointManager:
    """Writes the checkpoints of a run and raises ``Interrupted`` where the run has to stop."""

    def __init__(
        self,
        folder: Path,
        checkpoints: Checkpoints,
        log: RunLog,
        context: RunContext,
        every_s: float,
        device: str = "cpu",
        *,
        allow_device_change: bool = False,
    ) -> None:
        """``folder``: the run's folder; ``every_s``: seconds between two checkpoints inside a task; ``device``: its type.

        ``allow_device_change``: continue what another type of device began, from its last task boundary.
        """
        self._device, self._allow_device_change = device, allow_device_change
        self._folder = folder
        self._checkpoints = checkpoints
        self._log = log
        self._context = context
        self._every_s = every_s
        self._saved = time.monotonic()

    def load(self) -> Checkpoint | None:
        """The checkpoint to resume from, or None to start from the beginning. Raises UserError."""
        try:
            found = self._checkpoints.load()
        except OSError as error:
            raise UserError(
                f"a checkpoint of run {self._folder.name} in {str(self._folder)!r} cannot be read"
                f" ({error.strerror or type(error).__name__}) and was kept; run the same command once it can be, or delete the"
                " folder's checkpoint/ and the run starts anew"
            ) from error
        if found is None or found.device in ("", self._device):
            return found
        if not self._allow_device_change:
            used = ", ".join(dict.fromkeys(str(one.get("name")) for one in found.progress.devices)) or found.device
            raise UserError(
                f"run {self._folder.name} was begun on {found.device} ({used}) and its checkpoint, which was kept, is of that"
                f" device: continue with --device {found.device}, or add --allow-device-change, which continues on"
                f" {self._device} from the last finished task and marks the record"
            )
        return self._moved(found)

    def _moved(self, found: Checkpoint) -> Checkpoint | None:
        """``found`` at its last task boundary, for this type of device; None where no task was finished."""
        boundary = found.at_task_boundary()
        if boundary is None or not boundary.progress.tasks_done:
            return None
        boundary.progress.device_changes.append(
            {"from": found.device, "to": self._device, "task": boundary.progress.tasks_done}
        )
        return replace(boundary, plan={}, log=(self._log_size_after(boundary.progress.tasks_done), found.log[1]))

    def _log_size_after(self, tasks: int) -> int:
        """Bytes of the run's event log up to the end of its ``tasks``-th task."""
        size = evaluated = 0
        for line in lines_of(self._folder / EVENTS):
            if evaluated == tasks:
                break
            size += len(line.encode()) + 1
            evaluated += any(event.get("event") == "task_evaluated" for event in events_in([line]))
        return size

    def maybe_checkpoint(
        self, task: int, snapshot: Callable[[], Checkpoint], *, patience: float = 1.0
    ) -> tuple[bool, float]:
        """Write a checkpoint inside ``task`` if it is due or the run has to stop; (whether it was written, seconds taken).

        ``patience``: fraction of the usual interval after which a checkpoint is due. Raises Interrupted, LeaseLost, UserError.
        """
        must_stop, now = self._context.stop_request.is_set(), time.monotonic()
        if not must_stop and now - self._saved < patience * self._every_s:
            return False, 0.0
        is_saved = self._checkpoints.knows_start(task) and self.checkpoint(snapshot)
        self._saved = time.monotonic()
        self.raise_if_stopped()
        return is_saved, self._saved - now

    def checkpoint(self, snapshot: Callable[[], Checkpoint]) -> bool:
        """Write a checkpoint and return whether that succeeded: on a full disk the run logs the failure and continues."""
        self.require_lease()
        is_saved = True
        try:
            self._checkpoints.save(snapshot())
        except OSError as error:
            is_saved = False
            self._log.log("checkpoint_failed", reason=error.strerror or type(error).__name__)
        self._saved = time.monotonic()
        return is_saved

    def raise_if_stopped(self) -> None:
        """Raise Interrupted where a stop was requested."""
        if self._context.stop_request.is_set():
            raise Interrupted("the run was asked to stop; the same command goes on from its last checkpoint")

    def require_lease(self) -> None:
        """Raise LeaseLost where another process has taken over the run, UserError where that cannot be read.

        A process that was suspended must not write for a run whose lease was taken over meanwhile, and perhaps completed.
        """
        pauses = list(PAUSES_S)
        while True:
            try:
                is_ours = self._context.may_publish()
                break
            except OSError as error:
                if not pauses:
                    raise unwritable(self._folder.name, self._folder, error) from error
                time.sleep(pauses.pop(0))
        if not is_ours:
            raise LeaseLost("another process has taken this run over")


class UnfitError(Exception):
    """The tensors of an undamaged checkpoint do not fit the method as its hooks have built it: the work must be repeated."""


def fits(method: Method, tensors: Mapping[str, Tensor]) -> bool:
    """Whether ``tensors`` are exactly the method's parameters and buffers by name, shape and type."""
    own = {name: (tensor.shape, tensor.dtype) for name, tensor in method.state_dict().items()}
    return own == {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def load_exactly(method: Method, tensors: Mapping[str, Tensor]) -> None:
    """Load all parameters and buffers of the method. Raises UnfitError."""
    if not fits(method, tensors):
        raise UnfitError("the checkpoint's tensors are not those of the method")
    method.load_state_dict(dict(tensors))


def load_after(method: Method, tensors: Mapping[str, Tensor], tasks: Iterable[TaskInfo]) -> None:
    """``load_exactly`` after finished ``tasks``; where a method adds parameters task by task, its hooks add them first."""
    if not fits(method, tensors):
        for info in tasks:
            grow(method, info)
    load_exactly(method, tensors)


def grow(method: Method, info: TaskInfo) -> None:
    """Call the hooks of a task for the parameters that they add; values computed from untrained ones are replaced later.

    Raises UnfitError where a hook fails, as it may on a method whose earlier tasks it did not train. An error of the project's
    own code passes through.
    """
    try:
        with torch.no_grad():
            method.enter_task(info)
            method.begin_task(info)
            for phase in method.phases():
                method.begin_phase(phase)
    except Exception as error:
        is_ours = type(method).__module__.startswith(BUILT_IN_METHODS)
        if is_ours and isinstance(error, AttributeError | ImportError | NameError | TypeError):
            raise
        raise UnfitError(f"task {info.index} cannot be begun again") from error
