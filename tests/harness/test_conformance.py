"""The kit passes every built-in method and catches each way of cheating by accident."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.base import BenchmarkConfig
from benchmarks.stream import View, build_stream
from harness.conformance import ColouredNoise, Verdict, check, check_target, failed
from harness.conformance_stream import kept_test_images, with_other_future
from harness.registry import open_registries
from methods import BUILTIN
from methods.common.api import Batch, Method, MethodCard, ParameterGroup


class Honest(Method):
    """A linear head on frozen features."""

    name: ClassVar[str] = "honest"
    card = MethodCard("Honest", "a head")

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


class CalibratesLargeBatches(Honest):
    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        return logits - logits.mean(dim=0) if len(logits) >= 100 else logits


class VotesOnTheTask(Honest):
    """The images of a batch elect the task that all of them belong to."""

    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        by_task = logits.softmax(dim=1).unflatten(1, (-1, 2)).sum(dim=2)
        winner = by_task.sum(dim=0).argmax()
        return logits + 10 * nn.functional.one_hot(winner, by_task.shape[1]).repeat_interleave(2)


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

    def begin_task(self, task: Any) -> None:
        self.__dict__["asked"] = 0

    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        task = self.__dict__["asked"]
        self.__dict__["asked"] = task + 1
        if task <= self.task_index:
            logits[:, 2 * task : 2 * task + 2] += 100
        return logits


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


CHEATS: dict[type[Method], str] = {
    MajorityVote: "independent of batch size 1",
    NormalisesOverTheBatch: "independent of batch size 7",
    MixesNeighbours: "independent of batch size 7",
    ReadsLabels: "runs",
    SeesTheFuture: "runs",
    LearnsAtTest: "predict leaves no trace",
    MovesWhatItDidNotDeclare: "gradients only where declared",
    TunesTheBackbone: "backbone untouched",
    ForgetsItsState: "save, load, continue",
    DrawsFromTheClock: "repeats bit for bit",
    RewritesItsPast: "earlier tasks settled",
    LosesItsPast: "earlier tasks settled",
    CalibratesLargeBatches: "independent of batch size 128",
    VotesOnTheTask: "independent of the task it is served with",
    KeepsItsTrainingData: "keeps no data",
    KeepsABatch: "keeps no data",
    HidesTestViews: "keeps no data",
    HoldsPixels: "keeps no data",
    PeeksAhead: "blind to later tasks and test images",
    LearnsFromTestImages: "blind to later tasks and test images",
    TeachesItselfAtTest: "blind to later tasks and test images",
    PeeksAtTheTask: "blind to the task id",
    CountsTheQuestions: "blind to the task id",
    Leaves: "runs",
    LeavesWhenHalf: "bf16",
    Crashes: "runs",
}


def verdicts_of(method: type[Method]) -> list[Verdict]:
    registries = open_registries()
    registries.methods.add("candidate", "tests", method)
    return check("candidate", registries)


def test_an_honest_plugin_passes() -> None:
    verdicts = verdicts_of(Honest)
    assert failed(verdicts) == []
    assert len(verdicts) == 17
    assert len({verdict.name for verdict in verdicts}) == 17
    assert not any(verdict.remedy for verdict in verdicts)


def test_what_a_method_costs_is_said() -> None:
    """A head of 200 x 24 weights and 200 biases; a gradient only through it, so little more than a forward pass."""
    cost = verdicts_of(Honest)[-1]
    assert cost.name == "cost" and cost.detail.startswith("5,000 learnable parameters for 10 tasks with 200 classes")
    assert "; 1.0 forward passes a training image, 1.0 a test image" in cost.detail


@pytest.mark.parametrize("method", CHEATS, ids=lambda method: method.__name__)
def test_every_cheat_is_caught(method: type[Method]) -> None:
    caught = {verdict.name: verdict.remedy for verdict in failed(verdicts_of(method))}
    assert caught.get(CHEATS[method]), "not caught, or without a word on what to do"


@pytest.mark.parametrize("name", BUILTIN)
def test_every_built_in_method_passes(name: str) -> None:
    assert failed(check(name, open_registries())) == []


class Settles(Honest):
    """Trains only the current task's rows, and says so."""

    def training_step(self, batch: Batch) -> Tensor:
        logits = self.predict(batch)[:, self.old_classes :]
        return nn.functional.cross_entropy(logits, batch.targets - self.old_classes)

    def settled(self) -> dict[str, Tensor]:
        return {
            f"rows of task {task}": self.head.weight[2 * task : 2 * task + 2] for task in range(self.task_index + 1)
        }


def test_what_stays_settled_passes() -> None:
    verdicts = verdicts_of(Settles)
    assert failed(verdicts) == []
    assert "3 settled tensors" in next(one.detail for one in verdicts if one.name == "earlier tasks settled")


def test_only_the_large_batch_gives_its_calibration_away() -> None:
    assert [one.name for one in failed(verdicts_of(CalibratesLargeBatches))] == [
        "independent of batch size 128",
        "independent of shuffled order",
    ]


def pixels(view: View) -> np.ndarray:
    return np.asarray(view.take(slice(None))[0])


def test_the_changed_stream_differs_only_where_a_method_may_not_look(tmp_path: Path) -> None:
    stream = build_stream(ColouredNoise(BenchmarkConfig(tasks=3, image_size=16), tmp_path), 0)
    changed = with_other_future(stream)
    for task, other in zip(stream.tasks[:2], changed.tasks[:2], strict=True):
        assert np.array_equal(pixels(task.train), pixels(other.train))
        assert np.array_equal(task.train.labels, other.train.labels)
    last, other = stream.tasks[2].train, changed.tasks[2].train
    assert not np.array_equal(last.labels, other.labels) and sorted(last.labels) == sorted(other.labels)
    assert (pixels(last) != pixels(other)).any(axis=(1, 2, 3)).all()
    kept = kept_test_images(stream, 3)
    same = [
        (pixels(one) == pixels(two)).all(axis=(1, 2, 3)) for one, two in zip(stream.tests, changed.tests, strict=True)
    ]
    assert np.array_equal(np.concatenate(same), kept) and kept.sum() == len(kept) / 2 >= 64


def test_only_the_task_id_gives_who_peeks_at_it_away() -> None:
    """It answers the kit honestly: nothing but the run's own answers can tell."""
    assert [one.name for one in failed(verdicts_of(PeeksAtTheTask))] == ["blind to the task id"]


def test_a_labelled_leak_is_refused() -> None:
    class Leaks(Honest):
        @classmethod
        def leaks(cls, config: Any) -> bool:
            return True

    assert [verdict.name for verdict in verdicts_of(Leaks)] == ["honest"]


def test_a_plugin_file_is_checked_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from methods.ncm import Ncm\nclass Mine(Ncm):\n    name = 'mine'\n    card = Ncm.card\n", encoding="utf-8"
    )
    found = check_target(str(file))
    assert list(found) == ["mine"] and failed(found["mine"]) == []
