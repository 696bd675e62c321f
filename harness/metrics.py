"""Continual-learning metrics: pure functions of the accuracy matrix.

``R[t][i]`` is the accuracy in percent on the test images of task ``i`` after training task ``t``, and ``None`` where it was
not measured: above the diagonal, and in every row but the last for methods that train on all tasks at once. Definitions:
SMoPE card, section 8.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

Matrix = Sequence[Sequence[float | None]]

FORGETTING_FORMULA = "FM = 1/(T-1) * sum over i<T of (max over s<T of R[s][i] - R[T][i]); not yet learned counts as 0"


def average_accuracies(matrix: Matrix) -> list[float | None]:
    """A_t: the unweighted mean over the tasks seen so far, one value a stage; ``None`` where a stage was not measured."""
    return [_mean_of_seen(row[: t + 1]) for t, row in enumerate(matrix)]


def final_average_accuracy(matrix: Matrix) -> float | None:
    """FAA = A_T in percent; ``None`` for an unfinished run."""
    return average_accuracies(matrix)[-1] if matrix else None


def cumulative_average_accuracy(matrix: Matrix) -> float | None:
    """CAA = mean of A_t over all stages in percent; ``None`` where a stage was not measured (joint training)."""
    stages = average_accuracies(matrix)
    return _mean_of_seen(stages) if stages else None


def forgetting(matrix: Matrix) -> float | None:
    """FM in percentage points (see ``FORGETTING_FORMULA``); ``None`` with fewer than two tasks or unmeasured stages."""
    tasks = len(matrix)
    if tasks < 2 or None in average_accuracies(matrix):
        return None
    last = matrix[-1]
    drops: list[float] = []
    for i in range(tasks - 1):
        best = max((matrix[s][i] or 0.0) for s in range(tasks - 1))
        drops.append(best - (last[i] or 0.0))
    return sum(drops) / len(drops)


def stepwise_forgetting(matrix: Matrix) -> float | None:
    """What one more task costs the tasks before it: mean over stages t > 1 of the mean drop of earlier tasks from t-1 to t.

    The form that CODA-Prompt's code has (CODA-Prompt card, section 8); for comparison with numbers of that family.
    """
    if len(matrix) < 2 or None in average_accuracies(matrix):
        return None
    drops = [
        sum((before[i] or 0.0) - (after[i] or 0.0) for i in range(t)) / t
        for t, (before, after) in enumerate(itertools.pairwise(matrix), start=1)
    ]
    return sum(drops) / len(drops)


def backward_transfer(matrix: Matrix) -> float | None:
    """BWT: mean over the earlier tasks of final accuracy minus that right after learning (Hash card, section 12)."""
    if len(matrix) < 2 or None in average_accuracies(matrix):
        return None
    changes = [(matrix[-1][i] or 0.0) - (matrix[i][i] or 0.0) for i in range(len(matrix) - 1)]
    return sum(changes) / len(changes)


def learning_accuracy(matrix: Matrix) -> float | None:
    """Plasticity: the mean over tasks of the accuracy right after learning each, in percent; ``None`` where not measured."""
    return _mean_of_seen([row[t] for t, row in enumerate(matrix)])


def micro_accuracy(matrix: Matrix, counts: Sequence[int]) -> float | None:
    """Final accuracy in percent over all test images, so that a task weighs by its ``counts`` of images."""
    if not matrix or _mean_of_seen(matrix[-1]) is None or sum(counts) == 0:
        return None
    return sum((value or 0.0) * count for value, count in zip(matrix[-1], counts, strict=True)) / sum(counts)


def _mean_of_seen(values: Sequence[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    if len(measured) < len(values) or not measured:
        return None
    return sum(measured) / len(measured)
