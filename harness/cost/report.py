"""Costs of methods on ViT-B/16 at 224 px with 200 classes in 10 tasks: learnable parameters and operations per image.

Counted twice: by the convention of the SMoPE paper's Table 3, in closed form, and as this code executes. Weights are random and
nothing is trained, as no count depends on a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from smope_bench.harness.cost.counting.executed import IMAGES, Counters, Executed
from smope_bench.harness.cost.counting.flop_counters import published_classifier, published_pass
from smope_bench.harness.cost.counting.method_walk import declared, finish, make_method, walk
from smope_bench.harness.errors import UserError
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.text import shell_command
from smope_bench.methods.common.api import Geometry, Method, learnable_count
from smope_bench.methods.common.backbone.backbones import RANDOM_VIT_B16
from smope_bench.methods.common.vit.vit import PromptedViT

CLASSES, TASKS = 200, 10


@dataclass(frozen=True)
class PublishedCost:
    """A method by the published convention: parameters, and operations per image (forward passes only)."""

    parameters: int
    train: int
    test: int
    note: str


@dataclass(frozen=True)
class PhaseCost:
    """A training phase: the tasks that have it (1-based), the scalars it trains, and a step's operations per image."""

    name: str
    tasks: tuple[int, ...]
    parameters: int
    step: Executed


@dataclass(frozen=True)
class MethodCost:
    """A row of the cost table.

    ``parameters``: all scalars that any phase of any task trains, each tensor once and whole. ``phases``: in the order of their
    last steps, the last one being the main training; empty for a method in closed form. ``passes_at_test``: passes of the
    backbone with an adaptation set each in a prediction after the last task, as the method declares them.
    """

    method: str
    title: str
    kind: str
    parameters: int
    published: PublishedCost | None
    phases: tuple[PhaseCost, ...]
    test: Executed
    passes_at_test: int = 1


@dataclass(frozen=True)
class BackboneCost:
    """The bare backbone: complete, and as this code runs it, with the last block for the class token alone."""

    parameters: int
    published: int
    complete: Executed
    own: Executed


@dataclass(frozen=True)
class CostReport:
    """The backbone and a row per method; operations are those of one image."""

    geometry: Geometry
    images: int
    backbone: BackboneCost
    rows: tuple[MethodCost, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def count_costs(registries: Registries, names: Sequence[str], backbone: Any = None) -> CostReport:
    """Count the methods ``names``, in that order, on ViT-B/16 or on another ``backbone``.

    Raises UserError for a name that is not registered and for a plugin's method that cannot be made or does not run.
    """
    classes = {name: registries.methods.load(name) for name in names}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = (backbone or RANDOM_VIT_B16).load()
        counters, geometry = Counters(vit), geometry_of(vit)
        rows = []
        for name, method_class in classes.items():
            try:
                rows.append(_row(method_class, name, geometry, counters))
            except Exception as error:
                if registries.methods.owner(name) == "built-in":  # an error of this project: keep the traceback
                    raise
                raise UserError(_uncountable(name, registries, error)) from error
        bare = BackboneCost(
            parameters=sum(parameter.numel() for parameter in vit.parameters()),
            published=published_pass(vit),
            complete=counters.complete_pass(),
            own=counters.own_pass,
        )
    return CostReport(geometry, IMAGES, bare, tuple(rows))


def _uncountable(name: str, registries: Registries, error: Exception) -> str:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    check = shell_command("check", name, plugins=registries.plugins)
    return (
        f"method {name!r} of {registries.methods.owner(name)} cannot be counted on ViT-B/16: {reason}; leave it out with"
        f" --methods, or put it through: {check}"
    )


def geometry_of(backbone: PromptedViT) -> Geometry:
    """The sizes on which published costs depend, for 200 classes in 10 tasks."""
    return Geometry(backbone.feature_dim, backbone.num_heads, backbone.depth, backbone.num_tokens, CLASSES, TASKS)


def published_cost(method_class: type[Method], geometry: Geometry, a_pass: int) -> PublishedCost | None:
    """A method's cost by the convention of Table 3: passes of ``a_pass`` operations, one classifier, and its extras."""
    cost = method_class.published_cost(geometry)
    if cost is None:
        return None
    classifier = published_classifier(geometry.dim, geometry.num_classes)
    return PublishedCost(
        parameters=cost.parameters,
        train=cost.train_passes * a_pass + classifier + cost.extra_train_flops,
        test=cost.test_passes * a_pass + classifier + cost.extra_test_flops,
        note=cost.note,
    )


def _row(method_class: type[Method], name: str, geometry: Geometry, counters: Counters) -> MethodCost:
    """Walk through the tasks twice: to find all phases, then to count each in its last task."""
    found = declared(*make_method(method_class, name, counters.backbone, CLASSES, TASKS))
    method, tasks = make_method(method_class, name, counters.backbone, CLASSES, TASKS)
    phases: dict[str, PhaseCost] = {}
    for task, phase, groups in walk(method, tasks):
        numbers = tuple(found.tasks_of[phase.name])
        if numbers[-1] == task.index + 1:
            phases[phase.name] = PhaseCost(phase.name, numbers, learnable_count(groups), counters.step(method))
    finish(method)
    return MethodCost(
        method=name,
        title=method_class.card.title,
        kind=method_class.card.kind,
        parameters=found.count,
        published=published_cost(method_class, geometry, published_pass(counters.backbone)),
        phases=tuple(phases.values()),
        test=counters.prediction(method),
        passes_at_test=method.passes_at_test,
    )
