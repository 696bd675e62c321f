"""Versions and environments of runs, as the page lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smope_bench.harness.run_spec import canonical_json
from smope_bench.reports.loading.run_result import RunResult

FIELD_LABELS = {
    "project": "Project", "git_revision": "Git revision", "git_dirty": "Uncommitted changes",
    "code_fingerprint": "Code fingerprint", "plugins": "Plugin sources", "python": "Python", "torch": "PyTorch",
    "timm": "timm", "numpy": "NumPy",
    "platform": "Platform", "cpu": "CPU", "device": "Device", "device_name": "Device name",
    "weights_sha256": "Backbone weights (SHA-256)",
}  # fmt: skip
# These differ between runs and are shown with each run.
_OF_THE_RUN = {"started", "finished", "split_hash"}


@dataclass(frozen=True)
class EnvironmentView:
    """A distinct environment: its name and anchor on the page, its fields, and its number of runs."""

    name: str
    anchor: str
    fields: tuple[tuple[str, str], ...]
    runs: int


class Environments:
    """The distinct environments among outcomes, numbered by first use."""

    def __init__(self, outcomes: Sequence[RunResult], key: str) -> None:
        keys = [_environment_key(outcome) for outcome in outcomes]
        distinct = list(dict.fromkeys(keys))
        self._names = {found: f"E{i}" for i, found in enumerate(distinct, 1)}
        first = dict(zip(reversed(keys), reversed(outcomes), strict=True))
        self.listed = [
            EnvironmentView(self._names[found], f"{key}-{self._names[found]}", _fields(first[found]), keys.count(found))
            for found in distinct
        ]

    def name_of(self, outcome: RunResult) -> str:
        """``E1`` and so on."""
        return self._names[_environment_key(outcome)]


def version_line(outcomes: Sequence[RunResult]) -> str:
    """``smope-bench 0.1.0 · Python 3.11 · ...``: all versions among the records."""
    names = {"project": "smope-bench", "python": "Python", "torch": "PyTorch", "timm": "timm", "numpy": "NumPy"}
    parts = []
    for key, name in names.items():
        met = sorted({str(outcome.provenance[key]) for outcome in outcomes if outcome.provenance.get(key)})
        if met:
            parts.append(f"{name} {', '.join(met)}")
    return " · ".join(parts)


def environment_of(outcome: RunResult) -> dict[str, Any]:
    """Where and by which code a run was made: its provenance without times and data."""
    return {key: value for key, value in outcome.provenance.items() if key not in _OF_THE_RUN}


def _environment_key(outcome: RunResult) -> str:
    return canonical_json(environment_of(outcome))


def _fields(outcome: RunResult) -> tuple[tuple[str, str], ...]:
    keys = [key for key in FIELD_LABELS if key in outcome.provenance]
    keys += sorted(outcome.provenance.keys() - FIELD_LABELS.keys() - _OF_THE_RUN)
    return tuple((FIELD_LABELS.get(key, key), said(outcome.provenance[key])) for key in keys)


def said(value: object) -> str:
    """A field of a record's provenance as text."""
    if value is None:
        return "not known"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
