"""What docs/other-toolboxes.md says of Avalanche, run with the installed version."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).resolve().parents[3] / "docs" / "other-toolboxes.md"


def made(classes: int, **how: Any) -> Any:
    """A class-incremental benchmark of one image a class."""
    from avalanche.benchmarks import class_incremental_benchmark
    from avalanche.benchmarks.utils import DataAttribute
    from avalanche.benchmarks.utils.classification_dataset import ClassificationDataset

    items = [(torch.zeros(1), label) for label in range(classes)]
    labels: Any = list(range(classes))
    images = ClassificationDataset([items], data_attributes=[DataAttribute(labels, "targets")])
    with torch.random.fork_rng(devices=[]):  # a seed goes to the global generator
        return class_incremental_benchmark({"train": images, "test": images}, **how)


def arriving(scenario: Any) -> list[list[int]]:
    return [sorted(experience.classes_in_this_experience) for experience in scenario.train_stream]


def test_a_class_that_does_not_fit_is_lost_with_its_images() -> None:
    lossy = made(10, num_experiences=3, class_order=range(10))
    assert arriving(lossy) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [sum(len(part.dataset) for part in stream) for stream in (lossy.train_stream, lossy.test_stream)] == [9, 9]
    assert arriving(made(10, num_experiences=11, class_order=range(10))) == [[]] * 11


def test_a_seed_is_torchs_permutation_in_order_of_arrival() -> None:
    row = next(
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| Avalanche | torch's `randperm`")
    )
    drawn = torch.randperm(100, generator=torch.Generator().manual_seed(1993)).tolist()
    assert arriving(made(100, num_experiences=10, seed=1993))[0] == sorted(drawn[:10])
    assert sorted(drawn[:10]) == [int(found) for found in re.findall(r"\d+", row.split("|")[3])]


def test_forgetting_starts_from_the_accuracy_right_after_learning() -> None:
    from avalanche.evaluation.metrics.forgetting_bwt import Forgetting

    def of(first: float, *later: float) -> float | None:
        forgetting = Forgetting()
        forgetting.update(0, first, initial=True)
        for value in later:
            forgetting.update(0, value)
        return forgetting.result_key(0)

    assert of(0.9, 0.6, 0.3) == pytest.approx(0.6) and of(0.8, 0.5) == pytest.approx(
        0.3
    )  # on average 0.45, as on the page
    assert of(0.5, 1.0, 0.5) == 0  # where the best ever would give 0.5


def test_the_page_names_the_version_that_is_installed() -> None:
    assert f"avalanche-lib {version('avalanche-lib')}" in PAGE.read_text(encoding="utf-8")
