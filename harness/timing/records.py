"""Measurements: rows of named measures, the file that keeps them, and the comparison of two of them.

Plain JSON, validated as it is read. Importing this module imports no torch.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from smope_bench.benchmarks.disk import refusal
from smope_bench.harness.errors import UserError

MAY_DIFFER = frozenset({"repeats", "torch", "python", "timm"})
"""Conditions that may differ between two measurements that are compared; all others must be equal."""

Value = str | int | float | bool | None
_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Spread:
    """Median and extremes over the repeats. ``is_count``: the value was counted, not timed, and cannot vary."""

    median: float
    least: float
    most: float
    is_count: bool = False

    def overlaps(self, other: Spread) -> bool | None:
        """Whether the two intervals overlap; None where one of them is a single timing, which has no interval."""
        if any(one.least == one.most and not one.is_count for one in (self, other)):
            return None
        return self.least <= other.most and other.least <= self.most


def spread(values: Sequence[float]) -> Spread:
    """Median and extremes of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> Spread:
    """``mine / theirs``, repeat by repeat."""
    return spread([one / other for one, other in zip(mine, theirs, strict=True)])


class Row(BaseModel):
    """The measures of one candidate by name; ``row[measure]`` is the spread of one of them."""

    model_config = _STRICT

    name: str
    measures: dict[str, Spread]
    note: str = ""

    def __getitem__(self, measure: str) -> Spread:
        return self.measures[measure]


def make_row(name: str, note: str = "", /, **measures: Spread | float | None) -> Row:
    """A row of spreads and counts: a plain number is a count, and None leaves the measure out."""
    found = {
        key: value if isinstance(value, Spread) else Spread(value, value, value, is_count=True)
        for key, value in measures.items()
        if value is not None
    }
    return Row(name=name, measures=found, note=note)


@dataclass(frozen=True)
class Code:
    """The measured code: its revision, whether tracked files differed from it, and its fingerprint."""

    revision: str | None
    is_dirty: bool | None
    fingerprint: str


class Measurement(BaseModel):
    """Rows with what is needed to repeat them: the command without paths, the code, and the conditions."""

    model_config = _STRICT

    schema_version: Literal[1] = Field(default=1, alias="schema")
    bench: str
    command: str
    made: str
    """Date and time in UTC."""
    revision: str | None
    is_dirty: bool | None = None
    """Whether tracked files differed from the revision."""
    fingerprint: str
    conditions: dict[str, Value]
    rows: list[Row]

    @property
    def code_text(self) -> str:
        """``revision 0123456789ab with uncommitted changes``."""
        changed = " with uncommitted changes" if self.is_dirty else ""
        return f"revision {(self.revision or 'unknown')[:12]}{changed}"

    def row(self, name: str) -> Row | None:
        """The row of that name."""
        return next((row for row in self.rows if row.name == name), None)


@dataclass(frozen=True)
class Change:
    """One measure of one row in two measurements; ``ratio``: now / then of the medians, None where then is 0."""

    name: str
    measure: str
    now: Spread
    then: Spread
    ratio: float | None
    is_within: bool | None
    """Whether the two spreads overlap, so that the difference may be chance; None where one is a single timing."""


def code_here() -> Code:
    """The code of this process. Call it before a measurement, during which files may change."""
    from smope_bench.harness import provenance

    return Code(*provenance.git_state(), provenance.code_fingerprint())


def make_measurement(
    bench: str, command: str, conditions: Mapping[str, Value], rows: Iterable[Row], code: Code
) -> Measurement:
    """A measurement of ``code``, dated now."""
    from smope_bench.harness import provenance

    made = {"bench": bench, "command": command, "made": provenance.now(), **asdict(code)}
    return Measurement(**made, conditions=dict(conditions), rows=list(rows))


def conditions_here(device: str, **chosen: Value) -> dict[str, Value]:
    """``chosen`` with the threads, the device's name and the versions of this process."""
    import platform

    import torch

    from smope_bench.harness.provenance import device_name, version_of

    return {
        **chosen,
        "threads": torch.get_num_threads(),
        "device": device_name(device),
        "torch": version_of("torch"),
        "timm": version_of("timm"),
        "python": platform.python_version(),
    }


def write(file: Path, measurement: Measurement) -> None:
    """Write a measurement. Raises UserError where the file cannot be written."""
    from smope_bench.harness.records.atomic_write import write_json_atomically

    try:
        write_json_atomically(file, measurement.model_dump(mode="json", by_alias=True))
    except OSError as error:
        raise UserError(f"--out {str(file)!r} cannot be written: {refusal(error, file)}") from error


def require_writable(file: Path) -> None:
    """Raises UserError where ``file`` is a folder or its folder cannot be made; to be called before anything is timed."""
    if file.is_dir():
        raise UserError(f"--out {str(file)!r} is a folder; name a file in it, such as {str(file / 'step.json')!r}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {str(file)!r} cannot be written: {refusal(error, file)}") from error


def read(file: Path) -> Measurement:
    """Read a measurement. Raises UserError where the file is not one."""
    try:
        return Measurement.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"a stored measurement ({'.'.join(map(str, first['loc'])) or 'the whole of it'}: {first['msg']})"
        raise UserError(f"{str(file)!r} is not {problem}; bench commands write such files with --out") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(file)!r} is not JSON ({error}); bench commands write such files with --out") from error


def require_comparable(then: Measurement, bench: str, conditions: Mapping[str, Value], file: Path) -> None:
    """Raises UserError where a ratio would compare machines, sizes or precisions instead of code."""
    if then.bench != bench:
        raise UserError(
            f"--against {str(file)!r} holds 'bench {then.bench}', not 'bench {bench}'; name a file of the same bench"
        )
    for key in [*conditions, *(then.conditions.keys() - conditions.keys())]:
        now, before = (repr(one[key]) if key in one else "not said" for one in (conditions, then.conditions))
        if key not in MAY_DIFFER and now != before:
            raise UserError(
                f"--against {str(file)!r} was measured with {key} {before}, this is {now}: their ratio"
                f" would not be the code's; measure both with the same {key}"
            )


def compare(now: Measurement, then: Measurement) -> list[Change]:
    """Every measure that both have, in the order of ``now``. Unchanged counts are left out."""
    changes: list[Change] = []
    for row in now.rows:
        before = then.row(row.name)
        for measure, mine in row.measures.items():
            theirs = None if before is None else before.measures.get(measure)
            if theirs is None or (mine.is_count and mine.median == theirs.median):
                continue
            ratio = mine.median / theirs.median if theirs.median else None
            changes.append(Change(row.name, measure, mine, theirs, ratio, mine.overlaps(theirs)))
    return changes


def unmatched(now: Measurement, then: Measurement) -> list[str]:
    """Names of rows that only one of two measurements has."""
    return sorted({row.name for row in now.rows} ^ {row.name for row in then.rows})
