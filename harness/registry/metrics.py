"""All metrics of a command: built-in ones, those of installed packages, and those of plugin files. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smope_bench.harness.errors import UserError
from smope_bench.harness.metrics import METRICS, Metric, metrics_in
from smope_bench.harness.registry.plugins import call_outside_code, installed_points, run_file
from smope_bench.harness.text import plain

METRIC_GROUP = "smope_bench.metrics"


def open_metrics(plugins: Sequence[Path] = ()) -> tuple[Metric, ...]:
    """Built-in metrics, then those of entry points and of plugin files.

    Raises UserError for a plugin that cannot be imported, an entry point that is no metric, and a name that is taken.
    """
    owners = {metric.name: "the project" for metric in METRICS}
    found = list(METRICS)
    for owner, metrics in (*_installed(), *((f"plugin {plain(file.name)!r}", _of_file(file)) for file in plugins)):
        for metric in metrics:
            if metric.name in owners:
                raise UserError(
                    f"metric {metric.name!r} of {owner} already exists, from {owners[metric.name]}: choose another name."
                )
            owners[metric.name] = owner
            found.append(metric)
    return tuple(found)


def _of_file(file: Path) -> tuple[Metric, ...]:
    return metrics_in(
        value
        for value in vars(run_file(file.resolve())).values()
        # An imported built-in metric is not the plugin's own.
        if not any(value is metric for metric in METRICS)
    )


def _installed() -> list[tuple[str, tuple[Metric, ...]]]:
    found = []
    for point in installed_points(METRIC_GROUP):
        value = call_outside_code(point.load, f"metric {point.name!r} of {point.owner} cannot be imported")
        if not isinstance(value, Metric):
            raise UserError(
                f"metric {point.name!r} of {point.owner} cannot be used: it is of type {type(value).__name__}, "
                "not a function decorated with smope_bench.api.metric; mend or uninstall the package."
            )
        found.append((point.owner, (value,)))
    return found
