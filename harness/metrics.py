"""Continual-learning metrics of one run. A metric is one decorated function; every report takes up all that are registered.

``matrix[t][i]`` is the accuracy in percent on the test images of task ``i`` after training task ``t``. It is ``None`` where
it was not measured: above the diagonal, unless tasks are new domains of classes that are already known, and in every row but
the last for methods that train on all tasks at once.
Definitions: SMoPE card, section 8, where nothing else is named.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Matrix = Sequence[Sequence[float | None]]
PERCENT, POINTS = (0.0, 100.0), (-100.0, 100.0)
"""Bounds of an accuracy, and of a difference of accuracies."""
INPUTS = ("matrix", "test_counts")
"""What a metric may take, by parameter name: the accuracy matrix, and the number of test images of each task."""


@dataclass(frozen=True)
class Metric:
    """A number computed from one finished run.

    ``name``: in CSV files, ``--expect`` files and data frames. ``heading``: in tables. ``help``: the definition in a sentence.
    ``unit``: of its values, e.g. ``%``. ``better``: which direction is better. ``function``: takes some of ``INPUTS``.
    ``protocol``: the only kind of stream that it is shown for, ``class`` or ``domain``; empty for both. ``bounds``: the least and
    the largest value that it can have, within which intervals stay; None where there are none.
    """

    name: str
    heading: str
    help: str
    unit: str
    better: Literal["higher", "lower"]
    function: Callable[..., float | None]
    protocol: Literal["", "class", "domain"] = ""
    bounds: tuple[float, float] | None = None

    def __call__(self, *args: object, **inputs: object) -> float | None:
        """The value for inputs given as the function declares them."""
        return self.function(*args, **inputs)

    def compute(self, matrix: Matrix, test_counts: Sequence[int] = ()) -> float | None:
        """The value for a run; ``None`` where the metric is not defined. The function gets the inputs that it declares."""
        given: dict[str, object] = dict(zip(INPUTS, (matrix, test_counts), strict=True))
        return self.function(**{name: given[name] for name in self._takes})

    @cached_property
    def _takes(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.function).parameters)

    def suits(self, protocol: str) -> bool:
        """Whether it is shown for streams of this protocol."""
        return self.protocol in ("", protocol)

    @property
    def is_lower_better(self) -> bool:
        """Whether a smaller value is better."""
        return self.better == "lower"

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1: values times the sign are always better when higher."""
        return -1 if self.is_lower_better else 1

    @property
    def explanation(self) -> str:
        """The definition and the better direction, as tables and the page print them."""
        return f"{self.help} {self.better.capitalize()} is better."


def metric(
    name: str,
    heading: str,
    help: str,
    unit: str = "%",
    better: Literal["higher", "lower"] = "higher",
    protocol: Literal["", "class", "domain"] = "",
    bounds: tuple[float, float] | None = None,
) -> Callable[[Callable[..., float | None]], Metric]:
    """Decorator: make a function of ``matrix`` (and ``test_counts`` where it needs them) a metric.

    Raises ValueError for a name that is not letters, digits and underscores, and for a parameter of another name.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise ValueError(f"metric name {name!r} must be lower-case letters, digits and underscores, a letter first")
    if better not in ("higher", "lower"):
        raise ValueError(f"better={better!r} of metric {name!r} must be 'higher' or 'lower'")

    def decorate(function: Callable[..., float | None]) -> Metric:
        if unknown := [given for given in inspect.signature(function).parameters if given not in INPUTS]:
            raise ValueError(f"metric {name!r} has a parameter {unknown[0]!r}; it may take {', '.join(INPUTS)}")
        return Metric(name, heading, help, unit, better, function, protocol, bounds)

    return decorate


def metrics_in(values: Iterable[object]) -> tuple[Metric, ...]:
    """The metrics among some objects, e.g. ``vars(module).values()``, each once, in order."""
    return tuple({id(value): value for value in values if isinstance(value, Metric)}.values())


def average_accuracies(matrix: Matrix) -> list[float | None]:
    """A_t: the unweighted mean over the tasks seen so far, one value a stage; ``None`` where a stage was not measured."""
    return [_mean(row[: t + 1]) for t, row in enumerate(matrix)]


@metric(
    "faa",
    "FAA",
    "Final average accuracy in percent: after the last task, the mean over tasks of each task's test accuracy.",
    bounds=PERCENT,
)
def final_average_accuracy(matrix: Matrix) -> float | None:
    """FAA = A_T; ``None`` for an unfinished run."""
    return _mean(matrix[-1]) if matrix else None


@metric(
    "caa",
    "CAA",
    "Cumulative average accuracy in percent: the mean, over all stages of training, of the average accuracy on the tasks seen "
    "so far.",
    bounds=PERCENT,
)
def cumulative_average_accuracy(matrix: Matrix) -> float | None:
    """CAA = mean of A_t over all stages; ``None`` where a stage was not measured (joint training)."""
    return _mean(average_accuracies(matrix))


@metric(
    "fm",
    "FM",
    "Forgetting in percentage points: FM = 1/(T-1) * sum over i<T of (max over s<T of R[s][i] - R[T][i]); not yet learned counts "
    "as 0.",
    "points",
    "lower",
    bounds=POINTS,
)
def forgetting(matrix: Matrix) -> float | None:
    """Best accuracy before the last stage minus the final one, so that it can be negative."""
    return _forgetting(matrix, len(matrix) - 1)


@metric(
    "micro",
    "micro accuracy",
    "Final accuracy in percent over all test images, whatever task they belong to.",
    bounds=PERCENT,
)
def micro_accuracy(matrix: Matrix, test_counts: Sequence[int]) -> float | None:
    """The last row weighted by the number of test images of each task."""
    if not matrix or _mean(matrix[-1]) is None or sum(test_counts) == 0:
        return None
    return sum((value or 0.0) * count for value, count in zip(matrix[-1], test_counts, strict=True)) / sum(test_counts)


@metric(
    "la",
    "LA",
    "Learning accuracy in percent: the mean over tasks of the accuracy right after learning each.",
    bounds=PERCENT,
)
def learning_accuracy(matrix: Matrix) -> float | None:
    """The mean of the diagonal: plasticity."""
    return _mean([row[t] for t, row in enumerate(matrix)])


@metric(
    "bwt",
    "BWT",
    "Backward transfer in percentage points: the mean over the tasks before the last of final accuracy minus that right after "
    "learning.",
    "points",
    bounds=POINTS,
)
def backward_transfer(matrix: Matrix) -> float | None:
    """Hash card, section 12."""
    if not _has_stages(matrix):
        return None
    return _mean([(matrix[-1][i] or 0.0) - (matrix[i][i] or 0.0) for i in range(len(matrix) - 1)])


@metric(
    "fm_max",
    "FM (max)",
    "Forgetting in percentage points with the maximum over all stages, the last included, so that it is never negative: 1/(T-1) * "
    "sum over i<T of (max over s of R[s][i] - R[T][i]).",
    "points",
    "lower",
    bounds=POINTS,
)
def forgetting_from_maximum(matrix: Matrix) -> float | None:
    """The form of HiDe-Prompt (card, section 8), NoRGa and Hash (card, section 12)."""
    return _forgetting(matrix, len(matrix))


@metric(
    "fm_step",
    "FM (step)",
    "Stepwise forgetting in percentage points: what one more task costs the tasks before it, the mean over stages t > 1 of the "
    "mean drop of the earlier tasks from stage t-1 to t.",
    "points",
    "lower",
    bounds=POINTS,
)
def stepwise_forgetting(matrix: Matrix) -> float | None:
    """The form of CODA-Prompt's code (card, section 8)."""
    if not _has_stages(matrix):
        return None
    drops = [
        sum((before[i] or 0.0) - (after[i] or 0.0) for i in range(t)) / t
        for t, (before, after) in enumerate(itertools.pairwise(matrix), start=1)
    ]
    return sum(drops) / len(drops)


@metric(
    "unseen",
    "unseen domains",
    "Accuracy in percent on domains that are still to come: the mean over the stages before the last, each the mean over the "
    "domains that were not trained on yet.",
    protocol="domain",
    bounds=PERCENT,
)
def unseen_domain_accuracy(matrix: Matrix) -> float | None:
    """Generalisation to new domains; ``None`` where a domain to come has classes that were not seen yet."""
    return _mean([_mean(row[stage + 1 :]) for stage, row in enumerate(matrix[:-1])])


@metric(
    "next_domain",
    "next domain",
    "Accuracy in percent on each domain right before it is trained on, from the second on: the mean over domains.",
    protocol="domain",
    bounds=PERCENT,
)
def next_domain_accuracy(matrix: Matrix) -> float | None:
    """Forward transfer without the untrained network as reference, whose accuracy is that of chance."""
    return _mean([row[stage + 1] for stage, row in enumerate(matrix[:-1])])


def _forgetting(matrix: Matrix, stages: int) -> float | None:
    """Mean drop of the tasks before the last, from the best of the first ``stages`` stages to the end."""
    if not _has_stages(matrix):
        return None
    # From the stage that learned the task on: before it, a domain can already be known from others.
    best = [max((matrix[s][i] or 0.0) for s in range(i, stages)) for i in range(len(matrix) - 1)]
    return _mean([value - (matrix[-1][i] or 0.0) for i, value in enumerate(best)])


def _has_stages(matrix: Matrix) -> bool:
    """Whether there are several tasks and every stage was measured."""
    return len(matrix) > 1 and all(row and None not in row[: t + 1] for t, row in enumerate(matrix))


def _mean(values: Sequence[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if measured and len(measured) == len(values) else None


METRICS = metrics_in(list(globals().values()))
"""The metrics that come with the project, in the order of this file."""
