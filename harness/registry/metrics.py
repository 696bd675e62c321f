"""All metrics of a command: built-in ones, those of installed packages, and those of plugin files. Imports no torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from smope_bench.harness.errors import UserError
from smope_bench.harness.metrics import METRICS, Matrix, Metric
from smope_bench.harness.registry.plugins import InstalledEntryPoint, call_outside_code, installed_points, run_file
from smope_bench.harness.registry.registry import KINDS
from smope_bench.harness.text import plain, sentence

METRIC_GROUP = "smope_bench.metrics"


def open_metrics(plugins: Sequence[Path] = ()) -> tuple[Metric, ...]:
    """Built-in metrics, then those of entry points and of plugin files.

    A metric of an installed package that cannot be used is left out with a warning on standard error, so that it stops no
    command. Raises UserError for a plugin that cannot be imported, and for one whose metric has a name that is taken.
    """
    owners = {metric.name: "the project" for metric in METRICS}
    found = list(METRICS)

    def add(metric: Metric, owner: str) -> None:
        if metric.name in owners:
            raise UserError(
                f"metric {metric.name!r} of {owner} already exists, from {owners[metric.name]}: choose another name."
            )
        owners[metric.name] = owner
        found.append(metric)

    for point in installed_points(METRIC_GROUP):
        try:
            add(_loaded(point), point.owner)
        except UserError as error:
            print(f"warning: a metric is left out: {error}", file=sys.stderr)
    for file in plugins:
        for metric in KINDS["metric"].defined_in(run_file(file.resolve())):
            add(metric, f"plugin {plain(file.name)!r}")
    return tuple(found)


def values_of(
    metrics: Iterable[Metric], run_id: str, matrix: Matrix, test_counts: Sequence[int]
) -> dict[str, float | None]:
    """The metrics of a run by name; None where one is not defined for it. Accuracies: ``Metric.compute``.

    Raises UserError for a metric of a plugin that fails or returns something else than a finite number or None.
    """
    return {metric.name: _value_of(metric, run_id, matrix, test_counts) for metric in metrics}


def _value_of(metric: Metric, run_id: str, matrix: Matrix, test_counts: Sequence[int]) -> float | None:
    where = f"metric {metric.name!r} of run {run_id}"
    try:
        value = metric.compute(matrix, test_counts)
    except Exception as error:
        if metric in METRICS:  # a fault of this program, not of a plugin
            raise
        raise UserError(f"{where} cannot be computed: {sentence(error)}") from error
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{where} must be a finite number or None, and is {value!r}")
    return float(value)


def _loaded(point: InstalledEntryPoint) -> Metric:
    value = call_outside_code(point.load, f"metric {point.name!r} of {point.owner} cannot be imported")
    if not isinstance(value, Metric):
        raise UserError(
            f"metric {point.name!r} of {point.owner} cannot be used: it is of type {type(value).__name__}, "
            "not a function decorated with smope_bench.api.metric; mend or uninstall the package."
        )
    return value
