"""Labels of columns and titles of suites, from what is planned: a name never states another configuration than that of the runs.

A column or a title that is the suite's own keeps its text. Imports no torch, since reports compute titles, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from smope_bench.benchmarks.suites import SUITES, Column

UNNAMED = frozenset({"tasks", "split", "path", "content"})
"""Settings of a benchmark that its label has in another form, or not at all: a path may name the user."""
LONGEST_VALUE, LONGEST_SETTINGS, MOST_LABELS = 24, 60, 3


def column_label(column: Column, config: Any, named: Mapping[str, Any], *, with_weights: bool) -> str:
    """``digits, 10 tasks, holdout=0.2, tiny``: the benchmark, its tasks, the settings in ``named``, and the weights.

    ``config``: the column's typed configuration. ``column.label`` or the other suites give the benchmark its name.
    """
    known = {one.benchmark: one.label for suite in SUITES.values() for one in (*suite.tiny, *suite.full)}
    noun = (column.label or known.get(column.benchmark, column.benchmark)).split(",")[0]
    if isinstance(config.class_order, tuple) and "class_order" in named:  # it may be given by a path
        named = {**named, "class_order": "listed"}
    fields = [f"{name}={_short(value)}" for name, value in sorted(named.items()) if name not in UNNAMED]
    parts = (noun, tasks_label(config), *fields, *([column.backbone] if with_weights else []))
    return ", ".join(part for part in parts if part)


def tasks_label(config: Any) -> str:
    """``5 tasks``, and in parentheses the classes of each where they are uneven: ``6 tasks (50 + 5 × 10)``.

    Empty where the images give the number.
    """
    if config.tasks_follow_data and "tasks" not in config.model_fields_set:
        return ""
    text = f"{config.tasks} {config.task_word}{'s' * (config.tasks != 1)}"
    sizes = [(size, len(list(same))) for size, same in groupby(config.split or ())]
    if len(sizes) < 2:
        return text
    return f"{text} ({' + '.join(f'{n} × {size}' if n > 1 else str(size) for size, n in sizes)})"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("kind", "changed")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= LONGEST_VALUE else "changed"


def distinct(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns without those that a setting has made equal to an earlier one; equal labels of others are numbered."""
    found: list[Column] = []
    for column in columns:
        if any(
            (one.benchmark, one.config, one.backbone) == (column.benchmark, column.config, column.backbone)
            for one in found
        ):
            continue
        labels, label, number = {one.label for one in found}, column.label, 2
        while label in labels:
            label, number = f"{column.label} ({number})", number + 1
        found.append(replace(column, label=label))
    return tuple(found)


def suite_title(
    name: str,
    title: str,
    suite_rows: Sequence[Sequence[str]],
    suite_columns: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    settings: Sequence[Sequence[str]],
) -> str:
    """The suite's title if ``rows`` and ``columns`` (labels) are its own, else what they are.

    ``suite_rows``, ``suite_columns``: the suite's labels in each of its sizes. ``settings``: those that the user gave for each
    run; those of benchmark and backbone are in the labels of columns.
    """
    own_rows, own_columns = _own(rows, suite_rows), _own(columns, suite_columns)
    parts = [_part(own_rows, suite_rows, "row"), _part(own_columns, suite_columns, "benchmark")]
    if len(own_rows) == len(rows) and len(own_columns) == len(columns):
        part = ", ".join(filter(None, parts))
        said = f"{title} ({part})" if part else title
    else:
        more = [row for row in rows if row not in own_rows]
        ours = [f"{parts[0]} of {name}" if parts[0] else f"the rows of {name}"] if own_rows else []
        said = f"{_listed([*ours, *more], 'rows')} on {_listed(columns, 'benchmarks')}"
        said = said[0].upper() + said[1:] if ours else said
    return said + _with(settings)


def _own(labels: Sequence[str], forms: Sequence[Sequence[str]]) -> list[str]:
    known = {label for form in forms for label in form}
    return [label for label in labels if label in known]


def _part(own: Sequence[str], forms: Sequence[Sequence[str]], noun: str) -> str:
    """``2 of 10 rows`` where no size of the suite is complete; else empty."""
    if any(set(form) <= set(own) for form in forms):
        return ""
    nearest = max(forms, key=lambda form: len(set(form) & set(own)))
    return f"{len(own)} of {len(nearest)} {noun}{'s' * (len(nearest) != 1)}"


def _listed(labels: Sequence[str], noun: str) -> str:
    if len(labels) > MOST_LABELS:
        labels = [*labels[:1], f"{len(labels) - 1} other {noun}"] if noun == "rows" else [f"{len(labels)} {noun}"]
    return " and ".join(["; ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)


def _with(settings: Sequence[Sequence[str]]) -> str:
    """``, with schedule.epochs=1``; in words where not all runs have the settings, or they are long."""
    of_runs = [tuple(text for text in texts if not text.startswith(("benchmark.", "backbone"))) for texts in settings]
    if not any(of_runs):
        return ""
    joined = ", ".join(of_runs[0])
    if len(set(of_runs)) > 1 or len(joined) > LONGEST_SETTINGS:
        return ", with settings of one's own" if all(of_runs) else ", some runs with settings of one's own"
    return f", with {joined}"
