"""How far a difference between two rows depends on which images were tested on.

The trained models stay as they are, and the test images are taken as a sample of each class. FAA is the mean over tasks of the
share of right answers, so that a difference of FAA, averaged over seeds, is a sum over images: each adds its mean, over seeds,
of (one is right - the other is right) / (tasks * images of its task). A bootstrap that draws images anew within each class,
for both rows and all seeds at once, has the variance of that sum, which is written down here instead of drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from smope_bench.harness.errors import UserError
from smope_bench.harness.trained.answers import Answers
from smope_bench.reports.loading.model import CONFIDENCE, Column, ResultRow, Run, SuiteResults
from smope_bench.reports.loading.run_result import RunResult
from smope_bench.reports.statistics.paired_tests import holm
from smope_bench.reports.statistics.samples import comparable

ReadAnswers = Callable[[RunResult], Answers]
"""The stored predictions of a run; raises UserError where there are none."""


@dataclass(frozen=True)
class ImageDifference:
    """Row minus reference in percentage points over ``images`` test images and ``seeds`` pairs of runs, with a 95 % interval.

    ``p``: two-sided, by the normal distribution. ``adjusted``: after Holm over the rows. ``std``: standard error.
    """

    row: ResultRow
    images: int
    seeds: int
    mean: float
    std: float
    low: float
    high: float
    p: float
    adjusted: float
    runs: tuple[str, ...]


def image_differences(
    results: SuiteResults, column: Column, reference: str, read: ReadAnswers
) -> tuple[ImageDifference, ...]:
    """Every comparable row against ``reference``, a row's label; rows without stored predictions are left out.

    Pairs of runs share class order and training seed. Empty where the reference has no predictions.
    """
    taken = {one.row.label: one for one in comparable(results, column).rows}
    if reference not in taken:
        return ()
    base = _right_answers(results, column, taken[reference].row, read)
    found = []
    for label, one in taken.items():
        if label == reference or not base:
            continue
        own = _right_answers(results, column, one.row, read)
        shared = [pair for pair in own if pair in base]
        if difference := _difference([(own[pair], base[pair]) for pair in shared]):
            found.append(
                (one.row, len(shared), difference, tuple(part[pair].run_id for part in (own, base) for pair in shared))
            )
    adjusted = holm([_p(mean, std) for _, _, (mean, std, _), _ in found])
    reach = float(ndtri((1 + CONFIDENCE) / 2))
    return tuple(
        ImageDifference(row, count, seeds, mean, std, mean - reach * std, mean + reach * std, _p(mean, std), p, runs)
        for (row, seeds, (mean, std, count), runs), p in zip(found, adjusted, strict=True)
    )


@dataclass(frozen=True)
class _Right:
    """Test images, sorted by stratum, a class of a domain: ``strata``, ``right`` and ``weight`` in FAA are (n,)."""

    run_id: str
    strata: NDArray[np.str_]
    right: NDArray[np.bool_]
    weight: NDArray[np.float64]


def _right_answers(
    results: SuiteResults, column: Column, row: ResultRow, read: ReadAnswers
) -> dict[tuple[int, int], _Right]:
    found: dict[tuple[int, int], _Right] = {}
    last: _Right | None = None
    for run in results.cell(row, column).used:
        answers = _read(run, read)
        if answers is None:
            continue
        if last is not None and np.array_equal(
            answers.strata, last.strata
        ):  # the names of many images take much memory
            answers = replace(answers, strata=last.strata)
        found[run.order_seed, run.train_seed] = last = answers
    return found


def _read(run: Run, read: ReadAnswers) -> _Right | None:
    outcome = run.outcome
    if outcome is None or run.state != "ok":
        return None
    try:
        answers = read(outcome)
    except UserError:
        return None
    counts = np.array(outcome.test_counts)
    if counts.sum() != len(answers.true):
        return None
    task = answers.task
    names, number = np.unique(np.array(answers.class_names, dtype=str), return_inverse=True)
    stratum = number[answers.true]
    if outcome.domains:
        domains = np.array(outcome.domains, dtype=str)[task]
        names, stratum = np.unique(np.char.add(domains, np.char.add("\n", names[stratum])), return_inverse=True)
    # Images of a class come in the order of the benchmark, whatever the order of classes: equal places are equal images.
    order = np.argsort(stratum, kind="stable")
    weight = 1.0 / (len(counts) * counts[task])
    return _Right(outcome.run_id, names[stratum[order]], (answers.predicted == answers.true)[order], weight[order])


def _difference(pairs: Sequence[tuple[_Right, _Right]]) -> tuple[float, float, int] | None:
    """(mean, standard error, images) in percentage points; ``None`` without pairs, and where test images differ between seeds."""
    if not pairs:
        return None
    strata = pairs[0][0].strata
    if any(one.strata is not strata and not np.array_equal(one.strata, strata) for pair in pairs for one in pair):
        return None
    parts = [100 * one.weight * (one.right.astype(np.float64) - other.right) for one, other in pairs]
    each = np.mean(parts, axis=0)
    _, starts, counts = np.unique(strata, return_index=True, return_counts=True)
    groups = [slice(start, start + count) for start, count in zip(starts, counts, strict=True)]
    if counts.min() < 2:  # a class of one image has no spread of its own
        groups = [slice(0, len(each))]
    variance = math.fsum(len(each[group]) * float(each[group].var(ddof=1)) for group in groups)
    return float(each.sum()), math.sqrt(variance), len(each)


def _p(mean: float, std: float) -> float:
    return 2 * float(ndtr(-abs(mean) / std)) if std > 0 else 1.0
