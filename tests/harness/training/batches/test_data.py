"""Batches of a task: the same bits with and without making them ahead."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from smope_bench.benchmarks.augmentation import RandomResizedCrop
from smope_bench.benchmarks.stream import View
from smope_bench.benchmarks.transforms.batch import Transforms
from smope_bench.harness.training.batches.data import TaskData
from smope_bench.harness.training.batches.feeder import Feeder

CPU = torch.device("cpu")


class Shelf:
    """A store of images that notes what is read, and by whom."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3)).astype(np.uint8)
        self.reads: list[tuple[list[int], bool]] = []
        self.fails_at = fails_at

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Any) -> Any:
        if len(self.reads) == self.fails_at:
            raise OSError("the shelf broke")
        self.reads.append((rows.tolist(), threading.current_thread() is threading.main_thread()))
        return self.images[rows]


def data(shelf: Shelf, ahead: int | None) -> TaskData:
    view = View(shelf, np.arange(20), np.arange(20) % 3)
    transforms = Transforms(8, RandomResizedCrop(), "half")
    return TaskData(view, transforms, batch_size=6, device=CPU, seed=5, feeder=Feeder(CPU, threads=2, ahead=ahead))


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"shuffle": True, "drop_last": True}, {"augment": False}])
def test_making_batches_ahead_changes_no_bit(options: dict[str, bool]) -> None:
    outcomes = []
    for ahead in (0, 1, 3):
        shelf = Shelf()
        task = data(shelf, ahead)
        batches = [batch for _ in range(2) for batch in task.batches(**options)]
        outcomes.append((batches, sorted(rows for rows, _ in shelf.reads), task.images_read, task.passes))
        assert {by_main for _, by_main in shelf.reads} == {not ahead}
    plain, *others = outcomes
    for other in others:
        assert plain[1:] == other[1:] and len(plain[0]) == len(other[0])
        pairs = list(zip(plain[0], other[0], strict=True))
        assert all(torch.equal(one.images, two.images) and torch.equal(one.targets, two.targets) for one, two in pairs)


def test_what_cannot_be_read_is_an_error_where_it_is_used() -> None:
    batches = data(Shelf(fails_at=1), 1).batches()
    assert len(next(batches).images) == 6
    with pytest.raises(OSError, match="the shelf broke"):
        next(batches)


def test_without_an_accelerator_nothing_is_made_ahead() -> None:
    shelf = Shelf()
    list(data(shelf, None).batches())
    assert all(by_main for _, by_main in shelf.reads)
