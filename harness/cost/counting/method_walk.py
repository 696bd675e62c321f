"""Walk through a method's tasks and phases as the trainer does, without training, to find its learnable parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from smope_bench.harness.planning.settings import validated
from smope_bench.harness.training.optimization import declare_trainable
from smope_bench.methods.common.api import Batch, Method, ParameterGroup, Phase, Setup, TaskInfo
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT


@dataclass
class Declared:
    """Parameters that phases declare learnable. A tensor trained in slices, or replaced under its name, counts once."""

    sizes: dict[object, int] = field(default_factory=dict)
    kept: list[nn.Parameter] = field(default_factory=list)
    tasks_of: dict[str, list[int]] = field(default_factory=dict)
    """1-based numbers of the tasks that have a phase of this name."""

    def add(self, method: Method, task: TaskInfo, phase: Phase, groups: list[ParameterGroup]) -> None:
        """Add a phase."""
        names = {id(parameter): name for name, parameter in method.named_parameters()}
        for parameter in (parameter for group in groups for parameter in group.parameters):
            key = names.get(id(parameter), id(parameter))
            self.sizes[key] = max(self.sizes.get(key, 0), parameter.numel())
            self.kept.append(parameter)  # keeps its id from being reused
        numbers = self.tasks_of.setdefault(phase.name, [])
        if task.index + 1 not in numbers:
            numbers.append(task.index + 1)

    @property
    def count(self) -> int:
        """Number of learnable scalars."""
        return sum(self.sizes.values())


def make_method(
    method_class: type[Method], name: str, backbone: PromptedViT, classes: int, tasks: int
) -> tuple[Method, list[TaskInfo]]:
    """A method with its defaults, and its tasks: one with all classes where it trains jointly."""
    count = 1 if method_class.trains_jointly else tasks
    size = classes // count
    config = validated(method_class.Config, {}, name)
    method = method_class(config, backbone, Setup(classes, count, Schedule()))
    ranges = [range(index * size, (index + 1) * size) for index in range(count)]
    return method, [TaskInfo(index, new, (1,) * size) for index, new in enumerate(ranges)]


def walk(method: Method, tasks: list[TaskInfo]) -> Iterator[tuple[TaskInfo, Phase, list[ParameterGroup]]]:
    """Enter every phase of every task; the method is then as in a training step of that phase."""
    for task in tasks:
        method.enter_task(task)
        method.begin_task(task)
        if method.is_closed_form:
            continue
        method.train()
        for phase in method.phases():
            method.begin_phase(phase)
            groups = method.parameter_groups()
            declare_trainable(method, groups)
            yield task, phase, groups
        method.eval()


class _ImagesWanted(Exception):  # no error: it ends the call
    """A method asks for the images of its task."""


class _NoImages:
    """Task data that ends the call which reads it."""

    def __len__(self) -> int:
        return 1

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        """Raises _ImagesWanted; all arguments are ignored."""
        del shuffle, drop_last, augment
        raise _ImagesWanted


def finish(method: Method) -> None:
    """End the current task as far as no image is read: a method that merges its finished weights then answers with them."""
    if not method.is_closed_form:
        with contextlib.suppress(_ImagesWanted):
            method.end_task(_NoImages())


def declared(method: Method, tasks: list[TaskInfo]) -> Declared:
    """The parameters that a method trains in all its tasks."""
    found = Declared()
    for task, phase, groups in walk(method, tasks):
        found.add(method, task, phase, groups)
    return found
