"""The stored predictions of a run: image by image, class by class, and as a confusion matrix. Imports no torch."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smope_bench.harness.errors import UserError
from smope_bench.harness.records.record import PREDICTIONS
from smope_bench.harness.records.store import Store
from smope_bench.harness.trained.find import find_run, located


@dataclass(frozen=True)
class Answers:
    """Predictions after the last task. Images are those of the test views, task after task, in the order of the views.

    ``true``, ``predicted``: int32 (n,), positions in ``class_names``; -1 where an image was not predicted.
    """

    run_id: str
    class_names: tuple[str, ...]
    true: NDArray[np.int32]
    predicted: NDArray[np.int32]
    task: NDArray[np.int32]
    """Task, from 0, whose test view each image is of."""
    has_domains: bool = False
    """Whether tasks are domains of the same classes, so that a class belongs to no one task."""

    def per_class(self) -> list[tuple[str, int, float]]:
        """Name, number of test images and accuracy in percent of each class that has test images."""
        rows = []
        for label, name in enumerate(self.class_names):
            own = self.true == label
            if own.any():
                rows.append((name, int(own.sum()), 100.0 * float((self.predicted[own] == label).mean())))
        return rows

    def confusion(self) -> NDArray[np.int64]:
        """Number of images of each true class (rows) that were predicted as each class (columns)."""
        count = len(self.class_names)
        return _counted(self.true, self.predicted, count)

    def task_of_class(self) -> NDArray[np.int32]:
        """Task with which each class arrived. Raises UserError where tasks are domains."""
        if self.has_domains:
            raise UserError(
                f"the tasks of run {self.run_id} are domains of the same classes: a predicted class is of no one task"
            )
        found = np.full(len(self.class_names), -1, dtype=np.int32)
        found[self.true] = self.task
        return found

    def task_confusion(self) -> NDArray[np.int64]:
        """Number of images of each task (rows) that were predicted as a class of each task (columns). Raises UserError."""
        of_class = self.task_of_class()
        predicted = np.where(self.predicted >= 0, of_class[self.predicted], -1)
        return _counted(self.task, predicted, int(self.task.max(initial=-1)) + 1)


def _counted(true: NDArray[np.int32], predicted: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    known = predicted >= 0
    cells = true[known].astype(np.int64) * count + predicted[known]
    return np.bincount(cells, minlength=count * count).reshape(count, count)


def read_answers(run: str, results: Path) -> Answers:
    """The stored predictions of a run, by id or by the beginning of one. Raises UserError."""
    run, results = located(run, results)
    record = find_run(run, results)
    result = record.result
    return answers_in(
        results / record.run_id,
        record.run_id,
        result.get("predictions_sha256"),
        [str(name) for name in result.get("class_names") or ()],
        [int(count) for count in result["test_counts"]],
        has_domains=bool(result.get("domains")),
    )


def answers_in(
    folder: Path,
    run_id: str,
    sha256: str | None,
    class_names: Sequence[str],
    test_counts: Sequence[int],
    *,
    has_domains: bool = False,
    remedy: str = "",
) -> Answers:
    """The predictions that are stored in a run's folder. Raises UserError for files that are missing, damaged or not predictions.

    ``sha256``: the hash that the record names, if any. ``class_names``: empty gives ``class 0`` and so on.
    ``test_counts``: test images of each task. ``remedy``: what an error names; without it the plans are searched for the command.
    """
    file = folder / PREDICTIONS

    def again() -> str:
        return remedy or Store(folder.parent).remedy(run_id)

    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"the predictions {str(file)!r} cannot be read ({error.strerror}); {again()}") from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{str(file)!r} is damaged: it does not have the hash that its record names; {again()}")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:  # the other stages are not decompressed
            labels, last = stored["labels"], stored[f"stage_{len(stored.files) - 2}"]
    except Exception as error:  # an archive that was cut raises many kinds of errors
        raise UserError(f"{str(file)!r} cannot be read as predictions ({type(error).__name__}); {again()}") from error
    labels = labels[: len(last)]
    names = class_names or [f"class {label}" for label in range(int(labels.max(initial=-1)) + 1)]
    task = np.repeat(np.arange(len(test_counts), dtype=np.int32), test_counts)[: len(last)]
    return Answers(run_id, tuple(names), labels, last, task, has_domains)
