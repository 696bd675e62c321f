"""One run of the conformance kit: a method through the real engine, watched after every task."""

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

from smope_bench.benchmarks.stream import Stream
from smope_bench.harness.cancellation import Interrupted, StopRequest
from smope_bench.harness.conformance.fixtures import ColouredNoise
from smope_bench.harness.conformance.verdicts import CheckResult
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.run_spec import BackboneRef, Component, Precision, RunSpec
from smope_bench.harness.training.trainer import Trainer
from smope_bench.methods.common.api import Batch, Method, ParameterGroup
from smope_bench.methods.common.backbone.backbones import MICRO
from smope_bench.methods.common.schedules import Schedule

FAULTS = (Exception, SystemExit)
"""What a method may raise: its own fault and a verdict, where Ctrl-C is the user's wish."""
SCHEDULE = {"batch_size": 8, "epochs": 2, "lr": 0.01}


@dataclass(frozen=True)
class Stage:
    """A method once a task is learnt and evaluated: all of its state, and what it declares settled."""

    state: dict[str, Tensor]
    settled: dict[str, Tensor]


@dataclass
class Finished:
    """A run of the kit, with the method as it was left; ``stages`` has an entry a task."""

    session: Trainer
    declared: set[str]
    before: dict[str, Tensor]
    backbone_before: str
    stages: list[Stage]


def register(registries: Registries) -> None:
    """Add the kit's backbone and benchmark where they are not known yet."""
    if MICRO.name not in registries.backbones.names():
        registries.backbones.add(MICRO.name, "the conformance kit", MICRO)
        registries.benchmarks.add(ColouredNoise.name, "the conformance kit", ColouredNoise)


def spec_of(name: str, registries: Registries, precision: Precision = "fp32") -> RunSpec:
    """Three tasks of two classes with the method's default configuration."""
    method = registries.methods.load(name)
    return RunSpec(
        method=Component(name=name, config=method.Config().model_dump(mode="json")),
        benchmark=Component(name=ColouredNoise.name, config={"tasks": 3, "image_size": 16}),
        backbone=BackboneRef(name=MICRO.name, sha256=MICRO.sha256),
        schedule=Schedule(**SCHEDULE).model_dump(mode="json"),
        precision=precision,
    )


def run(
    name: str,
    registries: Registries,
    folder: Path,
    *,
    precision: Precision = "fp32",
    stream: Stream | None = None,
    stop: tuple[str, int] | None = None,
    steps: int | None = None,
    prepare: Callable[[Trainer], None] = lambda _: None,
) -> Finished:
    """Run to the end, or until the event ``stop`` of a task. The stages are noted before anything else can happen.

    ``steps``: the run is asked to stop after so many, and goes on from there when it is run in the same folder again;
    ``prepare`` is shown the session before its tasks begin.
    """
    spec = spec_of(name, registries, precision)
    stages: list[Stage] = []
    stop_request = StopRequest()

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "task_evaluated":
            stages.append(Stage(state_of(session.method), clones(session.method.settled())))
        if (event["event"], event.get("task")) == stop:
            raise _StoppedError

    context = RunContext(stop_request, emit=listen)
    with (
        torch.random.fork_rng(devices=[]),
        Trainer(spec, RunOptions(folder, folder), context, registries, stream=stream) as session,
    ):
        before = state_of(session.method)
        frozen = digest(session.backbone)
        declared = _note_declared(session.method)
        if steps is not None:
            _ask_after(steps, session.method, stop_request)
        prepare(session)
        with contextlib.suppress(_StoppedError, Interrupted):
            session.run_tasks()
    return Finished(session, declared, before, frozen, stages)


def _note_declared(method: Method) -> set[str]:
    """Names of the parameters that any phase declares, filled while the run goes on."""
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    declared: set[str] = set()
    original = method.parameter_groups

    def noted() -> list[ParameterGroup]:
        groups = original()
        declared.update(names[id(p)] for group in groups for p in group.parameters if id(p) in names)
        return groups

    method.__dict__["parameter_groups"] = noted
    return declared


def _ask_after(steps: int, method: Method, stop_request: StopRequest) -> None:
    """Have the run asked to stop while it takes its step number ``steps``, from 1."""
    number, original = itertools.count(1), method.training_step

    def counted(batch: Batch) -> Tensor:
        if next(number) == steps:
            stop_request.set()
        return original(batch)

    method.__dict__["training_step"] = counted


class _StoppedError(RuntimeError):
    """Stands for a kill between two tasks."""


def state_of(method: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return clones(method.state_dict())


def clones(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that later training cannot reach."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def different(one: dict[str, Tensor], two: dict[str, Tensor]) -> list[str]:
    """Names whose tensors are not the same to the bit."""
    return [name for name in one if name not in two or not same_bits(one[name], two[name])]


def same_bits(one: Tensor, two: Tensor) -> bool:
    """Same type, shape and values."""
    return one.dtype == two.dtype and torch.equal(one, two)


def same_result(name: str, first: Finished, second: Finished, what: str) -> CheckResult:
    """Whether two runs to the end gave the same predictions and left the same state, to the bit."""
    same_matrix = first.session.progress.predictions == second.session.progress.predictions
    moved = different(state_of(first.session.method), state_of(second.session.method))
    if same_matrix and not moved:
        return CheckResult(name, True, f"{what}: same predictions, same state")
    return CheckResult(name, False, f"{what}: differs in {', '.join(moved) or 'predictions'}")


def digest(module: nn.Module) -> str:
    """Sha256 (hex) of all parameters and buffers."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode())
        # As bytes: numpy has no name for every type that a backbone's weights are kept in.
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
