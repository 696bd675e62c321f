"""Methods that cheat by accident where they learn, keep state or spend memory, each with the requirement that must catch it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from smope_bench.harness.conformance.check import check_one_by_one
from smope_bench.harness.conformance.runner import CheckResult
from smope_bench.harness.registry.registry import open_registries
from smope_bench.methods.common.api import Batch, Method, MethodCard, ParameterGroup, TaskInfo
from smope_bench.methods.common.vit.attention import attend
from smope_bench.methods.common.vit.attention_rules import AttentionRule


def verdicts_of(method: type[Method]) -> list[CheckResult]:
    """What the kit says of a method that no registry knows."""
    return list(verdicts_one_by_one(method))


def verdicts_one_by_one(method: type[Method]) -> Iterator[CheckResult]:
    """The same; what nobody waits for is not examined."""
    registries = open_registries()
    registries.methods.add("candidate", "tests", method)
    return check_one_by_one("candidate", registries)


class Honest(Method):
    """A linear head on frozen features."""

    name: ClassVar[str] = "honest"
    card = MethodCard("Honest", "a head")
    served: Tensor

    def __init__(self, config: Any, backbone: Any, setup: Any) -> None:
        super().__init__(config, backbone, setup)
        self.head = nn.Linear(backbone.feature_dim, setup.num_classes)
        self.spare = nn.Parameter(torch.ones(1))
        self.register_buffer("served", torch.zeros(1))

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("head", list(self.head.parameters()))]

    def training_step(self, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.backbone(batch.images)), batch.targets)

    def predict(self, batch: Batch) -> Tensor:
        return self.head(self.backbone(batch.images))[:, : self.seen_classes]


class MovesWhatItDidNotDeclare(Honest):
    def training_step(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            self.spare += 1
        return super().training_step(batch)


class TunesTheBackbone(Honest):
    def training_step(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            self.backbone.vit.cls_token += 1e-3  # type: ignore[operator]
        return super().training_step(batch)


class ForgetsItsState(Honest):
    """Keeps what it learned outside parameters and buffers, so that a checkpoint loses it."""

    def __init__(self, config: Any, backbone: Any, setup: Any) -> None:
        super().__init__(config, backbone, setup)
        self.bias = 0.0

    def training_step(self, batch: Batch) -> Tensor:
        self.bias += 1.0
        return super().training_step(batch) * self.bias


class DrawsFromTheClock(Honest):
    def training_step(self, batch: Batch) -> Tensor:
        torch.seed()
        return super().training_step(batch) * torch.rand(())


class RewritesItsPast(Honest):
    """Declares the classifier's rows of finished tasks settled, but its softmax over all classes goes on moving them."""

    def settled(self) -> dict[str, Tensor]:
        return {
            f"rows of task {task}": self.head.weight[2 * task : 2 * task + 2] for task in range(self.task_index + 1)
        }


class LosesItsPast(Honest):
    def settled(self) -> dict[str, Tensor]:
        return {f"spare of task {self.task_index}": self.spare}


class KeepsItsTrainingData(Honest):
    def end_task(self, data: Any) -> None:
        self.kept = {"earlier": [data]}


class KeepsABatch(Honest):
    def training_step(self, batch: Batch) -> Tensor:
        self.last = batch
        return super().training_step(batch)


class HidesTestViews(Honest):
    """Finds the test images in its caller and keeps them out of sight."""

    def end_task(self, data: Any) -> None:
        tests = sys._getframe(1).f_locals["self"].stream.tests
        self.peek = functools.partial(lambda index: tests[index], 0)


class HoldsPixels(Honest):
    def end_task(self, data: Any) -> None:
        self.pixels = torch.from_numpy(data._view.images)


class PeeksAhead(Honest):
    """A task's view shares its pixel array with all the others; this one reads on."""

    brightness = 1.0

    def epoch_batches(self, data: Any) -> Any:
        self.brightness = float(data._view.images.mean()) / 255
        return super().epoch_batches(data)

    def training_step(self, batch: Batch) -> Tensor:
        return super().training_step(batch) * self.brightness


class LearnsFromTestImages(Honest):
    """What it was tested on decides how it trains on the next task."""

    def predict(self, batch: Batch) -> Tensor:
        self.__dict__["brightness"] = float(batch.images.mean())
        return super().predict(batch)

    def training_step(self, batch: Batch) -> Tensor:
        return super().training_step(batch) * self.__dict__.get("brightness", 1.0)


class Leaves(Honest):
    def training_step(self, batch: Batch) -> Tensor:
        sys.exit(7)


class LeavesWhenHalf(Honest):
    def training_step(self, batch: Batch) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise SystemExit(7)
        return super().training_step(batch)


class Crashes(Honest):
    def training_step(self, batch: Batch) -> Tensor:
        raise IndexError("list index out of range")


class CountsTheStepsOfATask(Honest):
    """Its counter begins anew with a task, and so once more where a run goes on inside one."""

    def begin_task(self, task: TaskInfo) -> None:
        self.count = 0

    def training_step(self, batch: Batch) -> Tensor:
        self.count += 1
        return super().training_step(batch) * self.count


class Prompted(Honest):
    """Also learns a factor for the values of the first block."""

    def parameter_groups(self) -> list[ParameterGroup]:
        return [*super().parameter_groups(), ParameterGroup("factor", [self.spare])]

    def rule(self, batch: Batch) -> AttentionRule:
        return lambda q, k, v: attend(q, k, v * self.spare)

    def training_step(self, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.backbone(batch.images, {0: self.rule(batch)})), batch.targets)

    def predict(self, batch: Batch) -> Tensor:
        return self.head(self.backbone(batch.images, {0: self.rule(batch)}))[:, : self.seen_classes]


class CountsInItsRule(Prompted):
    """A recomputed block counts twice."""

    def rule(self, batch: Batch) -> AttentionRule:
        def counted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.served += self.training
            return attend(q, k, v * self.spare)

        return counted


class DrawsInItsRule(Prompted):
    """One number for a batch, of which there are several where the batch is divided."""

    def rule(self, batch: Batch) -> AttentionRule:
        return lambda q, k, v: attend(q, k, v * (self.spare + torch.rand(()) if self.training else self.spare))


class CannotBeDivided(Prompted):
    """Its rule has a factor for each image and does not say how it is divided."""

    def rule(self, batch: Batch) -> AttentionRule:
        factors = batch.images.mean(dim=(1, 2, 3))[:, None, None, None]
        return lambda q, k, v: attend(q, k, v * factors * self.spare)


class GoesAroundThePasses(Honest):
    """Calls the model inside the backbone, whose blocks no memory plan reaches."""

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("all", [*self.head.parameters(), self.spare])]

    def training_step(self, batch: Batch) -> Tensor:
        features = self.backbone.vit(batch.images * self.spare)
        return nn.functional.cross_entropy(self.head(features), batch.targets)


class DividesWrongly(Prompted):
    """Gives every part of a batch what belongs to its first images."""

    def rule(self, batch: Batch) -> AttentionRule:
        factors = batch.images.mean(dim=(1, 2, 3))[:, None, None, None]
        return Factors(factors, lambda v, factors: v * factors * self.spare)


class Factors:
    def __init__(self, factors: Tensor, apply: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.factors = factors
        self.apply = apply

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, self.apply(v, self.factors))

    def part(self, rows: slice) -> Factors:
        return Factors(self.factors[: rows.stop - rows.start], self.apply)


class AveragesUndeclaredPasses(Honest):
    """Predicts with two passes and declares one."""

    def predict(self, batch: Batch) -> Tensor:
        return self.head(self.backbone.forward_each(batch.images, [{}, {}]).mean(0))[:, : self.seen_classes]


LEARNING: dict[type[Method], str] = {
    MovesWhatItDidNotDeclare: "gradients only where declared",
    TunesTheBackbone: "backbone untouched",
    ForgetsItsState: "save, load, continue",
    CountsTheStepsOfATask: "save, load, continue",
    DrawsFromTheClock: "repeats bit for bit",
    RewritesItsPast: "earlier tasks settled",
    LosesItsPast: "earlier tasks settled",
    KeepsItsTrainingData: "keeps no data",
    KeepsABatch: "keeps no data",
    HidesTestViews: "keeps no data",
    HoldsPixels: "keeps no data",
    PeeksAhead: "blind to later tasks and test images",
    LearnsFromTestImages: "blind to later tasks and test images",
    Leaves: "runs",
    LeavesWhenHalf: "bf16",
    Crashes: "runs",
    CountsInItsRule: "short of memory",
    DrawsInItsRule: "short of memory",
    CannotBeDivided: "short of memory",
    DividesWrongly: "short of memory",
    GoesAroundThePasses: "short of memory",
    AveragesUndeclaredPasses: "cost",
}
