"""The conformance kit: what every method and plugin must pass before its numbers mean anything.

It runs the method through the real engine on a small synthetic stream with a micro backbone, and looks for leaks, for
gradients outside the declared parameters, for state that a checkpoint loses, and for anything that does not repeat.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.base import Benchmark, BenchmarkCard, BenchmarkConfig, ImageSet, Progress, Split, silent
from harness.data import features_of, test_batches
from harness.engine import Session
from harness.registry import Registries
from harness.settings import validated
from harness.spec import BackboneRef, Component, Precision, RunSpec
from methods.common.api import Batch, Method, ParameterGroup
from methods.common.backbones import RandomBackbone

TOLERANCE = 1e-4

MICRO = RandomBackbone(
    "conformance-micro",
    "six narrow blocks with random weights",
    {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 6, "num_heads": 2, "num_classes": 0},
)
SCHEDULE = {"batch_size": 8, "epochs": 2, "lr": 0.01}


class ColouredNoise(Benchmark[BenchmarkConfig]):
    """Six classes told apart by their mean colour: 12 training and 5 test images a class, 16 px."""

    name: ClassVar[str] = "conformance-noise"
    card: ClassVar[BenchmarkCard] = BenchmarkCard("Coloured noise", "made by the conformance kit", "none", "synthetic")

    def prepare(self, progress: Progress = silent) -> None:
        """Nothing to do."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Numbered names."""
        return tuple(f"noise {i}" for i in range(6))

    def image_set(self, split: Split) -> ImageSet:
        """The same pixels at every call."""
        rng, count = (np.random.default_rng(0), 12) if split == "train" else (np.random.default_rng(1), 5)
        labels = np.repeat(np.arange(6), count)
        colours = np.array([[(label >> bit) & 1 for bit in range(3)] for label in range(1, 7)]) * 140 + 40
        noise = rng.integers(0, 60, (len(labels), 16, 16, 3))
        return ImageSet((colours[labels][:, None, None] + noise).astype(np.uint8), labels.astype(np.int64))


@dataclass(frozen=True)
class Verdict:
    """One requirement, whether it is met, and what was seen."""

    name: str
    passed: bool
    detail: str


@dataclass
class Finished:
    """A run of the kit, with the method as it was left."""

    session: Session
    declared: set[str]
    before: dict[str, Tensor]
    backbone_before: str


def check(name: str, registries: Registries) -> list[Verdict]:
    """Put the registered method ``name`` through the kit; one verdict a requirement, in a fixed order."""
    method = registries.methods.load(name)
    config = validated(method.Config, {}, name)
    if method.leaks(config):
        return [Verdict("honest", False, "this configuration reproduces a published leak; it is for study only")]
    _register(registries)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            done = _run(name, registries, root / "first")
        except Exception as error:  # whatever a plugin does wrong is a verdict, not a crash of the kit
            return [Verdict("runs", False, _sentence(error))]
        verdicts = [Verdict("runs", True, "three tasks of two classes, trained and evaluated")]
        requirements = (_declared_only, _backbone_frozen, _predicts_without_trace)
        verdicts += [_judged(requirement, done) for requirement in requirements]
        verdicts += list(_batch_independence(done))
        verdicts.append(_judged(lambda first: _repeats(first, name, registries, root), done))
        verdicts.append(_judged(lambda first: _continues(first, name, registries, root), done))
        verdicts.append(_judged(lambda _: _half_precision(name, registries, root), done))
        return verdicts


def _register(registries: Registries) -> None:
    if MICRO.name not in registries.backbones.names():
        registries.backbones.add(MICRO.name, "the conformance kit", MICRO)
        registries.benchmarks.add(ColouredNoise.name, "the conformance kit", ColouredNoise)


def _spec(name: str, registries: Registries, precision: Precision = "fp32") -> RunSpec:
    from methods.common.schedules import Schedule

    method = registries.methods.load(name)
    return RunSpec(
        method=Component(name=name, config=method.Config().model_dump(mode="json")),
        benchmark=Component(name=ColouredNoise.name, config={"tasks": 3, "image_size": 16}),
        backbone=BackboneRef(name=MICRO.name, sha256=MICRO.sha256),
        schedule=Schedule(**SCHEDULE).model_dump(mode="json"),
        precision=precision,
    )


def _run(
    name: str,
    registries: Registries,
    folder: Path,
    *,
    precision: Precision = "fp32",
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> Finished:
    spec = _spec(name, registries, precision)
    with torch.random.fork_rng(devices=[]), _session(spec, folder, registries, on_event) as session:
        before = _state(session.method)
        frozen = _digest(session.backbone)
        declared = _note_declared(session.method)
        session.run_tasks()
    return Finished(session, declared, before, frozen)


def _session(
    spec: RunSpec, folder: Path, registries: Registries, on_event: Callable[[dict[str, Any]], None] | None
) -> Session:
    return Session(spec, folder, folder, "cpu", registries, on_event or (lambda _: None))


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


def _judged(requirement: Callable[[Finished], Verdict], done: Finished) -> Verdict:
    try:
        return requirement(done)
    except Exception as error:  # as above: a broken method must still get all its verdicts
        return Verdict(getattr(requirement, "__name__", "requirement").strip("_"), False, _sentence(error))


def _declared_only(done: Finished) -> Verdict:
    after = dict(done.session.method.named_parameters())
    moved = [n for n, p in after.items() if n not in done.declared and not torch.equal(p.detach(), done.before[n])]
    if moved:
        return Verdict("gradients only where declared", False, f"changed without being declared: {', '.join(moved)}")
    return Verdict("gradients only where declared", True, f"declared: {', '.join(sorted(done.declared)) or 'nothing'}")


def _backbone_frozen(done: Finished) -> Verdict:
    same = _digest(done.session.backbone) == done.backbone_before
    return Verdict("backbone untouched", same, "same bits as before training" if same else "its weights have changed")


def _predicts_without_trace(done: Finished) -> Verdict:
    before = _state(done.session.method)
    _logits(done, 7)
    after = _state(done.session.method)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    detail = f"changed by predict: {', '.join(changed)}" if changed else "no parameter or buffer changes"
    return Verdict("predict leaves no trace", not changed, detail)


def _batch_independence(done: Finished) -> Iterator[Verdict]:
    """The same image must get the same logits alone, in any company and in any order."""
    count = sum(len(view) for view in done.session.stream.tests)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    try:
        reference = torch.cat(_logits(done, count))
        candidates = {
            "batch size 1": torch.cat(_logits(done, 1)),
            "batch size 7": torch.cat(_logits(done, 7)),
            "shuffled order": torch.cat(_logits(done, count, order))[order.argsort()],
        }
    except Exception as error:  # as above
        yield Verdict("independent of the batch", False, _sentence(error))
        return
    scale = max(1.0, float(reference.abs().max()))
    for name, found in candidates.items():
        gap = float((found - reference).abs().max()) / scale
        same = gap <= TOLERANCE and torch.equal(found.argmax(dim=1), reference.argmax(dim=1))
        yield Verdict(f"independent of {name}", same, f"largest relative difference {gap:.1e}")


@torch.no_grad()
def _logits(done: Finished, batch_size: int, order: Tensor | None = None) -> list[Tensor]:
    session = done.session
    session.method.eval()
    parts: list[tuple[Tensor, Tensor | None]] = []
    for view in session.stream.tests:
        query = None
        if session.method.needs_query:
            query = features_of(view, session.stream.transforms, session.backbone.features, session.device)
        batch = next(test_batches(view, session.stream.transforms, batch_size=len(view), device=session.device))
        parts.append((batch.images, query))
    images = torch.cat([images for images, _ in parts])
    queries = torch.cat([query for _, query in parts if query is not None]) if session.method.needs_query else None
    rows = torch.arange(len(images)) if order is None else order
    return [
        session.method.predict(Batch(images[part], None, None if queries is None else queries[part]))
        for part in rows.split(batch_size)
    ]


def _repeats(first: Finished, name: str, registries: Registries, root: Path) -> Verdict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(987)  # a method must not depend on what was drawn before the run
        again = _run(name, registries, root / "again")
    return _same_result("repeats bit for bit", first, again, "a second run from the same spec")


def _continues(first: Finished, name: str, registries: Registries, root: Path) -> Verdict:
    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "task_started" and event["task"] == 1:
            raise _StoppedError

    with contextlib.suppress(_StoppedError):
        _run(name, registries, root / "stopped", on_event=stop)
    resumed = _run(name, registries, root / "stopped")
    return _same_result("save, load, continue", first, resumed, "stopped after the first task and continued")


def _half_precision(name: str, registries: Registries, root: Path) -> Verdict:
    _run(name, registries, root / "bf16", precision="bf16")
    return Verdict("bf16", True, "runs under bf16 autocast")


def _same_result(name: str, first: Finished, second: Finished, what: str) -> Verdict:
    same_matrix = first.session.progress.predictions == second.session.progress.predictions
    one, two = _state(first.session.method), _state(second.session.method)
    different = [key for key in one if not torch.equal(one[key], two[key])]
    if same_matrix and not different:
        return Verdict(name, True, f"{what}: same predictions, same state")
    return Verdict(name, False, f"{what}: differs in {', '.join(different) or 'predictions'}")


class _StoppedError(RuntimeError):
    """Stands for a kill between two tasks."""


def _state(method: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in method.state_dict().items()}


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def failed(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The requirements that are not met."""
    return [verdict for verdict in verdicts if not verdict.passed]


def check_target(target: str) -> dict[str, list[Verdict]]:
    """Verdicts of a registered method by name, or of every method that a plugin file defines."""
    from harness.registry import open_registries

    if not target.endswith(".py"):
        return {target: check(target, open_registries())}
    known = set(open_registries().methods.names())
    registries = open_registries([Path(target)])
    return {name: check(name, registries) for name in registries.methods.names() if name not in known}
