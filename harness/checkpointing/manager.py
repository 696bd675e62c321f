"""When a run writes a checkpoint, and when it stops: by time, and on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from smope_bench.harness.cancellation import Interrupted, LeaseLost
from smope_bench.harness.checkpointing.checkpoint import Checkpoint, Checkpoints
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.event_log import RunLog
from smope_bench.harness.records.store import unwritable
from smope_bench.harness.run_options import RunContext
from smope_bench.methods.common.api import Method, TaskInfo

PAUSES_S = (0.1, 0.5, 2.0)
"""Seconds between attempts to read the lease: a file system that is away for a moment ends no run."""


class CheckpointManager:
    """Keeps a run: it saves what it is given, and raises ``Interrupted`` where the run was asked to stop."""

    def __init__(
        self,
        folder: Path,
        checkpoints: Checkpoints,
        log: RunLog,
        context: RunContext,
        every_s: float,
    ) -> None:
        """``folder``: the run's; ``every_s``: seconds between two checkpoints inside a task."""
        self._folder = folder
        self._checkpoints = checkpoints
        self._log = log
        self._context = context
        self._every_s = every_s
        self._saved = time.monotonic()

    def load(self) -> Checkpoint | None:
        """What the run goes on from; ``None`` where it begins. Raises UserError."""
        try:
            return self._checkpoints.load()
        except OSError as error:
            raise UserError(
                f"a checkpoint of run {self._folder.name} in {str(self._folder)!r} cannot be read"
                f" ({error.strerror or type(error).__name__}) and was kept; run the same command once it can be, or delete the"
                " folder's checkpoint/ and the run starts anew"
            ) from error

    def point(self, task: int, make: Callable[[], Checkpoint], *, patience: float = 1.0) -> tuple[bool, float]:
        """A place inside ``task`` that a run can go on from: save if it is time or if the run must stop.

        ``patience``: part of the usual time between checkpoints. Returns whether a checkpoint was written, and the seconds
        that went by. Raises Interrupted, LeaseLost, UserError.
        """
        asked, now = self._context.stop_request.is_set(), time.monotonic()
        if not asked and now - self._saved < patience * self._every_s:
            return False, 0.0
        is_saved = self._checkpoints.knows_start(task) and self.save(make)
        self._saved = time.monotonic()
        self.stop_if_asked()
        return is_saved, self._saved - now

    def save(self, make: Callable[[], Checkpoint]) -> bool:
        """Write a checkpoint; whether it was. Where there is no room for it the run goes on, and says so."""
        self.require_ours()
        is_saved = True
        try:
            self._checkpoints.save(make())
        except OSError as error:
            is_saved = False
            self._log.log("checkpoint_failed", reason=error.strerror or type(error).__name__)
        self._saved = time.monotonic()
        return is_saved

    def stop_if_asked(self) -> None:
        """Raise Interrupted where somebody asked to stop."""
        if self._context.stop_request.is_set():
            raise Interrupted("the run was asked to stop; the same command goes on from its last checkpoint")

    def require_ours(self) -> None:
        """Raise LeaseLost where another process has taken the run over, UserError where that cannot be seen."""
        if not self._is_ours():
            raise LeaseLost("another process has taken this run over")

    def _is_ours(self) -> bool:
        for pause_s in PAUSES_S:
            try:
                return self._context.may_publish()
            except OSError:
                time.sleep(pause_s)
        try:
            return self._context.may_publish()
        except OSError as error:
            raise unwritable(self._folder.name, self._folder, error) from error


class UnfitError(Exception):
    """A whole checkpoint that is not of this method as its hooks have made it: the work must be done again."""


def fits(method: Method, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the method has just these parameters and buffers, of the same shapes and types."""
    own = {name: (tensor.shape, tensor.dtype) for name, tensor in method.state_dict().items()}
    return own == {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def load_exactly(method: Method, tensors: Mapping[str, Tensor]) -> None:
    """Give the method all of its parameters and buffers. Raises UnfitError."""
    if not fits(method, tensors):
        raise UnfitError("the checkpoint's tensors are not those of the method")
    method.load_state_dict(dict(tensors))


def load_after(method: Method, tensors: Mapping[str, Tensor], tasks: Iterable[TaskInfo]) -> None:
    """``load_exactly`` after ``tasks``: a method that adds parameters as tasks arrive is first told of them. Raises UnfitError."""
    if not fits(method, tensors):
        for info in tasks:
            _grow(method, info)
    load_exactly(method, tensors)


def _grow(method: Method, info: TaskInfo) -> None:
    """The hooks of a task, for the parameters that they add; what they make of untrained ones is replaced afterwards."""
    try:
        with torch.no_grad():
            method.enter_task(info)
            method.begin_task(info)
            for phase in method.phases():
                method.begin_phase(phase)
    except Exception as error:
        raise UnfitError(f"task {info.index} cannot be begun again") from error
