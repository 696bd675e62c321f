"""What the tests of interrupted runs share: methods that are hard to resume, and runs that are cut off again and again."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smope_bench.harness.conformance.runner import state_of
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import RunSpec
from smope_bench.harness.training.trainer import Trainer
from smope_bench.methods.common.api import Batch, Method, MethodCard, ParameterGroup, Phase, TaskInfo, TrainingData
from tests.harness.stand_ins import given  # pyright: ignore[reportMissingImports]

OFTEN: dict[str, Any] = {"checkpoint_every_s": 0.0}


class Hoarder(Method):
    """Everything that is hard to resume: parameters that arrive with tasks, memories set by hooks, draws from every generator,
    hooks that do something else where the method is not in training mode.

    Four phases, of which the third and the fourth continue the second; buffers that every step changes.
    """

    name: ClassVar[str] = "hoarder"
    card = MethodCard("Hoarder", "for tests")
    steps: Tensor
    prepared: Tensor

    def __init__(self, config: Any, backbone: Any, setup: Any) -> None:
        super().__init__(config, backbone, setup)
        self.heads = nn.ModuleList()
        self.scale = nn.Parameter(torch.rand(3))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("prepared", torch.zeros(2))
        self.before: Tensor | None = None
        self.luck = 0.0
        self.phase = ""

    def begin_task(self, task: TaskInfo) -> None:
        self.before = self.scale.detach().clone()
        self.luck = float(nn.functional.dropout(torch.rand(8), 0.5, self.training).sum()) / 8
        self.heads.append(nn.Linear(self.backbone.feature_dim, len(task.new_classes)))
        self.register_buffer(f"seen_{task.index}", torch.zeros(len(task.new_classes), dtype=torch.long))

    def prepare_task(self, data: TrainingData) -> None:
        means = sum(float(batch.images.mean()) for batch in data.batches(shuffle=True))
        self.prepared += torch.tensor([1.0, means + float(torch.rand(()))])

    def phases(self) -> list[Phase]:
        return [
            Phase("warm", 1, lr=0.1, shape="constant"),
            Phase("all", 2),
            Phase("rest", 1, continues=True),
            Phase("head", 1, continues=True),
        ]

    def begin_phase(self, phase: Phase) -> None:
        self.phase = phase.name

    def parameter_groups(self) -> list[ParameterGroup]:
        groups = [ParameterGroup("head", list(self.heads[-1].parameters()), 2.0)]
        return groups if self.phase in ("warm", "head") else [*groups, ParameterGroup("scale", [self.scale])]

    def training_step(self, batch: Batch) -> Tensor:
        assert self.before is not None
        drawn = float(np.random.normal()) + random.gauss(0, 1) + float(torch.randn(())) + self.luck
        self.steps += 1
        counts = getattr(self, f"seen_{self.task_index}")
        counts += torch.bincount(batch.targets - self.old_classes, minlength=len(counts))
        features = nn.functional.dropout(self.backbone(batch.images), 0.2) * (1 + 0.01 * drawn)
        loss = nn.functional.cross_entropy(self.heads[-1](features), batch.targets - self.old_classes)
        return (
            loss * (1 + 0.001 * int(self.steps)) * (1 + 0.01 * float(self.prepared.sum()))
            + (self.scale - self.before - self.luck).square().sum()
        )

    def end_task(self, data: TrainingData) -> None:
        with torch.no_grad():
            self.scale.add_(0.01 * torch.randn(3) + sum(float(batch.images.mean()) for batch in data.batches()))

    def predict(self, batch: Batch) -> Tensor:
        features = self.backbone(batch.images)
        return torch.cat([head(features) for head in self.heads], dim=1) * self.scale.mean()


class Replayer(Hoarder):
    """Makes its batches from what it has seen in the epoch and from the parameters as they are."""

    name: ClassVar[str] = "replayer"

    def epoch_batches(self, data: TrainingData) -> Iterator[Batch]:
        last: Tensor | None = None
        for batch in data.batches(shuffle=True):
            images = batch.images if last is None else batch.images + float(torch.rand(())) * last.mean()
            last = batch.images * self.scale.detach().mean()
            yield Batch(images, batch.labels)


class Killed(BaseException):
    """Stands for the power failing."""


@dataclass
class Outcome:
    """All that a run leaves behind and that must not depend on interruptions."""

    matrix: Any
    costs: dict[str, Any]
    predictions: bytes
    observations: bytes | None
    state: dict[str, Tensor]
    events: list[dict[str, Any]]


def finish(spec: RunSpec, registries: Registries, folder: Path, observe: Iterable[str] = (), **options: Any) -> Outcome:
    """Run to the end."""
    with (
        torch.random.fork_rng(devices=[]),
        Trainer(spec, *given(folder, **options), registries=registries, observe=observe) as session,
    ):
        session.run_tasks()
        session.publish("now")
        state = state_of(session.method)
    store = Store(folder)
    record = store.load(spec.run_id)
    assert isinstance(record, Record)
    return Outcome(
        record.result["accuracy_matrix"],
        {
            key: value
            for key, value in record.result["costs"].items()
            if key not in ("peak_memory_mb", "memory_increase_mib")
        },
        (folder / spec.run_id / "predictions.npz").read_bytes(),
        store.observations(record),
        state,
        events(folder, spec),
    )


def events(folder: Path, spec: RunSpec) -> list[dict[str, Any]]:
    """The run's log without its times."""
    lines = (folder / spec.run_id / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "t"} for line in lines]


def assert_same(one: Outcome, other: Outcome) -> None:
    """Bit for bit."""
    assert one.matrix == other.matrix
    assert one.events == other.events
    assert one.costs == other.costs
    assert one.predictions == other.predictions
    assert one.observations == other.observations
    assert one.state.keys() == other.state.keys()
    assert [name for name in one.state if not torch.equal(one.state[name], other.state[name])] == []


def cut(spec: RunSpec, registries: Registries, folder: Path, saves: int) -> Path:
    """A run that died inside a task; the folder of its checkpoints."""
    with pytest.raises(Killed):
        finish(spec, registries, folder, may_publish=dies_at_save(saves), **OFTEN)
    return folder / spec.run_id / "checkpoint"


def place_of(spec: RunSpec, registries: Registries, folder: Path) -> Any:
    """Where the next attempt would begin: finished tasks, and the place inside the next."""
    session = Trainer(spec, *given(folder), registries=registries)
    inside = session._resume_from
    return session.progress.tasks_done, inside and inside.position


def full_disk(file: Path, *_: Any, **__: Any) -> None:
    """In the place of a function that writes."""
    raise OSError(errno.ENOSPC, "No space left on device", str(file))


def dies_at_save(number: int) -> Callable[[], bool]:
    """For ``may_publish``: the power fails when the checkpoint of this number, from 0, is about to be written."""
    asked = iter(range(number))

    def may_publish() -> bool:
        if next(asked, None) is None:
            raise Killed
        return True

    return may_publish
