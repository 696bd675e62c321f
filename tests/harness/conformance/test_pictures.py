"""The kit finds kept pictures in whatever form, and counts those that a method declares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from smope_bench.harness.conformance.check import failed
from smope_bench.harness.conformance.checks.training import keeps_no_data
from smope_bench.harness.conformance.pictures import NOT_SEARCHED, Shown
from smope_bench.harness.conformance.runner import MethodUnderCheck, Verdict, register, run
from smope_bench.harness.registry.registry import open_registries
from tests.harness.conformance.cheats import Honest, verdicts_one_by_one  # pyright: ignore[reportMissingImports]

MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def stored(data: Any) -> Tensor:
    """The first four pictures of a task as they are stored, (4, 16, 16, 3) in uint8."""
    return torch.from_numpy(np.array(data._view.take(slice(0, 4))[0]))


def seen(data: Any) -> Tensor:
    """The first four as the model gets them in training, (4, 3, 16, 16)."""
    return next(data.batches(shuffle=True)).images[:4]


def first(data: Any) -> Tensor:
    return stored(data).movedim(-1, 1).float() / 255


FORMS: dict[str, Callable[[Any], Tensor]] = {
    "as stored": stored,
    "channels first": lambda data: stored(data).movedim(-1, 1).contiguous(),
    "flattened": lambda data: stored(data).flatten(1),
    "flattened as a whole": lambda data: first(data).flatten(),
    "a picture a column": lambda data: first(data).flatten(1).T.contiguous(),
    "scaled": first,
    "normalised": lambda data: (first(data) - MEAN) / STD,
    "inverted": lambda data: 1 - first(data),
    "flipped": lambda data: first(data).flip(3),
    "upside down": lambda data: first(data).flip(2),
    "turned by half": lambda data: stored(data).flip(1, 2),
    "half precision": lambda data: ((first(data) - MEAN) / STD).bfloat16(),
    "in 8 bits with a sign": lambda data: (first(data) * 200 - 100).to(torch.int8),
    "as the trainer showed them": seen,
    "shown, flipped, in 8 bits": lambda data: (seen(data).flip(3) * 40 + 120).clamp(0, 255).to(torch.uint8),
}


def keeping(form: Callable[[Any], Tensor], most: int = 0) -> type[Honest]:
    """A method that keeps four pictures a task in a buffer."""

    class Keeps(Honest):
        exemplars: ClassVar[int] = most
        memory: Tensor

        def begin_task(self, task: Any) -> None:
            if task.index == 0:
                self.register_buffer("memory", torch.zeros(0))

        def end_task(self, data: Any) -> None:
            new = form(data)
            self.memory = torch.cat([self.memory.to(new.dtype), new]) if len(self.memory) else new

    return Keeps


def verdict_on(method: type[Honest], folder: Path) -> Verdict:
    """Of this requirement alone."""
    registries = open_registries()
    registries.methods.add("candidate", "tests", method)
    register(registries)
    shown = Shown()
    done = run("candidate", registries, folder, prepare=shown.watch)
    assert done.trainer.flags.get("exemplars", 0) == method.exemplars  # as in the record of a run
    return keeps_no_data(MethodUnderCheck("candidate", registries, folder, done, tuple(shown.images.values())))


@pytest.mark.parametrize("form", FORMS)
def test_kept_pictures_are_found(form: str, tmp_path: Path) -> None:
    passed, detail = verdict_on(keeping(FORMS[form]), tmp_path)
    columns = form == "a picture a column"  # joined by rows, those of later tasks are no columns of their own
    assert not passed and f"method.memory ({4 if columns else 12})" in detail, detail


def test_pictures_in_a_plain_attribute_or_for_a_while_are_found(tmp_path: Path) -> None:
    class KeepsAnArray(Honest):
        def end_task(self, data: Any) -> None:
            self.kept = {"a": [stored(data).numpy() / 255]}

    assert "method.kept['a'][0] (4)" in verdict_on(KeepsAnArray, tmp_path / "array")[1]

    class ForgetsThemAtTheEnd(keeping(first)):
        def end_task(self, data: Any) -> None:
            super().end_task(data)
            if self.task_index == 2:
                self.memory = torch.zeros(1)

    assert "method.memory (8)" in verdict_on(ForgetsThemAtTheEnd, tmp_path / "while")[1]


@pytest.mark.parametrize(
    "form",
    [
        lambda data: first(data).mean((2, 3)),  # a colour an image
        lambda data: first(data).mean(0, keepdim=True),  # a mean of four
        lambda data: torch.randn(4, 3, 16, 16),
        lambda data: torch.zeros(4, 3, 16, 16),
        lambda data: torch.full((4, 3, 16, 16), torch.nan),
    ],
)
def test_statistics_are_no_pictures(form: Callable[[Any], Tensor], tmp_path: Path) -> None:
    passed, detail = verdict_on(keeping(form), tmp_path)
    assert passed and detail == f"no view, batch or picture within its reach; {NOT_SEARCHED}"


def test_declared_exemplars_pass_and_more_do_not(tmp_path: Path) -> None:
    passed, detail = verdict_on(keeping(first, most=12), tmp_path / "12")
    assert passed and detail.startswith("12 of 12 declared exemplars: method.memory (12)") and NOT_SEARCHED in detail
    passed, detail = verdict_on(keeping(first, most=11), tmp_path / "11")
    assert not passed and "12 pictures of the stream" in detail and "11 declared as exemplars" in detail


def test_the_whole_kit_refuses_a_method_that_copies_two_pictures_a_class() -> None:
    def two(data: Any) -> Tensor:
        return torch.cat([stored(data)[:2], torch.from_numpy(np.array(data._view.take(slice(12, 14))[0]))])

    found = next(one for one in verdicts_one_by_one(keeping(two)) if one.name == "keeps no data")
    assert "12 pictures" in found.detail and "Method.exemplars" in found.remedy
    assert failed([found])
