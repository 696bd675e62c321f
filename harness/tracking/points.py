"""What is tracked of a run: points of curves from its event log, final values from its record, and its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from smope_bench.harness.metrics import Metric
from smope_bench.harness.tracking.tracker import Point

LOGGED = ("epoch", "task_evaluated")
"""Events that make points."""


def points_of(events: Sequence[Mapping[str, Any]]) -> Iterator[Point]:
    """Losses by epoch, and accuracies in percent and seconds by task; events of another form are ignored."""
    epochs = 0
    for event in events:
        try:
            if event.get("event") == "epoch":
                epochs += 1
                yield from _loss_points(event, epochs)
            elif event.get("event") == "task_evaluated":
                yield from _accuracy_points(event)
        except (KeyError, TypeError, ValueError):  # an edited log
            continue


def _loss_points(event: Mapping[str, Any], epochs: int) -> Iterator[Point]:
    loss, seconds = float(event["loss"]), float(event.get("t", 0.0))
    phase = f", {event['phase']}" if event.get("phase") else ""
    yield Point("loss/all tasks", "epoch", epochs, loss, seconds)
    yield Point(f"loss/task {int(event['task']) + 1:02d}{phase}", "epoch", epochs, loss, seconds)


def _accuracy_points(event: Mapping[str, Any]) -> Iterator[Point]:
    stage, seconds = int(event["task"]) + 1, float(event.get("t", 0.0))
    known = [(task, float(value)) for task, value in enumerate(event["accuracies"], start=1) if value is not None]
    for task, accuracy in known:
        yield Point(f"accuracy/task {task:02d}", "task", stage, accuracy, seconds)
    if known:
        yield Point("accuracy/average", "task", stage, sum(value for _, value in known) / len(known), seconds)
    if "t" in event:
        yield Point("time/seconds so far", "task", stage, seconds, seconds)


def events_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The evaluations of a record whose event log is missing, as events without times."""
    rows = enumerate(result["accuracy_matrix"])
    return [{"event": "task_evaluated", "task": task, "accuracies": row} for task, row in rows if any(row)]


def recorded_points(result: Mapping[str, Any]) -> Iterator[Point]:
    """Seconds of training, of what follows it, and of evaluation by task, which only the record has."""
    spent = 0.0
    for timing in result["timings"].get("tasks", ()):
        parts = {name: float(timing[name]) for name in ("train_s", "end_s", "evaluate_s") if name in timing}
        spent += sum(parts.values())
        for name, seconds in parts.items():
            yield Point(f"time/{name.removesuffix('_s')}", "task", int(timing["task"]) + 1, seconds, spent)


def summary_of(result: Mapping[str, Any], metrics: Sequence[Metric]) -> dict[str, float]:
    """Final metrics by their headings, then times in seconds, memory in MiB and other costs by the record's names."""
    matrix, counts = result["accuracy_matrix"], result["test_counts"]
    suited = [metric for metric in metrics if metric.suits("domain" if result.get("domains") else "class")]
    found = {metric.heading: metric.compute(matrix, counts) for metric in suited}
    costs = {"total_s": result["timings"].get("total_s"), **result["costs"]}
    found |= {name: value for name, value in costs.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in found.items() if value is not None}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """A specification with dotted names; lists and None as texts."""
    found: dict[str, str | int | float | bool] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        else:
            found[name] = value if isinstance(value, str | int | float | bool) else str(value)
    return found
