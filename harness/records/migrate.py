"""The command ``migrate``: brings records of older schemas up to this one's, or leaves them alone and says why.

A migrated record is sealed when it is migrated, not when it was written; ``migrated_from`` says so. Its original is kept.
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

from smope_bench.harness.errors import UserError
from smope_bench.harness.records.checksum import RECORD_SCHEMA, with_checksum
from smope_bench.harness.records.observations import npz_arrays
from smope_bench.harness.records.store import PREDICTIONS, Broken, Fault, Record, Store, write_bytes, write_json
from smope_bench.harness.run_spec import canonical_json

RESULT = "result.json"
ROUNDING = 1e-6
"""By so many percentage points an accuracy may differ from the share of right predictions."""

Json = dict[str, Any]
Step = Callable[[Json, Path], Json]


def one_to_two(record: Json, folder: Path) -> Json:
    """Schema 2 names the hash of the predictions, ``None`` where there are none; the seal is set by ``migrate_record``."""
    file = folder / PREDICTIONS
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
    return record | {"schema_version": 2, "predictions_sha256": digest}


STEPS: Mapping[int, Step] = {1: one_to_two}
"""Schema -> what brings a record of it, and its folder, to the next."""


@dataclass(frozen=True)
class Migrated:
    """What became of each record of a folder, by run id: brought up, up to date before, or left as it was and why."""

    moved: tuple[str, ...]
    current: tuple[str, ...]
    left: tuple[Broken, ...]


def migrate(results: Path) -> Migrated:
    """Migrate every record of a results folder; doing it again changes nothing. Raises UserError where it cannot be written."""
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
    """Bring one record up to date; ``Broken`` where it is left as it was. The old form stays as ``result.schemaN.json``."""
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
        found = _form_fault(run_id, record) or _content_fault(run_id, record, folder)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        found = "edited", f"holds what no record can ({error})"
    if found is not None:
        return Broken(run_id, found[1], found[0])
    for step in range(schema, RECORD_SCHEMA):
        record = STEPS[step](record, folder)
    record.setdefault("migrated_from", schema)
    write_bytes(folder / f"result.schema{schema}.json", data)
    write_json(folder / RESULT, with_checksum(record))
    return "moved"


def sentences(done: Migrated) -> list[str]:
    """What a migration did, one sentence a line."""
    total = len(done.moved) + len(done.current) + len(done.left)
    if not total:
        return ["No records were found: there is nothing to migrate."]
    said = []
    if done.moved:
        said.append(
            f"{_records(len(done.moved), total)} brought to schema {RECORD_SCHEMA}; each original is kept beside its record"
            " as result.schemaN.json."
        )
    if done.current:
        said.append(f"{_records(len(done.current), total)} up to date already.")
    if done.left:
        said.append(f"{_records(len(done.left), total)} left:")
        said += [f"  {one.run_id} {one.reason}" for one in done.left]
    return said


def _records(count: int, total: int) -> str:
    return f"{count} of {total} record{'s' * (total != 1)} {'was' if count == 1 else 'were'}"


def _checked(store: Store, run_id: str) -> Literal["current"] | Broken:
    try:
        found = store.load(run_id)
    except (ValueError, RecursionError) as error:
        return Broken(run_id, f"holds what no record can ({error})", "edited")
    if isinstance(found, Record):
        return "current"
    reason = found.reason if found is not None else "cannot be read"
    return Broken(run_id, reason.removeprefix(f"the record of {run_id} "), found.fault if found else "unreadable")


def _form_fault(run_id: str, record: Json) -> tuple[Fault, str] | None:
    """Why an old record is not one, or not this run's."""
    if record.get("run_id") != run_id:
        return "misplaced", f"is a copy, or its folder was renamed: it says that it is run {record.get('run_id')!r}"
    needed = ("spec", "accuracy_matrix", "test_counts", "provenance", "costs", "timings")
    missing = [name for name in needed if name not in record]
    if missing:
        return "incomplete", f"lacks {', '.join(missing)}"
    if "code_fingerprint" not in record["provenance"]:
        return "incomplete", "does not say which code made it"
    return None


def _content_fault(run_id: str, record: Json, folder: Path) -> tuple[Fault, str] | None:
    """Why an old record, which has no seal, must not get one now. Raises ValueError for NaN and half characters."""
    canonical_json(record)
    json.dumps(record, ensure_ascii=False).encode()  # half a character can be read, but not written
    if hashlib.sha256(canonical_json(record["spec"]).encode()).hexdigest()[:16] != run_id:
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
    """(tasks, tasks) of percentages or ``None`` with a whole last row, and as many positive counts."""
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
    """Whether each accuracy is the share of right predictions; a file that is missing contradicts nothing."""
    if not file.is_file():
        return True
    arrays = npz_arrays(file.read_bytes())
    labels = arrays["labels"]
    ends = [sum(counts[: task + 1]) for task in range(len(counts))]
    if len(labels) != ends[-1]:
        return False
    for stage, row in enumerate(matrix):
        predicted = arrays.get(f"stage_{stage}", labels[:0])
        for task, (start, end) in enumerate(pairwise([0, *ends])):
            said = row[task]
            if (said is not None) != (end <= len(predicted)):
                return False
            if (
                said is not None
                and abs(said - 100 * float((predicted[start:end] == labels[start:end]).mean())) > ROUNDING
            ):
                return False
    return True
