"""Stored measurements: what a bench command kept in a file, and how a later one compares with it.

Plain JSON, checked as it is read; nothing in it is ever executed. Importing this module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smope_bench.harness.errors import UserError

if TYPE_CHECKING:
    from smope_bench.harness.timing.measure import Spread

MAY_DIFFER = frozenset({"repeats", "torch", "python", "timm"})
"""Conditions under which numbers can still be compared: what a comparison is often about."""
NOT_IN_COMMANDS = frozenset({"out", "against", "as_json", "results", "data", "record", "plugin"})
"""Options that change no number, or that name places."""

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Code:
    """What was measured: the revision, whether files that git follows differed from it, and the hash of the code."""

    revision: str | None
    is_dirty: bool | None
    fingerprint: str


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


class StoredSpread(_Plain):
    """Median and extremes over the repeats; ``is_count``: what was counted, not timed, so that nothing can spread."""

    median: float
    least: float
    most: float
    is_count: bool = False

    def overlaps(self, other: StoredSpread) -> bool | None:
        """Whether some value lies in both; None where one of them is a single timing, which has no spread."""
        if any(one.least == one.most and not one.is_count for one in (self, other)):
            return None
        return self.least <= other.most and other.least <= self.most


class StoredRow(_Plain):
    """All that was measured of one thing, by name of the measure."""

    name: str
    measures: dict[str, StoredSpread]
    note: str = ""


class Stored(_Plain):
    """A measurement with what it takes to repeat it: the command without paths, the code, and the conditions."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    bench: str
    command: str
    made: str
    """UTC."""
    revision: str | None
    is_dirty: bool | None = None
    """Whether files that git follows differed from the revision."""
    fingerprint: str
    conditions: dict[str, Value]
    rows: list[StoredRow]

    @property
    def code_words(self) -> str:
        """The code in a few words, uncommitted changes included."""
        changed = " with uncommitted changes" if self.is_dirty else ""
        return f"revision {(self.revision or 'unknown')[:12]}{changed}"

    def row(self, name: str) -> StoredRow | None:
        """The row of that name."""
        return next((row for row in self.rows if row.name == name), None)


@dataclass(frozen=True)
class Compared:
    """One measure of one row, now and in an earlier measurement; ``ratio``: now / then of the medians, None where then is 0."""

    name: str
    measure: str
    now: StoredSpread
    then: StoredSpread
    ratio: float | None
    is_within: bool | None
    """Whether the two spreads overlap: then the difference may be chance; None where one timing says nothing of chance."""


def measured_row(row: Any, leave_out: Iterable[str] = ()) -> StoredRow:
    """A report's row (a dataclass with a ``name``): its spreads and numbers; what is None or a text is no measure."""
    skipped = {"name", *leave_out}
    found = {field.name: getattr(row, field.name) for field in fields(row) if field.name not in skipped}
    return named_row(row.name, {key: value for key, value in found.items() if value is not None})


def named_row(name: str, values: Mapping[str, Spread | float | str], note: str = "") -> StoredRow:
    """A row from spreads and single numbers; texts are left out."""
    return StoredRow(name=name, measures=dict(_measures(values)), note=note)


def _measures(values: Mapping[str, Spread | float | str]) -> Iterator[tuple[str, StoredSpread]]:
    for key, value in values.items():
        if isinstance(value, str):
            continue
        is_count = isinstance(value, int | float)
        found = {"median": value, "least": value, "most": value} if is_count else asdict(value)
        found["is_count"] = is_count
        yield key, StoredSpread.model_validate(found)


def code_here() -> Code:
    """The code that this process runs; to be asked for before a measurement, during which files may change."""
    from smope_bench.harness import provenance

    return Code(*provenance.git_state(), provenance.code_fingerprint())


def stored(bench: str, command: str, conditions: Mapping[str, Value], rows: Sequence[StoredRow], code: Code) -> Stored:
    """A measurement of ``code``, made now."""
    from smope_bench.harness import provenance

    return Stored(
        bench=bench,
        command=command,
        made=provenance.now(),
        **asdict(code),
        conditions=dict(conditions),
        rows=list(rows),
    )


def conditions_here(device: str, **asked: Value) -> dict[str, Value]:
    """``asked`` with what this process adds to it: threads, device by name, versions."""
    import platform

    import torch

    from smope_bench.harness.provenance import device_name, version_of

    return {
        **asked,
        "threads": torch.get_num_threads(),
        "device": device_name(device),
        "torch": version_of("torch"),
        "timm": version_of("timm"),
        "python": platform.python_version(),
    }


def command_line(context: typer.Context) -> str:
    """The command as it can be given again: options that differ from their defaults, without paths."""
    parts, place = [context.info_name or ""], context.parent
    while place is not None and place.parent is not None:  # the outermost name is whatever the program was called by
        parts, place = [place.info_name or "", *parts], place.parent
    parts = ["run_all.py", *parts]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if option.name in NOT_IN_COMMANDS or value in (None, [], ()) or value == option.get_default(context):
            continue
        flag = max(option.opts, key=len)
        parts += [flag] if value is True else [flag, _written(value)]
    return " ".join(parts)


def _written(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_written, value))
    return str(getattr(value, "value", value))


def write(file: Path, kept: Stored) -> None:
    """Keep a measurement. Raises UserError where the file cannot be written."""
    from smope_bench.harness.records.store import write_json

    try:
        write_json(file, kept.model_dump(mode="json", by_alias=True))
    except OSError as error:
        raise UserError(f"--out {str(file)!r} cannot be written: {error.strerror or error}") from error


def require_writable(file: Path) -> None:
    """Raises UserError before a measurement that could not be kept."""
    if file.is_dir():
        raise UserError(f"--out {str(file)!r} is a folder; name a file in it, such as {str(file / 'step.json')!r}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {str(file)!r} cannot be written: {error.strerror or error}") from error


def read(file: Path) -> Stored:
    """A kept measurement. Raises UserError where the file is not one."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(file)!r} is not JSON ({error}); bench commands write such files with --out") from error
    try:
        return Stored.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole of it"
        raise UserError(
            f"{str(file)!r} is not a stored measurement ({place}: {first['msg']}); bench commands write such files with --out"
        ) from error


def require_comparable(then: Stored, bench: str, conditions: Mapping[str, Value], file: Path) -> None:
    """Raises UserError where a ratio would compare machines, sizes or precisions instead of code."""
    if then.bench != bench:
        raise UserError(
            f"--against {str(file)!r} holds 'bench {then.bench}', not 'bench {bench}'; name a file of the same bench"
        )
    for key in [*conditions, *(then.conditions.keys() - conditions.keys())]:
        now, before = (_condition(one, key) for one in (conditions, then.conditions))
        if key not in MAY_DIFFER and now != before:
            raise UserError(
                f"--against {str(file)!r} was measured with {key} {before}, this is {now}: their ratio"
                f" would not be the code's; measure both with the same {key}"
            )


def _condition(conditions: Mapping[str, Value], key: str) -> str:
    """As a sentence writes it; a condition that a measurement does not name is another than any it could name."""
    return repr(conditions[key]) if key in conditions else "not said"


def compared(now: Stored, then: Stored) -> list[Compared]:
    """Every measure that both have. Counts that did not change are left out."""
    rows: list[Compared] = []
    for row in now.rows:
        before = then.row(row.name)
        for measure, mine in row.measures.items():
            theirs = None if before is None else before.measures.get(measure)
            if theirs is None or (mine.is_count and mine.median == theirs.median):
                continue
            ratio = mine.median / theirs.median if theirs.median else None
            rows.append(Compared(row.name, measure, mine, theirs, ratio, mine.overlaps(theirs)))
    return rows


def unmatched(now: Stored, then: Stored) -> list[str]:
    """Names of rows that only one of two measurements has."""
    mine, theirs = {row.name for row in now.rows}, {row.name for row in then.rows}
    return sorted(mine ^ theirs)
