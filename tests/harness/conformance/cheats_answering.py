"""Methods that cheat by accident where they answer, each with the requirement of the conformance kit that must catch it."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from smope_bench.methods.common.api import Batch, Method, TaskInfo
from tests.harness.conformance.cheats import Honest  # pyright: ignore[reportMissingImports]


class MajorityVote(Honest):
    """Every image of a batch gets what most of the batch wants."""

    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        winner = logits.argmax(dim=1).mode().values
        return logits + 100 * nn.functional.one_hot(winner, logits.shape[1])


class NormalisesOverTheBatch(Honest):
    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        return (logits - logits.mean(dim=0)) / (logits.std(dim=0, correction=0) + 1e-6)


class MixesNeighbours(Honest):
    """A reshape where a permute is meant: image b reads its neighbours' features."""

    def predict(self, batch: Batch) -> Tensor:
        features = self.backbone(batch.images)
        mixed = features.T.reshape(features.shape)
        return self.head(mixed)[:, : self.seen_classes]


class ReadsLabels(Honest):
    def predict(self, batch: Batch) -> Tensor:
        return nn.functional.one_hot(batch.targets, self.seen_classes).float()


class SeesTheFuture(Honest):
    def predict(self, batch: Batch) -> Tensor:
        return self.head(self.backbone(batch.images))


class LearnsAtTest(Honest):
    def predict(self, batch: Batch) -> Tensor:
        self.served += len(batch.images)
        return super().predict(batch)


class CalibratesLargeBatches(Honest):
    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        return logits - logits.mean(dim=0) if len(logits) >= 100 else logits


class CannotTellTwoClassesApart(Honest):
    """No cheat: its two best classes are equal but for rounding, which differs with the size of the batch."""

    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        logits[:, 0] = logits[:, 1] = logits.amax(dim=1) + 1
        logits[:, len(logits) % 2] += 1e-6
        return logits


class VotesOnTheTask(Honest):
    """The images of a batch elect the task that all of them belong to."""

    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        by_task = logits.softmax(dim=1).unflatten(1, (-1, 2)).sum(dim=2)
        winner = by_task.sum(dim=0).argmax()
        return logits + 10 * nn.functional.one_hot(winner, by_task.shape[1]).repeat_interleave(2)


class TeachesItselfAtTest(Honest):
    """Keeps its state, but answers by all the images that it was ever served."""

    def predict(self, batch: Batch) -> Tensor:
        served = self.__dict__.setdefault("served_images", [])
        served.append(self.backbone(batch.images).mean(dim=0))
        return self.head(self.backbone(batch.images) - 5 * served[0])[:, : self.seen_classes]


class PeeksAtTheTask(Honest):
    """Reads off its caller which task's view it is shown, and answers within that task's classes."""

    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        view = sys._getframe(1).f_locals.get("view")
        if view is not None:
            mask = torch.full_like(logits, -100.0)
            mask[:, int(view.labels.min()) : int(view.labels.max()) + 1] = 0.0
            logits = logits + mask
        return logits


class CountsTheQuestions(Honest):
    """Tasks are tested in turn: the number of a question tells the task."""

    def begin_task(self, task: TaskInfo) -> None:
        self.__dict__["asked"] = 0

    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        task = self.__dict__["asked"]
        self.__dict__["asked"] = task + 1
        if task <= self.task_index:
            logits[:, 2 * task : 2 * task + 2] += 100
        return logits


class LeavesOutWhatItReads(Honest):
    """Says that only training needs its biases."""

    only_for_training = ("head.bias",)


ANSWERING: dict[type[Method], str] = {
    MajorityVote: "independent of batch size 1",
    NormalisesOverTheBatch: "independent of batch size 7",
    MixesNeighbours: "independent of batch size 7",
    ReadsLabels: "runs",
    SeesTheFuture: "runs",
    LearnsAtTest: "predict leaves no trace",
    CalibratesLargeBatches: "independent of batch size 128",
    VotesOnTheTask: "independent of the task it is served with",
    TeachesItselfAtTest: "blind to later tasks and test images",
    PeeksAtTheTask: "blind to the task id",
    CountsTheQuestions: "blind to the task id",
    LeavesOutWhatItReads: "predicts when kept",
}
