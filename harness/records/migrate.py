"""Migration of records of older schemas to the current one; records that cannot be trusted are left unchanged.

The checksum of a migrated record is computed at the migration, not when it was written: ``migrated_from`` marks this. The
original is kept.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from smope_bench.harness.errors import UserError
from smope_bench.harness.records.atomic_write import write_atomically, write_json_atomically
from smope_bench.harness.records.observations import npz_arrays
from smope_bench.harness.records.record import (
    PREDICTIONS,
    RECORD_SCHEMA,
    Broken,
    Fault,
    Record,
    form_fault,
    has_half_character,
    with_checksum,
)
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_spec import canonical_json, run_id_of

RESULT = "result.json"
ROUNDING = 1e-6
"""Largest difference, in percentage points, between an accuracy and the share of correct predictions."""

Json = dict[str, Any]
Step = Callable[[Json, Path], Json]


def one_to_two(record: Json, folder: Path) -> Json:
    """Schema 2 has the hash of the predictions, None without them; ``migrate_record`` adds the checksum."""
    file = folder / PREDICTIONS
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
    return record | {"schema_version": 2, "predictions_sha256": digest}


STEPS: Mapping[int, Step] = {1: one_to_two}
"""Schema -> function that converts a record of it, with the record's folder, to the next schema."""


class _Measured(BaseModel):
    """Form of the parts of a record that are checked before it gets a checksum."""

    spec: dict[str, Any]
    accuracy_matrix: list[list[Any]]
    test_counts: list[Any]


@dataclass(frozen=True)
class Migrated:
    """Run ids of the records that were migrated and of those already current, and the records left unchanged."""

    moved: tuple[str, ...]
    current: tuple[str, ...]
    left: tuple[Broken, ...]


def migrate(results: Path) -> Migrated:
    """Migrate every record of a results folder; repeating it changes nothing. Raises UserError where it cannot be written."""
    store = Store(results)
    moved, current, left = [], [], []
    for folder in sorted(folder for folder in results.iterdir() if (folder / RESULT).exists()):
        try:
            outcome = migrate_record(store, folder.name)
        except OSError as error:
            raise UserError(
                f"{str(folder)!r} cannot be migrated ({error.strerror or error}); make it writable and migrate again: "
                "what is done stays done"
            ) from error
        if isinstance(outcome, Broken):
            left.append(outcome)
        else:
            (moved if outcome == "moved" else current).append(folder.name)
    return Migrated(tuple(moved), tuple(current), tuple(left))


def migrate_record(store: Store, run_id: str) -> Literal["moved", "current"] | Broken:
    """Migrate one record, keeping the original as ``result.schemaN.json``; ``Broken`` where it is left unchanged."""
    folder = store.path(run_id)
    try:
        data = (folder / RESULT).read_bytes()
        record = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        return Broken(run_id, f"cannot be read: {getattr(error, 'strerror', None) or error}", "unreadable")
    schema = record.get("schema_version") if isinstance(record, dict) else None
    if schema == RECORD_SCHEMA:
        return _checked(store, run_id)
    if type(schema) is not int or schema not in STEPS:
        newer = type(schema) is int and schema > RECORD_SCHEMA
        why = (
            f"newer than this version's {RECORD_SCHEMA}; use the version that wrote it" if newer else "which is unknown"
        )
        return Broken(run_id, f"has schema {schema!r}, {why}", "schema")
    try:
        found = form_fault(run_id, record) or _content_fault(run_id, record, folder)
    except (ValueError, RecursionError) as error:
        found = "edited", f"holds what no record can ({error})"
    if found is not None:
        return Broken(run_id, found[1], found[0])
    for step in range(schema, RECORD_SCHEMA):
        record = STEPS[step](record, folder)
    record.setdefault("migrated_from", schema)
    write_atomically(folder / f"result.schema{schema}.json", data)
    write_json_atomically(folder / RESULT, with_checksum(record))
    return "moved"


def sentences(done: Migrated) -> list[str]:
    """A summary of a migration, one sentence a line."""
    total = len(done.moved) + len(done.current) + len(done.left)
    if not total:
        return ["No records were found: there is nothing to migrate."]
    kept = f"brought to schema {RECORD_SCHEMA}; each original is kept beside its record as result.schemaN.json."
    records = f"{total} record{'s' * (total != 1)}"
    return [
        *(
            f"{len(found)} of {records} {'was' if len(found) == 1 else 'were'} {what}"
            for found, what in ((done.moved, kept), (done.current, "up to date already."), (done.left, "left:"))
            if found
        ),
        *(f"  {one.run_id} {one.reason}" for one in done.left),
    ]


def _checked(store: Store, run_id: str) -> Literal["current"] | Broken:
    try:
        found = store.load(run_id)
    except (ValueError, RecursionError) as error:
        return Broken(run_id, f"holds what no record can ({error})", "edited")
    if isinstance(found, Record):
        return "current"
    if found is None:
        return Broken(run_id, "cannot be read", "unreadable")
    return Broken(run_id, found.reason.removeprefix(f"the record of {run_id} "), found.fault)


def _content_fault(run_id: str, record: Json, folder: Path) -> tuple[Fault, str] | None:
    """Why a record without checksum must not get one, or None. Raises ValueError for NaN and infinity."""
    canonical_json(record)
    _Measured.model_validate(record, strict=True)
    if has_half_character(record):
        return "edited", "holds half a character, which no file can be written with"
    if run_id_of(record["spec"]) != run_id:
        return "edited", "has a specification that its id was not made from: it was edited"
    matrix, counts = record["accuracy_matrix"], record["test_counts"]
    if not _is_matrix(matrix, counts):
        return "edited", "has accuracies or test counts that cannot have been measured"
    try:
        fits = _fits_predictions(matrix, counts, folder / PREDICTIONS)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
        return "unreadable", f"has a {PREDICTIONS} that cannot be read"
    return None if fits else ("edited", f"has accuracies that are not those of its {PREDICTIONS}: one was changed")


def _is_matrix(matrix: Sequence[Sequence[float | None]], counts: Sequence[int]) -> bool:
    """Whether ``matrix`` is (tasks, tasks) of percentages or None, complete in its last row, with a positive count a task."""
    tasks = len(matrix)
    values = [value for row in matrix for value in row]
    return (
        tasks > 0
        and len(counts) == tasks
        and all(len(row) == tasks for row in matrix)
        and all(type(count) is int and count > 0 for count in counts)
        and all(value is None or (type(value) in (int, float) and 0 <= value <= 100) for value in values)
        and None not in matrix[-1]
    )


def _fits_predictions(matrix: Sequence[Sequence[float | None]], counts: Sequence[int], file: Path) -> bool:
    """Whether each accuracy is the share of correct predictions; True without a file."""
    if not file.is_file():
        return True
    arrays = npz_arrays(file.read_bytes())
    labels = arrays["labels"]
    if any(array.ndim != 1 for array in arrays.values()):
        return False
    ends = [sum(counts[: task + 1]) for task in range(len(counts))]
    if len(labels) != ends[-1]:
        return False
    for stage, row in enumerate(matrix):
        predicted = arrays.get(f"stage_{stage}", labels[:0])
        for task, (start, end) in enumerate(pairwise([0, *ends])):
            accuracy = row[task]
            if (accuracy is not None) != (end <= len(predicted)):
                return False
            if accuracy is not None:
                correct = float((predicted[start:end] == labels[start:end]).mean())
                if abs(accuracy - 100 * correct) > ROUNDING:
                    return False
    return True
