"""HiDe-Prompt and NoRGa beside their official code over three tasks: both stages of its training loop, run as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor

from smope_bench.harness.training.optimization import OptimizationSegment, declare_trainable
from smope_bench.methods.common.alignment.class_stats import GaussianSampler
from smope_bench.methods.common.api import TaskInfo
from smope_bench.methods.hide_prompt import HidePrompt
from tests.fidelity.ledger import Entry  # pyright: ignore[reportMissingImports]
from tests.fidelity.moe_promptcl import (  # pyright: ignore[reportMissingImports]
    BATCH,
    CLASSES,
    CPU,
    PER_TASK,
    TASKS,
    Official,
    Pictures,
    Retrieval,
    add_parameters,
    class_mask,
    optimizer_of,
    our_method,
    raw,
    settings,
    split_rates,
)


class Draws:
    """The pseudo-features of the official alignment, an epoch an entry, in the order in which they were read."""

    def __init__(self, per_class: int) -> None:
        self.per_class = per_class
        self.epochs: list[tuple[Tensor, Tensor]] = []
        self._parts: list[Tensor] = []

    @contextmanager
    def recorded(self, engine: Any) -> Iterator[None]:
        """Note what ``engine`` samples, and each permutation of it."""
        gaussian, shuffle = engine.MultivariateNormal, torch.randperm

        def make(mean: Tensor, covariance: Tensor) -> Any:
            made = gaussian(mean, covariance)
            return SimpleNamespace(sample=lambda sample_shape: self._note(made.sample(sample_shape)))

        def permuted(count: int) -> Tensor:
            order = shuffle(count)
            labels = torch.arange(len(self._parts)).repeat_interleave(self.per_class)
            self.epochs.append((torch.cat(self._parts)[order], labels[order]))
            self._parts = []
            return order

        with patch.object(engine, "MultivariateNormal", make), patch.object(torch, "randperm", permuted):
            yield

    def _note(self, rows: Tensor) -> Tensor:
        self._parts.append(rows)
        return rows


def compare_tasks(entry: Entry, title: str, official: Official, cls: type[HidePrompt], retrieval: Retrieval) -> None:
    """Both stages over three tasks: class statistics, all parameters, chosen tasks and predictions."""
    tii, prompted = official.models(retrieval)
    method = our_method(cls, tii, prompted, retrieval)
    data = [Pictures(method.backbone, task) for task in range(TASKS)]
    first, second = Draws(BATCH), Draws(5 * BATCH)
    loaders = [{"train": raw(each.train), "val": raw(each.test)} for each in data]
    by_class = [{"train": raw([batch])} for each in data for batch in each.by_class]
    given: dict[str, Any] = {"class_mask": class_mask(), "target_task_map": {c: c // PER_TASK for c in range(CLASSES)}}
    criterion = torch.nn.CrossEntropyLoss()
    official.tii_engine.create_optimizer = official.engine.create_optimizer = optimizer_of
    official.engine.create_scheduler = lambda args, optimizer: (_cosine(args, optimizer), args.epochs)
    with TemporaryDirectory() as folder:
        args = settings(lr=0.001, sched="constant", output_dir=folder)
        stage = partial(official.tii_engine.train_and_evaluate, tii, tii, criterion, loaders, by_class)
        with first.recorded(official.tii_engine):
            stage(optimizer_of(args, tii), None, CPU, **given, args=args)
        args = settings(trained_original_model=folder)
        optimizer = optimizer_of(args, split_rates(args, prompted))
        stage = partial(official.engine.train_and_evaluate, prompted, prompted, tii, criterion, loaders, by_class)
        with second.recorded(official.engine):
            stage(optimizer, _cosine(args, optimizer), CPU, **given, args=args)
    _our_tasks(method, data, first, second)
    _add_statistics(entry, f"{title}, stage 1", method.inference.statistics, official.tii_engine)
    _add_statistics(entry, f"{title}, stage 2", method.statistics, official.engine)
    add_parameters(entry, f"{title}, after three tasks", method, tii, prompted)
    _add_predictions(entry, title, method, tii, prompted, data)


def _cosine(args: Any, optimizer: Any) -> Any:
    return CosineLRScheduler(optimizer, t_initial=args.epochs, lr_min=1e-5)


def _our_tasks(method: HidePrompt, data: list[Pictures], first: Draws, second: Draws) -> None:
    """The engine's loop with the official draws, which were made stage by stage, task by task."""
    queue: Iterator[tuple[Tensor, Tensor]] = iter([])

    def draw(_: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        features, labels = next(queue)
        return features[: len(rows)], labels[: len(rows)]

    with patch.object(GaussianSampler, "draw", draw):
        for index, each in enumerate(data):
            task = TaskInfo(index, each.classes, (len(each) // PER_TASK,) * PER_TASK)
            method.enter_task(task)
            method.begin_task(task)
            for phase in method.phases():
                method.begin_phase(phase)
                groups = method.parameter_groups()
                declare_trainable(method, groups)
                own = {"lr": phase.lr, "shape": phase.shape}
                changes = {key: value for key, value in own.items() if value is not None}
                stretch = OptimizationSegment(method.setup.schedule.model_copy(update=changes), groups, phase.epochs)
                for batch in [batch for _ in range(phase.epochs) for batch in each.train]:
                    stretch.set_rate(len(each.train))
                    stretch.descend(method.training_step(batch), method)
            span = slice(3 * (index - 1), 3 * index) if index else slice(0, 0)
            queue = iter([*first.epochs[span], *second.epochs[span]])
            method.end_task(each)


def _add_statistics(entry: Entry, title: str, statistics: Any, engine: Any) -> None:
    means, covariances = (torch.stack([side[c] for c in range(CLASSES)]) for side in (engine.cls_mean, engine.cls_cov))
    entry.add(f"{title}: class means", statistics.mean, means)
    entry.add(f"{title}: class covariances", statistics.covariance + 1e-4 * torch.eye(means.shape[1]), covariances)


@torch.no_grad()
def _add_predictions(
    entry: Entry, title: str, method: HidePrompt, tii: Any, prompted: Any, data: list[Pictures]
) -> None:
    rows: dict[str, list[tuple[Tensor, Tensor]]] = {"task": [], "logits": [], "class": []}
    for batch in [batch for each in data for batch in each.test]:
        task = tii(batch.images)["logits"].argmax(dim=1) // PER_TASK
        rows["task"].append((method.inference.task_of(batch.features, CLASSES), task))
        logits = prompted(batch.images, task_id=TASKS - 1, prompt_id=task[:, None])["logits"]
        mine = method.predict(batch)
        rows["logits"].append((mine, logits))
        rows["class"].append((mine.argmax(dim=1), logits.argmax(dim=1)))
    names = {"task": "inferred tasks", "logits": "logits", "class": "predicted classes"}
    for key, name in names.items():
        ours, theirs = (torch.cat([pair[side] for pair in rows[key]]) for side in (0, 1))
        entry.add(f"{title}, after three tasks, test images: {name}", ours, theirs)
