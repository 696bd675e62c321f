"""Batches of a task: the same bits with and without reading ahead, and reading that stops with whoever reads."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from smope_bench.benchmarks.augmentation import RandomResizedCrop
from smope_bench.benchmarks.stream import View
from smope_bench.benchmarks.transforms.batch import Transforms
from smope_bench.harness.training.data import TaskData

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


def data(shelf: Shelf, prefetch: bool | None) -> TaskData:
    view = View(shelf, np.arange(20), np.arange(20) % 3)
    transforms = Transforms(8, RandomResizedCrop(), "half")
    return TaskData(view, transforms, batch_size=6, device=CPU, seed=5, prefetch=prefetch)


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"shuffle": True, "drop_last": True}, {"augment": False}])
def test_reading_ahead_changes_no_bit(options: dict[str, bool]) -> None:
    outcomes = []
    for prefetch in (False, True):
        shelf = Shelf()
        task = data(shelf, prefetch)
        batches = [batch for _ in range(2) for batch in task.batches(**options)]
        outcomes.append((batches, [rows for rows, _ in shelf.reads], task.images_read, task.passes))
        assert {by_main for _, by_main in shelf.reads} == {not prefetch}
    (plain, *rest), (ahead, *rest_ahead) = outcomes
    assert rest == rest_ahead and len(plain) == len(ahead)
    pairs = list(zip(plain, ahead, strict=True))
    assert all(torch.equal(one.images, two.images) and torch.equal(one.targets, two.targets) for one, two in pairs)


def test_one_batch_is_read_ahead_and_no_more() -> None:
    before = set(threading.enumerate())
    shelf = Shelf()
    batches = data(shelf, True).batches()
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert [rows for rows, _ in shelf.reads] in ([list(range(6))], [list(range(6)), list(range(6, 12))])
    assert set(threading.enumerate()) <= before


def test_what_cannot_be_read_is_said_where_it_is_used() -> None:
    batches = data(Shelf(fails_at=1), True).batches()
    assert len(next(batches).images) == 6
    with pytest.raises(OSError, match="the shelf broke"):
        next(batches)


def test_without_an_accelerator_nothing_is_read_ahead() -> None:
    shelf = Shelf()
    list(data(shelf, None).batches())
    assert all(by_main for _, by_main in shelf.reads)
