"""Runs of the conformance kit: a method through the real trainer, with its state copied after every task."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smope_bench.benchmarks.augmentation import normalize_text
from smope_bench.benchmarks.stream import Stream
from smope_bench.harness.cancellation import Interrupted, StopRequest
from smope_bench.harness.conformance.fixtures import ColouredNoise
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.run_spec import BackboneRef, Component, Precision, RunSpec
from smope_bench.harness.training.trainer import Trainer
from smope_bench.methods.common.api import Batch, Method, ParameterGroup
from smope_bench.methods.common.backbone.backbones import MICRO, Backbone
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT

FAULTS = (Exception, SystemExit)
"""Exceptions of a method that fail a check. KeyboardInterrupt is not among them: it comes from the user."""
SCHEDULE = {"batch_size": 8, "epochs": 2, "lr": 0.01}

Verdict = tuple[bool, str]
"""Whether a requirement is met, and what was observed."""


@dataclass(frozen=True)
class CheckResult:
    """One requirement, whether it is met, and what was observed; ``remedy``: how to meet it, empty where it is met."""

    name: str
    passed: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Stage:
    """State of a method after a task was trained and evaluated: all of it, and the part that it declares settled."""

    state: dict[str, Tensor]
    settled: dict[str, Tensor]


@dataclass
class CheckRun:
    """A run of the kit that ended or was stopped; ``stages`` has an entry a task."""

    trainer: Trainer
    declared: set[str]
    before: dict[str, Tensor]
    backbone_before: str
    stages: list[Stage]


@dataclass(frozen=True)
class MethodUnderCheck:
    """A method under check: its name, where it is registered, a scratch folder, and its first complete run.

    ``shown``: every different image (3, S, S) that this run made for the model.
    """

    name: str
    registries: Registries
    root: Path
    first: CheckRun
    shown: tuple[Tensor, ...] = ()

    def again(self, folder: str, **options: Any) -> CheckRun:
        """Another run in a subfolder; the options are those of ``run``."""
        return run(self.name, self.registries, self.root / folder, **options)


class KitBackbone(Backbone):
    """Another backbone under the name of the kit's own; runs in scratch folders find its weights where they are."""

    def __init__(self, base: Backbone) -> None:
        self.base, self.name, self.summary = base, MICRO.name, base.summary
        self.architecture, self.is_random, self.mean, self.std = base.architecture, base.is_random, base.mean, base.std

    @property
    def sha256(self) -> str:
        """The base's."""
        return self.base.sha256

    @property
    def image_size(self) -> int:
        """The base's."""
        return self.base.image_size

    def load(self) -> PromptedViT:
        """The base's."""
        return self.base.load()


def register(registries: Registries, backbone: Backbone = MICRO) -> None:
    """Add the kit's backbone, or another in its place, and its benchmark, once."""
    if MICRO.name not in registries.backbones.names():
        kit = backbone if backbone is MICRO else KitBackbone(backbone)
        registries.backbones.add(MICRO.name, "the conformance kit", kit)
        registries.benchmarks.add(ColouredNoise.name, "the conformance kit", ColouredNoise)


def spec_of(name: str, registries: Registries, precision: Precision = "fp32") -> RunSpec:
    """Three tasks of two classes with the method's default configuration."""
    method, backbone = registries.methods.load(name), registries.backbones.load(MICRO.name)
    data: dict[str, Any] = {"tasks": 3, "image_size": backbone.image_size}
    if backbone.mean is not None and backbone.std is not None:
        data["normalize"] = normalize_text(backbone.mean, backbone.std)
    return RunSpec(
        method=Component(name=name, config=method.Config().model_dump(mode="json")),
        benchmark=Component(name=ColouredNoise.name, config=data),
        backbone=BackboneRef(name=MICRO.name, sha256=backbone.sha256),
        schedule=Schedule(**SCHEDULE).model_dump(mode="json"),
        precision=precision,
    )


def run(
    name: str,
    registries: Registries,
    folder: Path,
    *,
    precision: Precision = "fp32",
    device: str = "cpu",
    stream: Stream | None = None,
    stop: tuple[str, int] | None = None,
    steps: int | None = None,
    prepare: Callable[[Trainer], None] = lambda _: None,
) -> CheckRun:
    """Run three tasks to the end, or until ``stop``, the name and task of an event, as if killed there.

    ``steps``: request a stop in that step, from 1; the next run in the same folder resumes. ``prepare`` is called with the
    trainer before its first task.
    """
    spec = spec_of(name, registries, precision)
    stages: list[Stage] = []
    stop_request = StopRequest()

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "task_evaluated":
            stages.append(Stage(state_of(trainer.method), clones(trainer.method.settled())))
        if (event["event"], event.get("task")) == stop:
            raise _StoppedError

    context = RunContext(stop_request, emit=listen)
    with (
        torch.random.fork_rng(devices=[]),
        Trainer(spec, RunOptions(folder, folder, device=device), context, registries, stream=stream) as trainer,
    ):
        before = state_of(trainer.method)
        frozen = digest(trainer.backbone)
        declared = _note_declared(trainer.method)
        if steps is not None:
            _stop_after(steps, trainer.method, stop_request)
        prepare(trainer)
        with contextlib.suppress(_StoppedError, Interrupted):
            trainer.run_tasks()
    return CheckRun(trainer, declared, before, frozen, stages)


def _note_declared(method: Method) -> set[str]:
    """The names of all parameters that any phase declares, filled during the run."""
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    declared: set[str] = set()
    original = method.parameter_groups

    def noted() -> list[ParameterGroup]:
        groups = original()
        declared.update(names[id(p)] for group in groups for p in group.parameters if id(p) in names)
        return groups

    method.__dict__["parameter_groups"] = noted
    return declared


def _stop_after(steps: int, method: Method, stop_request: StopRequest) -> None:
    """Request a stop during step number ``steps``, from 1."""
    number, original = itertools.count(1), method.training_step

    def counted(batch: Batch) -> Tensor:
        if next(number) == steps:
            stop_request.set()
        return original(batch)

    method.__dict__["training_step"] = counted


class _StoppedError(RuntimeError):
    """Simulates a kill between two tasks."""


def state_of(method: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return clones(method.state_dict())


def clones(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached copies, which later training does not change."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def different(one: dict[str, Tensor], two: dict[str, Tensor]) -> list[str]:
    """Names whose tensors are not bit-identical."""
    return [name for name in one if name not in two or not same_bits(one[name], two[name])]


def same_bits(one: Tensor, two: Tensor) -> bool:
    """Same type, shape and values."""
    return one.dtype == two.dtype and torch.equal(one, two)


def same_result(first: CheckRun, second: CheckRun, what: str) -> Verdict:
    """Whether two complete runs have the same predictions and the same final state, to the bit."""
    same_matrix = first.trainer.progress.predictions == second.trainer.progress.predictions
    moved = different(state_of(first.trainer.method), state_of(second.trainer.method))
    if same_matrix and not moved:
        return True, f"{what}: same predictions, same state"
    return False, f"{what}: differs in {', '.join(moved) or 'predictions'}"


def digest(module: nn.Module) -> str:
    """Sha256 (hex) of all parameters and buffers."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode())
        # As bytes, because numpy lacks some types of weights, such as bfloat16.
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
