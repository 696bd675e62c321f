"""The kit passes every built-in method and catches each way of cheating by accident."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from harness.conformance import Verdict, check, check_target, failed
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
    Crashes: "runs",
}


def verdicts_of(method: type[Method]) -> list[Verdict]:
    registries = open_registries()
    registries.methods.add("candidate", "tests", method)
    return check("candidate", registries)


def test_an_honest_plugin_passes() -> None:
    verdicts = verdicts_of(Honest)
    assert failed(verdicts) == []
    assert len(verdicts) == 10


@pytest.mark.parametrize("method", CHEATS, ids=lambda method: method.__name__)
def test_every_cheat_is_caught(method: type[Method]) -> None:
    caught = {verdict.name for verdict in failed(verdicts_of(method))}
    assert CHEATS[method] in caught


@pytest.mark.parametrize("name", BUILTIN)
def test_every_built_in_method_passes(name: str) -> None:
    assert failed(check(name, open_registries())) == []


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
