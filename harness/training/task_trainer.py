"""Training of one task in phases, epochs and steps, from its start or from a position inside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smope_bench.benchmarks.stream import Task
from smope_bench.harness.checkpointing.checkpoint import Checkpoint, Position
from smope_bench.harness.checkpointing.manager import CheckpointManager, UnfitError, load_exactly
from smope_bench.harness.checkpointing.random_state import random_state, restore_random_state
from smope_bench.harness.records.event_log import RunLog
from smope_bench.harness.training.batches.data import TaskData
from smope_bench.harness.training.observer import Observer
from smope_bench.harness.training.optimization import (
    LossMeter,
    OptimizationSegment,
    declare_trainable,
    declared_sizes,
    require_finite,
    segment_epochs,
)
from smope_bench.methods.common.api import Batch, Method, Phase, TaskInfo
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.schedules import Schedule

TRAINED_PATIENCE = 0.1
"""Patience at the end of a task's training. ``end_task`` cannot be resumed inside, so a checkpoint before it is due earlier."""

OPTIMIZER = "optimizer"

Snapshot = Callable[[Position, dict[str, Tensor], dict[str, Any]], Checkpoint]
"""Makes a checkpoint of a position, the tensors of its training and their plain numbers."""


@dataclass(frozen=True)
class TrainingContext:
    """Shared dependencies of task training, the same for all tasks of a run."""

    method: Method
    schedule: Schedule
    device: torch.device
    observer: Observer
    log: RunLog
    checkpoints: CheckpointManager
    snapshot: Snapshot
    learned: dict[str, int]
    """Name and size of every parameter trained in any phase; filled by the training."""
    num_tasks: int


def task_info(task: Task) -> TaskInfo:
    """What a method may know of a task: its index, its classes and their numbers of training images."""
    counts = np.bincount(task.train.labels, minlength=task.classes.stop)[task.classes.start :]
    return TaskInfo(task.index, task.classes, tuple(int(count) for count in counts))


class TaskTrainer:
    """Trains one task, up to ``end_task``."""

    def __init__(self, task: Task, data: TaskData, context: TrainingContext, found: Checkpoint | None = None) -> None:
        """``found``: checkpoint inside the task; the method's tensors must still be those of the start of the task."""
        self._task = task
        self._data = data
        self._context = context
        self._method = context.method
        self._found = found
        self._start = found.position if found is not None and found.position is not None else Position()
        self._steps = data.steps(drop_last=context.schedule.drop_last)
        self._spent, self._since = self._start.train_s, time.monotonic()
        self.is_saved = False
        """Whether a checkpoint has all of the training, so that stopping in what follows loses none of it."""
        # Batches made by the method may depend on all earlier steps of the epoch: such an epoch is repeated from its start.
        self._repeats_epochs = type(context.method).epoch_batches is not Method.epoch_batches

    def run(self) -> float:
        """Train; returns seconds, including those of earlier attempts, without observation and checkpoints.

        Raises UnfitError where the checkpoint does not fit the method as its hooks have built it, RunDivergedError, Interrupted,
        and the method's own errors.
        """
        method, log = self._method, self._context.log
        (log.log if self._found is None else log.notify)("task_started", task=self._task.index, images=len(self._data))
        info = task_info(self._task)
        if not method.is_closed_form:
            method.train()  # before the hooks: they must not depend on whether this process has evaluated a task
        method.enter_task(info)
        method.begin_task(info)
        if self._found is None:  # any checkpoint inside the task has what was prepared
            method.prepare_task(self._data)
        if not method.is_closed_form:
            self._train_phases()
        elif not self._start.is_trained:
            self._data.phase = "fit"
            method.fit_task(self._data)
        if self._found is not None and self._start.is_trained:
            self._restore(self._found)
            self._found = None
        if not method.is_closed_form:
            method.eval()
        seconds = self._seconds()
        end = Position(is_trained=True, passes=self._data.passes, images_read=self._data.images_read)
        is_saved = self._maybe_checkpoint(lambda: self._snapshot(end), TRAINED_PATIENCE)
        self.is_saved = is_saved or self._start.is_trained
        return seconds

    # -- phases, epochs, steps -----------------------------------------------------------------------------------------

    def _train_phases(self) -> None:
        phases = self._method.phases()
        total = sum(phase.epochs for phase in phases) * self._steps
        segment: OptimizationSegment | None = None
        for number, phase in enumerate(phases):
            segment = self._begin_phase(phases, number, segment, total)
            if self._start.is_trained or number < self._start.phase:
                continue  # trained by an earlier attempt: only the hooks are called, for the attributes that they set
            if number == 0 and self._found is None:
                self._context.observer.training_starts(self._task, phase.name)
            for epoch in range(self._start.epoch if number == self._start.phase else 0, phase.epochs):
                loss = self._train_epoch(Position(number, epoch), phase.name, segment)
                self._context.log.log("epoch", task=self._task.index, phase=phase.name, epoch=epoch, loss=loss)
                self._context.observer.epoch_ended(self._task, phase.name)

    def _begin_phase(
        self, phases: list[Phase], number: int, before: OptimizationSegment | None, total: int
    ) -> OptimizationSegment:
        """Call the hooks of a phase; returns the optimiser that it trains with."""
        phase, schedule = phases[number], self._context.schedule
        self._method.begin_phase(phase)
        groups = self._method.parameter_groups()
        declare_trainable(self._method, groups)
        self._context.learned.update(declared_sizes(self._method, groups))
        if before is not None and phase.continues:
            return before
        changes = {"lr": phase.lr, "shape": phase.shape}
        schedule = schedule.model_copy(update={key: value for key, value in changes.items() if value is not None})
        done = 0 if before is None else before.done
        return OptimizationSegment(schedule, groups, segment_epochs(phases, number), done, total)

    def _train_epoch(self, start: Position, phase: str, segment: OptimizationSegment) -> float:
        """One epoch, or its rest where the checkpoint is inside it; returns its mean loss."""
        data, (found, self._found) = self._data, (self._found, None)
        losses = LossMeter(partial(self._require_finite, phase))
        if found is not None:
            self._restore(found, segment)
        start = replace(start, passes=data.passes, images_read=data.images_read)
        epoch_start: Checkpoint | None = None
        if found is not None and self._start.step:
            losses = LossMeter(losses.check, self._start.loss_sum, self._start.step)
            batches = self._remaining_batches(found)
        else:
            epoch_start = _copied(self._snapshot(start, segment)) if self._repeats_epochs else None
            self._maybe_checkpoint(lambda: self._snapshot(start, segment) if epoch_start is None else epoch_start)
            batches = iter(self._method.epoch_batches(data))
        found = None  # it can take half a gigabyte, which must be free during the epoch
        for batch in batches:
            self._step(batch, phase, segment, losses)
            self._maybe_checkpoint(
                lambda: self._snapshot(start, segment, losses) if epoch_start is None else epoch_start
            )
        return losses.mean()

    def _step(self, batch: Batch, phase: str, segment: OptimizationSegment, losses: LossMeter) -> None:
        segment.set_rate(self._steps)
        step = segment.step
        try:
            loss = _scalar(self._method.training_step(batch), self._method)
            segment.descend(loss, self._method)
        except Exception:
            losses.read_pending()  # an infinite loss of the step before explains the error better than the error itself
            raise
        losses.note(loss, step)
        self._context.log.step(self._task.index, self._context.num_tasks, phase, segment.done, segment.total)

    def _require_finite(self, phase: str, loss: float, step: int) -> None:
        require_finite(loss, task=self._task.index, phase=phase, step=step, lr=self._context.schedule.lr)

    # -- checkpoints inside the task -----------------------------------------------------------------------------------

    def _maybe_checkpoint(self, snapshot: Callable[[], Checkpoint], patience: float = 1.0) -> bool:
        is_saved, seconds = self._context.checkpoints.maybe_checkpoint(self._task.index, snapshot, patience=patience)
        self._spent -= seconds
        return is_saved

    def _seconds(self) -> float:
        self._spent -= self._context.observer.take_seconds()
        return self._spent + time.monotonic() - self._since

    def _snapshot(
        self, position: Position, segment: OptimizationSegment | None = None, losses: LossMeter | None = None
    ) -> Checkpoint:
        """The current state at ``position``; with ``losses``, of an epoch that began there, as many steps later."""
        tensors, values = random_state(self._context.device)
        if losses is not None:
            losses.read_pending()
            position = replace(position, step=losses.count, loss_sum=losses.total)
        if segment is not None:
            moments, values[OPTIMIZER] = segment.state()
            tensors |= {f"{OPTIMIZER}.{name}": tensor for name, tensor in moments.items()}
            position = replace(position, segment_step=segment.step, segment_done=segment.done)
        position = replace(position, observed_epochs=self._context.observer.epoch, train_s=self._seconds())
        return self._context.snapshot(position, tensors, values)

    def _restore(self, found: Checkpoint, segment: OptimizationSegment | None = None) -> None:
        """Set method, optimiser, random generators and counters to the state of ``found``. Raises UnfitError."""
        load_exactly(self._method, found.tensors)
        prefix = f"{OPTIMIZER}."
        moments = {name.removeprefix(prefix): t for name, t in found.training.items() if name.startswith(prefix)}
        try:
            if segment is not None:
                segment.restore(moments, found.values[OPTIMIZER], self._start.segment_step, self._start.segment_done)
            restore_random_state(found.training, found.values, self._context.device)
        except (KeyError, ValueError, RuntimeError) as error:
            raise UnfitError("the checkpoint is not of the optimiser that the method asks for") from error
        self._data.passes, self._data.images_read = self._start.passes, self._start.images_read
        self._context.observer.epoch = self._start.observed_epochs

    def _remaining_batches(self, found: Checkpoint) -> Iterator[Batch]:
        """The epoch's batches after those trained on, with the random generators in their state at that point."""
        batches = iter(self._method.epoch_batches(self._data))
        for _ in islice(batches, self._start.step):
            pass
        restore_random_state(found.training, found.values, self._context.device)
        return batches


def _copied(state: Checkpoint) -> Checkpoint:
    """A copy of the tensors, which later steps do not change."""
    tensors, training = (
        {name: tensor.to("cpu", copy=True) for name, tensor in kept.items()} for kept in (state.tensors, state.training)
    )
    return replace(state, tensors=tensors, training=training)


def _scalar(loss: object, method: Method) -> Tensor:
    """The loss of a step. Raises MethodError where a plugin returns none."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        returned = tuple(loss.shape) if isinstance(loss, Tensor) else loss
        raise MethodError(
            f"training_step of {method.name!r} returned {returned!r}; return the loss, a tensor of one number"
        )
    return loss
