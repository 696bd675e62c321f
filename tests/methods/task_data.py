"""What tests of methods share: a task's fixed batches, and the start of a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from smope_bench.methods.common.api import Batch, Method, TaskInfo


class Data:
    """The same batches at every pass. ``asked``: of each pass, whether it was to be shuffled, whole batches alone, augmented."""

    def __init__(self, content: Sequence[Batch]) -> None:
        self.content = list(content)
        self.asked: list[tuple[bool, bool, bool]] = []

    def __len__(self) -> int:
        return sum(len(batch.images) for batch in self.content)

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        self.asked.append((shuffle, drop_last, augment))
        return iter(self.content)

    @property
    def augmented(self) -> list[bool]:
        """Whether each pass was asked for with training augmentation."""
        return [augment for _, _, augment in self.asked]


def enter(method: Method, index: int, images: int = 2) -> TaskInfo:
    """Begin the 0-based task of two classes with ``images`` training images each."""
    task = TaskInfo(index, range(2 * index, 2 * index + 2), (images, images))
    method.enter_task(task)
    method.begin_task(task)
    return task
