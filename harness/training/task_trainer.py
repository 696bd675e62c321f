"""Training of one task: phases, epochs and steps, from the beginning or from any place that an earlier attempt has saved."""

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
from smope_bench.harness.training.data import TaskData
from smope_bench.harness.training.observer import Observer
from smope_bench.harness.training.optimization import (
    LossMeter,
    OptimizationSegment,
    declare_trainable,
    declared_sizes,
    require_finite,
    stretch_epochs,
)
from smope_bench.methods.common.api import Batch, Method, Phase, TaskInfo
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.schedules import Schedule

TRAINED_PATIENCE = 0.1
"""Before the end of a task, which an interruption repeats as a whole, a checkpoint is written that much sooner than elsewhere."""

OPTIMISER = "optimiser"

Moment = Callable[[Position, dict[str, Tensor], dict[str, Any]], Checkpoint]
"""Makes a checkpoint of a position, the tensors of its training and their plain numbers."""


@dataclass(frozen=True)
class TrainingContext:
    """Whom the training of a task works with; the same for all tasks of a run."""

    method: Method
    schedule: Schedule
    device: torch.device
    observer: Observer
    log: RunLog
    keeper: CheckpointManager
    moment: Moment
    learned: dict[str, int]
    """Every parameter that any phase has trained, with its size; filled here."""
    tasks: int


def task_info(task: Task) -> TaskInfo:
    """A task as its method is told of it."""
    counts = np.bincount(task.train.labels, minlength=task.classes.stop)[task.classes.start :]
    return TaskInfo(task.index, task.classes, tuple(int(count) for count in counts))


class TaskTraining:
    """The training of one task, up to ``end_task``."""

    def __init__(self, task: Task, data: TaskData, crew: TrainingContext, found: Checkpoint | None = None) -> None:
        """``found``: where to go on inside the task; the method's tensors must still be those with which the task began."""
        self._task = task
        self._data = data
        self._crew = crew
        self._method = crew.method
        self._found = found
        self._at = found.position if found is not None and found.position is not None else Position()
        self._steps = data.steps(drop_last=crew.schedule.drop_last)
        self._spent, self._since = self._at.train_s, time.monotonic()
        self.is_saved = False
        """Whether a checkpoint has all of the training, so that what follows can be stopped without loss."""
        # Batches that a method makes itself may depend on all that it did in the epoch: such an epoch is repeated from its start.
        self._repeats_epochs = type(crew.method).epoch_batches is not Method.epoch_batches

    def run(self) -> float:
        """Train; returns seconds, those of earlier attempts included, those of observing and saving left out.

        Raises UnfitError where the checkpoint does not fit the method as its hooks have made it, RunDivergedError, Interrupted,
        and what the method raises.
        """
        method, log = self._method, self._crew.log
        (log.log if self._found is None else log.notify)("task_started", task=self._task.index, images=len(self._data))
        info = task_info(self._task)
        if not method.is_closed_form:
            method.train()  # before its hooks: they must not see whether a task was evaluated in this process
        method.enter_task(info)
        method.begin_task(info)
        if not method.is_closed_form:
            self._train_phases()
        elif not self._at.is_trained:
            method.fit_task(self._data)
        if self._found is not None and self._at.is_trained:
            self._restore(self._found)
            self._found = None
        if not method.is_closed_form:
            method.eval()
        seconds = self._seconds()
        place = Position(is_trained=True, passes=self._data.passes, images_read=self._data.images_read)
        is_saved = self._point(lambda: self._moment(place), TRAINED_PATIENCE)
        self.is_saved = is_saved or self._at.is_trained
        return seconds

    # -- phases, epochs, steps -----------------------------------------------------------------------------------------

    def _train_phases(self) -> None:
        phases = self._method.phases()
        total = sum(phase.epochs for phase in phases) * self._steps
        stretch: OptimizationSegment | None = None
        for number, phase in enumerate(phases):
            stretch = self._begun(phases, number, stretch, total)
            if self._at.is_trained or number < self._at.phase:
                continue  # an earlier attempt did it: the hooks are called for what they set
            if number == 0 and self._found is None:
                self._crew.observer.training_starts(self._task, phase.name)
            for epoch in range(self._at.epoch if number == self._at.phase else 0, phase.epochs):
                loss = self._train_epoch(Position(number, epoch), phase.name, stretch)
                self._crew.log.log("epoch", task=self._task.index, phase=phase.name, epoch=epoch, loss=loss)
                self._crew.observer.epoch_ended(self._task, phase.name)

    def _begun(
        self, phases: list[Phase], number: int, before: OptimizationSegment | None, total: int
    ) -> OptimizationSegment:
        """Call the hooks of a phase; the optimiser that it trains with."""
        phase, schedule = phases[number], self._crew.schedule
        self._method.begin_phase(phase)
        groups = self._method.parameter_groups()
        declare_trainable(self._method, groups)
        self._crew.learned.update(declared_sizes(self._method, groups))
        if before is not None and phase.continues:
            return before
        own = {"lr": phase.lr, "shape": phase.shape}
        schedule = schedule.model_copy(update={key: value for key, value in own.items() if value is not None})
        return OptimizationSegment(
            schedule, groups, stretch_epochs(phases, number), 0 if before is None else before.done, total
        )

    def _train_epoch(self, place: Position, phase: str, stretch: OptimizationSegment) -> float:
        """One epoch, or the rest of the one that the checkpoint is inside of; its mean loss."""
        data, (found, self._found) = self._data, (self._found, None)
        losses = LossMeter(partial(self._require_finite, phase))
        if found is not None:
            self._restore(found, stretch)
        place = replace(place, passes=data.passes, images_read=data.images_read)
        held: Checkpoint | None = None
        if found is not None and self._at.step:
            losses = LossMeter(losses.check, self._at.loss_sum, self._at.step)
            batches = self._remaining_batches(found)
        else:
            held = _held(self._moment(place, stretch)) if self._repeats_epochs else None
            self._point(lambda: self._moment(place, stretch) if held is None else held)
            batches = iter(self._method.epoch_batches(data))
        found = None  # half a gigabyte at times, which the epoch need not hold
        for batch in batches:
            self._step(batch, phase, stretch, losses)
            self._point(lambda: self._moment(place, stretch, losses) if held is None else held)
        return losses.mean()

    def _step(self, batch: Batch, phase: str, stretch: OptimizationSegment, losses: LossMeter) -> None:
        stretch.set_rate(self._steps)
        step = stretch.step
        try:
            loss = _scalar(self._method.training_step(batch), self._method)
            stretch.descend(loss, self._method)
        except Exception:
            losses.settle()  # a loss that was no number explains what came of it
            raise
        losses.note(loss, step)
        self._crew.log.step(self._task.index, self._crew.tasks, phase, stretch.done, stretch.total)

    def _require_finite(self, phase: str, loss: float, step: int) -> None:
        require_finite(loss, task=self._task.index, phase=phase, step=step, lr=self._crew.schedule.lr)

    # -- places that a run can go on from ------------------------------------------------------------------------------

    def _point(self, make: Callable[[], Checkpoint], patience: float = 1.0) -> bool:
        is_saved, seconds = self._crew.keeper.point(self._task.index, make, patience=patience)
        self._spent -= seconds
        return is_saved

    def _seconds(self) -> float:
        self._spent -= self._crew.observer.seconds_since_asked()
        return self._spent + time.monotonic() - self._since

    def _moment(
        self, place: Position, stretch: OptimizationSegment | None = None, losses: LossMeter | None = None
    ) -> Checkpoint:
        """The run as it is now: at ``place``, or as many steps behind it as there are ``losses``."""
        tensors, values = random_state(self._crew.device)
        if losses is not None:
            losses.settle()
            place = replace(place, step=losses.count, loss_sum=losses.total)
        if stretch is not None:
            moments, values[OPTIMISER] = stretch.state()
            tensors |= {f"{OPTIMISER}.{name}": tensor for name, tensor in moments.items()}
            place = replace(place, stretch_step=stretch.step, stretch_done=stretch.done)
        place = replace(place, observed_epochs=self._crew.observer.epoch, train_s=self._seconds())
        return self._crew.moment(place, tensors, values)

    def _restore(self, found: Checkpoint, stretch: OptimizationSegment | None = None) -> None:
        """Go to the place of ``found``. Raises UnfitError."""
        load_exactly(self._method, found.tensors)
        prefix = f"{OPTIMISER}."
        moments = {name.removeprefix(prefix): t for name, t in found.training.items() if name.startswith(prefix)}
        try:
            if stretch is not None:
                stretch.restore(moments, found.values[OPTIMISER], self._at.stretch_step, self._at.stretch_done)
            restore_random_state(found.training, found.values, self._crew.device)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise UnfitError("the checkpoint is not of the optimiser that the method asks for") from error
        self._data.passes, self._data.images_read = self._at.passes, self._at.images_read
        self._crew.observer.epoch = self._at.observed_epochs

    def _remaining_batches(self, found: Checkpoint) -> Iterator[Batch]:
        """The epoch's batches from the first that was not trained on; the generators as they were before it."""
        batches = iter(self._method.epoch_batches(self._data))
        for _ in islice(batches, self._at.step):
            pass
        restore_random_state(found.training, found.values, self._crew.device)
        return batches


def _held(state: Checkpoint) -> Checkpoint:
    """A copy that later steps cannot reach."""
    tensors, training = (
        {name: tensor.to("cpu", copy=True) for name, tensor in kept.items()} for kept in (state.tensors, state.training)
    )
    return replace(state, tensors=tensors, training=training)


def _scalar(loss: object, method: Method) -> Tensor:
    """The loss of a step, which a plugin may have forgotten to return."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        said = tuple(loss.shape) if isinstance(loss, Tensor) else loss
        raise MethodError(
            f"training_step of {method.name!r} returned {said!r}; return the loss, a tensor of one number"
        )
    return loss
