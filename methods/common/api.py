"""What a method is, and all it is ever given: the contract between methods, the engine and plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from smope_bench.methods.common.backbone.vit import PromptedViT
from smope_bench.methods.common.schedules import Schedule, Shape


class MethodConfig(BaseModel):
    """Typed, frozen hyper-parameters of a method; every field is part of a run's identity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class MethodCard:
    """Where a method comes from; shown by ``list methods`` and in reports."""

    title: str
    summary: str
    paper: str | None = None
    paper_url: str | None = None
    code_url: str | None = None
    kind: str = "method"
    """``method``, ``floor`` (a reference that should be beaten) or ``ceiling`` (one that should not)."""


@dataclass(frozen=True)
class Setup:
    """What is known before the first task: sizes, never data."""

    num_classes: int
    num_tasks: int
    schedule: Schedule


@dataclass(frozen=True)
class TaskInfo:
    """One task as a method sees it. Classes are numbered in order of arrival."""

    index: int
    new_classes: range
    class_counts: tuple[int, ...]
    """Training images of each new class."""

    @property
    def seen_classes(self) -> int:
        """Number of classes seen up to and including this task."""
        return self.new_classes.stop

    @property
    def old_classes(self) -> int:
        """Number of classes of all earlier tasks."""
        return self.new_classes.start


@dataclass(frozen=True)
class Batch:
    """``images``: float32 (B, 3, H, W); ``labels``: int64 (B,), absent at test; ``query``: frozen features (B, d).

    A query may be given as a function: it is called once, and only if a method asks for ``features``.
    """

    images: Tensor
    labels: Tensor | None = None
    query: Tensor | Callable[[], Tensor] | None = None

    @property
    def targets(self) -> Tensor:
        """The labels of a training batch."""
        if self.labels is None:
            raise RuntimeError("labels were asked for at test time; predict() must not need them")
        return self.labels

    @cached_property
    def features(self) -> Tensor:
        """The frozen query features; the method must declare ``needs_query = True``."""
        if self.query is None:
            raise RuntimeError("frozen features were asked for, but the method does not declare needs_query = True")
        return self.query if isinstance(self.query, Tensor) else self.query()


class TrainingData(Protocol):
    """The current task's training images, and nothing else."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        """One pass with training augmentation, or with the test transform where ``augment`` is false."""
        ...


@dataclass(frozen=True)
class Phase:
    """A stretch of training with an optimiser and a learning-rate schedule of its own.

    ``lr`` and ``shape`` replace the run's schedule in this phase. A phase that ``continues`` keeps the optimiser of the one
    before, its moments included, and the schedule runs through both; its parameter groups may only leave parameters out.
    """

    name: str
    epochs: int
    lr: float | None = None
    shape: Shape | None = None
    continues: bool = False


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters trained together; their rate is the schedule's base rate times ``lr_multiplier``."""

    name: str
    parameters: list[nn.Parameter] = field(default_factory=list)
    lr_multiplier: float = 1.0


@dataclass(frozen=True)
class Geometry:
    """Sizes that a count of parameters or operations depends on."""

    dim: int
    num_heads: int
    depth: int
    tokens: int
    """Tokens of an image, class token included."""
    num_classes: int
    num_tasks: int


@dataclass(frozen=True)
class PublishedCost:
    """What the SMoPE paper's Table 3 counts for a method: its convention, which is not always what the code runs."""

    parameters: int
    train_passes: int
    """Backbone forwards an image that the table counts in training; likewise ``test_passes``."""
    test_passes: int
    extra_train_flops: int = 0
    """Operations beside backbone and classifier, by the same convention; likewise ``extra_test_flops``."""
    extra_test_flops: int = 0
    note: str = ""


class Method(nn.Module):
    """A continual learner. Its own parameters and buffers are its checkpoint; the backbone is frozen and shared.

    Hooks, in the order of their calls: ``begin_task``, then for each of ``phases()``: ``begin_phase``,
    ``parameter_groups``, ``epoch_batches`` and ``training_step`` per batch; ``end_task``; ``predict``. A method that
    overrides ``fit_task`` has no training steps. Randomness comes from torch's default generator, which the engine seeds
    for each task.

    A run may be stopped between any two steps and go on in another process, to the same bits. State must therefore live in
    parameters and buffers: those are kept. Of the task that it stopped in, ``begin_task``, then ``begin_phase`` and
    ``parameter_groups`` of every phase begun so far, are called again, ``begin_task`` on the tensors with which the task
    began; then all tensors, the optimiser and the generators of torch, NumPy and Python are put back. Plain attributes may
    hold what these hooks set, ``begin_phase`` from its argument alone, and what a step leaves for its own ``apply_step``; a
    counter that steps keep in one is lost, and so is what earlier tasks left in one: their hooks are not called again, but
    for the parameters that they add.
    """

    name: ClassVar[str]
    card: ClassVar[MethodCard]
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    needs_query: ClassVar[bool] = False
    trains_jointly: ClassVar[bool] = False
    """All tasks' training data at once: a ceiling, not a continual learner."""
    observes: ClassVar[tuple[str, ...]] = ()
    """Names of what ``observed_state`` and ``observed_batch`` give."""

    backbone: PromptedViT
    _progress: Tensor

    def __init__(self, config: Any, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__()
        self.config = config
        self.setup = setup
        # Past nn.Module's own bookkeeping: the backbone is shared between runs, never trained, never checkpointed.
        self.__dict__["backbone"] = backbone
        self.register_buffer("_progress", torch.zeros(3, dtype=torch.long))

    @classmethod
    def leaks(cls, config: Any) -> bool:
        """Whether this configuration reproduces a published leak; such runs are marked wherever they are shown."""
        del config
        return False

    @classmethod
    def published_cost(cls, geometry: Geometry) -> PublishedCost | None:
        """The row of Table 3 by its own convention; None for a method without one."""
        del geometry
        return None

    def begin_task(self, task: TaskInfo) -> None:
        """Prepare for a task: its class ids and counts, never its test data, never later tasks."""

    def phases(self) -> list[Phase]:
        """Training phases of the current task; one phase of the schedule's epochs unless overridden."""
        return [Phase("train", self.setup.schedule.epochs)]

    def begin_phase(self, phase: Phase) -> None:
        """Called before the optimiser of a phase is made."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """Optimiser groups of the current phase; nothing else may change in a training step."""
        return [ParameterGroup("all", list(self.parameters()))]

    def epoch_batches(self, data: TrainingData) -> Iterator[Batch]:
        """What an epoch trains on: the task's images, shuffled, unless overridden. Its length must not change.

        Where it is overridden, an epoch that was cut off is repeated from its start.
        """
        return data.batches(shuffle=True, drop_last=self.setup.schedule.drop_last)

    def training_step(self, batch: Batch) -> Tensor:
        """Scalar loss of a batch of the current task."""
        raise NotImplementedError(f"{type(self).__name__} has neither training_step nor fit_task")

    def apply_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimiser move the parameters; for a method that bounds its own step."""
        optimizer.step()

    def end_task(self, data: TrainingData) -> None:
        """Statistics, alignment and bookkeeping after the last phase of a task."""

    def fit_task(self, data: TrainingData) -> None:
        """Closed-form training of a task, in place of phases and steps."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, seen classes). Row i depends on image i alone."""
        raise NotImplementedError

    def observed_state(self) -> dict[str, Tensor]:
        """What figures draw of the learned state after a task, by name; asked for only where a suite observes it.

        Shapes are the same after every task; names that are not given here are taken from ``observed_batch``.
        """
        return {}

    def observed_batch(self, batch: Batch) -> dict[str, Tensor]:
        """What figures draw of single test images after the last task, by name, first axis the images; asked for likewise."""
        del batch
        return {}

    def settled(self) -> dict[str, Tensor]:
        """What finished tasks have left behind and no later task may change, by name; checked by the conformance kit."""
        return {}

    @property
    def is_closed_form(self) -> bool:
        """Whether ``fit_task`` replaces the training phases."""
        return type(self).fit_task is not Method.fit_task

    @property
    def seen_classes(self) -> int:
        """Classes seen so far, including the current task's; kept in the checkpoint."""
        return int(self._progress[1])

    @property
    def old_classes(self) -> int:
        """Classes of earlier tasks."""
        return int(self._progress[0])

    @property
    def new_classes(self) -> range:
        """Classes of the current, or last finished, task."""
        return range(self.old_classes, self.seen_classes)

    @property
    def task_index(self) -> int:
        """0-based number of the current, or last finished, task."""
        return int(self._progress[2])

    def enter_task(self, task: TaskInfo) -> None:
        """Called by the engine alone, before ``begin_task``: what every method must remember of its place."""
        self._progress.copy_(torch.tensor([task.old_classes, task.seen_classes, task.index]))


def learnable_count(groups: Iterable[ParameterGroup]) -> int:
    """Number of learnable scalars in some groups, each parameter once."""
    unique = {id(p): p.numel() for group in groups for p in group.parameters}
    return sum(unique.values())
