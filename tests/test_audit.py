"""``smope_bench.audit`` finds what the rest, the order and the size of a batch change, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smope_bench import run_all
from smope_bench.audit import BatchDependence, batch_dependence, gaps, other_answers

ROOT = Path(run_all.__file__).resolve().parent
IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.randn(192, 5, generator=torch.Generator().manual_seed(1)) / 14


def scores(batch: Tensor) -> Tensor:
    return batch.flatten(1) @ WEIGHTS


def voted(batch: Tensor) -> Tensor:
    """Every image gets the most frequent class of the batch."""
    votes = scores(batch).argmax(1).bincount(minlength=5)
    return scores(batch) + nn.functional.one_hot(votes.argmax(), 5)


def by_place(batch: Tensor) -> Tensor:
    return scores(batch) + torch.arange(len(batch))[:, None]


def by_size(batch: Tensor) -> Tensor:
    return scores(batch) / len(batch)


def calls() -> Callable[[Tensor], Tensor]:
    """Counts its calls."""
    number = iter(range(100))
    return lambda batch: scores(batch) + next(number)


@pytest.mark.parametrize(
    "predict",
    [
        scores,
        lambda batch: scores(batch).numpy(),
        lambda batch: scores(batch).tolist(),
        lambda batch: list(scores(batch)),
        lambda batch: scores(batch).bfloat16(),
        lambda batch: scores(batch).half().numpy(),
        lambda batch: scores(batch).argmax(1),
        lambda batch: scores(batch).masked_fill(torch.arange(5) > 2, -torch.inf),
        lambda batch: scores(batch).requires_grad_(),
        nn.Sequential(nn.Conv2d(3, 40, 3), nn.Flatten(), nn.Linear(1440, 5)).eval(),
    ],
)
def test_a_function_of_each_image_is_independent(predict: Callable[[Tensor], Any]) -> None:
    found = batch_dependence(predict, IMAGES)
    assert found.independent and found.verdict.startswith("Independent of the batch: 8 images"), found


@pytest.mark.parametrize(
    ("predict", "factors"),
    [
        (voted, "rest, size"),
        (by_place, "order, size"),
        (by_size, "size"),
        (lambda batch: scores(batch - batch.mean(0)), "rest, size"),
        (lambda batch: scores(batch).roll(1, 0), "rest, order, size"),
        (lambda batch: voted(batch).argmax(1), "rest, size"),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(192, 5)), "rest, size"),
    ],
)
def test_what_a_batch_changes_is_named(predict: Callable[[Tensor], Any], factors: str) -> None:
    found = batch_dependence(predict, IMAGES)
    assert not found.independent and f"Depends on the batch ({factors})" in found.verdict, found


def test_the_moved_images_are_told_from_the_others() -> None:
    def first_of_all(batch: Tensor) -> Tensor:
        """Images that are dark get the scores of the batch's first image."""
        dark = batch.mean((1, 2, 3)) < 0
        return torch.where(dark[:, None], scores(batch[:1]), scores(batch))

    found = batch_dependence(first_of_all, IMAGES)
    dark = (IMAGES.mean((1, 2, 3)) < 0).numpy()
    assert 0 < dark.sum() < 8
    assert ((found.worst > found.tolerance) == dark).all()
    assert f"{dark.sum()} of 8 images move" in found.verdict and "change their class" in found.verdict
    lines = found.table().splitlines()
    assert len(lines) == 9 and [line.endswith("changes") for line in lines[1:]] == found.answers.tolist()
    assert str(found) == f"{found.verdict}\n{found.table()}"


@pytest.mark.parametrize("predict", [calls(), nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 5))])
def test_a_model_that_does_not_repeat_itself_is_no_evidence(predict: Callable[[Tensor], Any]) -> None:
    found = batch_dependence(predict, IMAGES)
    assert not found.repeats and not found.independent and found.verdict.startswith("Not repeatable")


def test_a_tie_may_be_broken_either_way() -> None:
    tied = np.array([[1.0, 1.0 - 1e-6, 0.0], [1.0, 0.9, 0.0]])
    assert other_answers(tied, np.array([1, 1]), 1e-4).tolist() == [False, True]


def test_infinite_scores_are_equal_to_themselves_alone() -> None:
    one = np.array([[-np.inf, 1.0], [-np.inf, 1.0], [np.nan, 1.0], [np.nan, 1.0]])
    two = np.array([[-np.inf, 1.0], [0.0, 1.0], [np.nan, 1.0], [0.0, 1.0]])
    assert gaps(one, two, 1.0).tolist() == [0.0, np.inf, 0.0, np.inf]


def test_lists_of_pictures_stay_lists() -> None:
    pictures = [np.full((2, 2, 3), value, np.uint8) for value in range(4)]

    def predict(batch: list[Any]) -> list[float]:
        assert isinstance(batch, list)
        return [float(picture.mean()) for picture in batch]

    assert batch_dependence(predict, pictures).independent


@pytest.mark.parametrize(
    ("predict", "images", "words"),
    [
        (scores, IMAGES[:1], "at least two images"),
        (lambda batch: {"logits": scores(batch)}, IMAGES, "picks the scores out"),
        (lambda batch: scores(batch)[:3], IMAGES, "one row an image: 8 images gave an output of shape"),
        (lambda batch: [[1.0], [1.0, 2.0]] * 4, IMAGES, "all of one length"),
        (lambda batch: ["cat"] * len(batch), IMAGES, "names of classes"),
        (lambda batch: 1.0, IMAGES, "one row an image"),
    ],
)
def test_what_cannot_be_compared_is_refused(predict: Callable[[Any], Any], images: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        batch_dependence(predict, images)


def test_it_imports_neither_torch_nor_the_rest() -> None:
    code = (
        "import sys, numpy as np; from smope_bench.audit import batch_dependence;"
        "assert batch_dependence(lambda x: x.mean(1), np.eye(4)).independent;"
        "assert not [name for name in sys.modules if name == 'torch' or name.startswith('smope_bench.')"
        " and name != 'smope_bench.audit']"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_result_is_typed() -> None:
    assert isinstance(batch_dependence(scores, IMAGES), BatchDependence)
