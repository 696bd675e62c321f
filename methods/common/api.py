"""The interface between methods and the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn

from smope_bench.methods.common.schedules import Schedule, Shape
from smope_bench.methods.common.vit.vit import PromptedViT


class MethodConfig(BaseModel):
    """Typed, frozen hyper-parameters of a method; every field is part of a run's identity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    unstated_defaults: ClassVar[frozenset[str]] = frozenset()
    """Fields that a dump leaves out while they have their default: a run's id does not change when such a field is added."""

    @model_serializer(mode="wrap")
    def _leave_out_unstated(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            key: value
            for key, value in serialize(self).items()
            if key not in self.unstated_defaults or getattr(self, key) != fields[key].default
        }


@dataclass(frozen=True)
class MethodCard:
    """Title and origin of a method; shown by ``list methods`` and in reports."""

    title: str
    summary: str
    paper: str | None = None
    paper_url: str | None = None
    code_url: str | None = None
    kind: str = "method"
    """``method``; ``floor``, a reference that methods should beat; ``adapter``, adapters or low-rank updates instead of prompts,
    shown for reference; or ``ceiling``, a bound, such as joint training."""


@dataclass(frozen=True)
class Setup:
    """Sizes known before the first task; no data."""

    num_classes: int
    num_tasks: int
    schedule: Schedule
    protocol: str = "class"
    """``class``, or ``domain`` where known classes come again; see ``Method.protocols``."""


@dataclass(frozen=True)
class TaskInfo:
    """One task as a method sees it. Classes are numbered in order of arrival.

    ``new_classes``: the classes that arrive with the task. In a domain-incremental stream, where known classes come again,
    they are all classes seen so far, those of this task included, and ``class_counts`` is 0 for those without images in it.
    """

    index: int
    new_classes: range
    class_counts: tuple[int, ...]
    """Training images of each of ``new_classes``."""

    @property
    def seen_classes(self) -> int:
        """Number of classes seen up to and including this task."""
        return self.new_classes.stop

    @property
    def old_classes(self) -> int:
        """Number of classes of all earlier tasks; 0 where they may come again."""
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
        """The frozen backbone's features (B, d); the method must declare ``needs_query = True``."""
        if self.query is None:
            raise RuntimeError("frozen features were asked for, but the method does not declare needs_query = True")
        return self.query if isinstance(self.query, Tensor) else self.query()


class TrainingData(Protocol):
    """The current task's training images."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        """One pass with training augmentation, or with the test transform where ``augment`` is false."""
        ...


@dataclass(frozen=True)
class Phase:
    """A part of a task's training with its own optimiser and learning-rate schedule.

    ``lr`` and ``shape`` replace the run's schedule in this phase. A phase that ``continues`` keeps the optimiser of the one
    before, its moments included, and one schedule covers both; its parameter groups may only omit parameters.
    """

    name: str
    epochs: int
    lr: float | None = None
    shape: Shape | None = None
    continues: bool = False


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters trained together; their rate is the schedule's base rate times ``lr_multiplier``.

    ``weight_decay`` replaces the schedule's.
    """

    name: str
    parameters: list[nn.Parameter] = field(default_factory=list)
    lr_multiplier: float = 1.0
    weight_decay: float | None = None


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
    """A row of the SMoPE paper's Table 3, by its convention, which may differ from what the code runs."""

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

    Hooks, in the order of their calls: ``begin_task``, ``prepare_task``, then for each of ``phases()``: ``begin_phase``,
    ``parameter_groups``, ``epoch_batches``, and per batch ``training_step`` and ``apply_step``; ``end_task``; ``predict``. A
    method that overrides ``fit_task`` has no training steps. Randomness comes from torch's default generator, which the trainer
    seeds for each task.

    A run may be stopped after any step and resumed in another process, with the same bits: state belongs into parameters and
    buffers. On resuming, ``begin_task`` of the interrupted task is called on the tensors with which it began, not
    ``prepare_task``; then ``begin_phase`` and ``parameter_groups`` of each phase begun so far; then all tensors, the optimiser
    and the generators of torch, NumPy and Python are restored. Plain attributes may hold only what ``begin_task`` and
    ``begin_phase`` set (``begin_phase`` from its argument alone), what is ``Derived`` from tensors, and what a step leaves for
    its own ``apply_step``. Counters of steps, and what earlier tasks left in attributes, are lost: hooks of earlier tasks are
    called again only for the parameters that they add.
    """

    name: ClassVar[str]
    card: ClassVar[MethodCard]
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    needs_query: ClassVar[bool] = False
    trains_jointly: ClassVar[bool] = False
    """All tasks' training data at once: a ceiling, not a continual learner."""
    protocols: ClassVar[frozenset[str]] = frozenset({"class"})
    """Streams that the method handles: ``class``, new classes with each task; ``domain``, known classes in a new domain."""
    exemplars: ClassVar[int] = 0
    """Training images of earlier tasks that it keeps at most, all classes together. Runs of a method that keeps any are marked in
    all reports and not ranked with the others."""
    unfit_because: ClassVar[str] = ""
    """Why another protocol is refused, as the end of a sentence."""
    only_for_training: ClassVar[tuple[str, ...]] = ()
    """Names, or shell patterns of names, of parameters and buffers that ``predict`` never reads, such as covariances: they are
    part of checkpoints, but a finished run is kept without them."""
    on_host: ClassVar[tuple[str, ...]] = ("_progress",)
    """Names of buffers that stay on the CPU, because Python reads their numbers in steps: from a GPU, the host would have to
    wait for all work that it has queued there."""
    grows_with_tasks: ClassVar[tuple[str, ...]] = ()
    """Names, or shell patterns of names, of parameters and buffers with an entry for each task along an axis. Where a finished run
    is extended by more tasks, they get more entries; so does, in every tensor, an axis with an entry for each class."""
    not_extended_because: ClassVar[str] = ""
    """Why a finished run cannot be extended by more tasks, as the end of a sentence; empty where it can."""
    observes: ClassVar[tuple[str, ...]] = ()
    """Names that ``observed_state`` and ``observed_batch`` return."""

    backbone: PromptedViT
    absent_classes: Tensor | None = None
    """Labels (n,) of seen classes without images in the current task of a domain-incremental stream; None if there are none."""
    _progress: Tensor

    def __init__(self, config: Any, backbone: PromptedViT, setup: Setup) -> None:
        super().__init__()
        self.config = config
        self.setup = setup
        # Not registered as a submodule: the backbone is shared between runs, never trained, never checkpointed.
        self.__dict__["backbone"] = backbone
        self.register_buffer("_progress", torch.zeros(3, dtype=torch.long))

    @classmethod
    def leaks(cls, config: Any) -> bool:
        """Whether this configuration reproduces a published leak; such runs are marked in all reports."""
        del config
        return False

    @classmethod
    def published_cost(cls, geometry: Geometry) -> PublishedCost | None:
        """The method's row of Table 3 of the SMoPE paper; None without one."""
        del geometry
        return None

    def begin_task(self, task: TaskInfo) -> None:
        """Prepare for a task: its class ids and counts, never its test data, never later tasks."""

    def prepare_task(self, data: TrainingData) -> None:
        """Statistics of the task's images before its first step, kept in buffers: it is not called again on resuming."""

    def phases(self) -> list[Phase]:
        """Training phases of the current task; one phase of the schedule's epochs unless overridden."""
        return [Phase("train", self.setup.schedule.epochs)]

    def begin_phase(self, phase: Phase) -> None:
        """Called before the optimiser of a phase is made."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """Optimiser groups of the current phase; nothing else may change in a training step."""
        return [ParameterGroup("all", list(self.parameters()))]

    def epoch_batches(self, data: TrainingData) -> Iterator[Batch]:
        """The batches of an epoch; by default the task's images, shuffled. Their number must not change.

        If it is overridden, an interrupted epoch is repeated from its start.
        """
        return data.batches(shuffle=True, drop_last=self.setup.schedule.drop_last)

    def training_step(self, batch: Batch) -> Tensor:
        """Scalar loss of a batch of the current task."""
        raise NotImplementedError(f"{type(self).__name__} has neither training_step nor fit_task")

    def apply_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply the gradients; override to bound, mask or project them or the step, see ``projected_step``."""
        optimizer.step()

    def end_task(self, data: TrainingData) -> None:
        """Statistics, alignment, merging and bookkeeping after the last phase of a task."""

    def fit_task(self, data: TrainingData) -> None:
        """Closed-form training of a task, in place of phases and steps."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, seen classes). Row i depends on image i alone."""
        raise NotImplementedError

    @property
    def passes_at_test(self) -> int:
        """Passes of the backbone in ``predict`` with an adaptation set each, the query's not among them; after this task."""
        return 1

    @property
    def statistics_passes(self) -> int:
        """Passes of the backbone over this task's images in ``prepare_task`` and ``end_task``, for plans.

        One for each of the two that a method overrides, unless it states their number.
        """
        kind = type(self)
        return (kind.prepare_task is not Method.prepare_task) + (kind.end_task is not Method.end_task)

    def observed_state(self) -> dict[str, Tensor]:
        """Learned state after a task that figures draw, by name; called only if a suite observes it.

        Shapes are the same after every task; names that are not given here are taken from ``observed_batch``.
        """
        return {}

    def observed_batch(self, batch: Batch) -> dict[str, Tensor]:
        """Values a test image after the last task that figures draw, by name, images first; called likewise."""
        del batch
        return {}

    def settled(self) -> dict[str, Tensor]:
        """State of finished tasks that no later task may change, by name; checked by the conformance kit."""
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
        """Classes of earlier tasks that do not come again; 0 in a domain-incremental stream."""
        return int(self._progress[0])

    @property
    def new_classes(self) -> range:
        """Classes of the current, or last finished, task."""
        return range(self.old_classes, self.seen_classes)

    @property
    def task_index(self) -> int:
        """0-based number of the current, or last finished, task."""
        return int(self._progress[2])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Method:
        """Move or convert the method's tensors, except those of ``on_host``."""
        kept = {name: self._buffers[name] for name in self.on_host}
        super()._apply(fn, recurse)
        self._buffers.update(kept)
        return self

    def enter_task(self, task: TaskInfo) -> None:
        """Called by the trainer before ``begin_task``: stores the numbers of the task and of its classes."""
        self._progress.copy_(torch.tensor([task.old_classes, task.seen_classes, task.index]))
        absent = [label for label, count in zip(task.new_classes, task.class_counts, strict=True) if not count]
        self.absent_classes = None
        if absent:
            self.absent_classes = torch.tensor(absent, device=next(self.backbone.parameters()).device)


def learnable_count(groups: Iterable[ParameterGroup]) -> int:
    """Number of learnable scalars in some groups, each parameter once."""
    unique = {id(p): p.numel() for group in groups for p in group.parameters}
    return sum(unique.values())
