"""The results folder: its records, which are written atomically and checked when they are read, and its manifests.

``result.json`` is written last and marks a run as finished; a failed run has ``failure.json`` instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from smope_bench.benchmarks.disk import refusal, remedy
from smope_bench.benchmarks.download.locks import locked
from smope_bench.benchmarks.durable import make_folder
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.atomic_write import json_bytes, write_atomically, write_json_atomically
from smope_bench.harness.records.record import (
    MODEL,
    OBSERVATIONS,
    PREDICTIONS,
    RECORD,
    Broken,
    Record,
    checked,
    outline_of,
    with_checksum,
)
from smope_bench.harness.text import plain, shell_command

State = Literal["new", "done", "stale", "failed"]


@dataclass(frozen=True)
class Derived:
    """What a reader made of a record, as JSON: ``alike`` is equal for many records, ``own`` is not."""

    alike: Any
    own: Any


class _Cell(BaseModel):
    row: str
    column: str
    order_seed: int
    train_seed: int
    run_id: str
    plugins: dict[str, str] = {}
    command: list[str] = []


class _Plan(BaseModel):
    """The part of a manifest that the harness reads."""

    cells: list[_Cell]


class _Labelled(BaseModel):
    label: str


class _MergeablePlan(_Plan):
    """The part of a manifest that is merged with that of a later plan."""

    rows: list[_Labelled] = []
    columns: list[_Labelled] = []


class Store:
    """Reads and writes one results folder. It has no state besides the path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, run_id: str) -> Path:
        """Folder of a run; it need not exist."""
        return self.root / run_id

    def require_writable(self) -> None:
        """Create the folder and write a file, to fail before training rather than after it. Raises UserError."""
        if self.root.is_file():
            raise UserError(
                f"the results folder {str(self.root)!r} cannot be written: it is a file; name another with --results DIR"
            )
        try:
            make_folder(self.root)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".probe-"):
                pass
        except OSError as error:
            raise UserError(
                f"the results folder {str(self.root)!r} cannot be written ({refusal(error, self.root)}); name another with"
                " --results DIR"
            ) from error

    def state(self, run_id: str, fingerprint: str | None, observe: Collection[str] = ()) -> State:
        """``done`` where a record of this code exists with its predictions and all observations in ``observe``, ``stale`` where
        a record lacks any of these, so that the run must be repeated. ``fingerprint`` None accepts any code."""
        return self.state_of(self.outline(run_id), run_id, fingerprint, observe)

    def state_of(
        self, found: Record | Broken | None, run_id: str, fingerprint: str | None, observe: Collection[str] = ()
    ) -> State:
        """As ``state``, where ``outline`` has ``found`` this."""
        if isinstance(found, Record):
            is_current = fingerprint in (None, found.fingerprint)
            return "done" if is_current and self._is_whole(found, observe) else "stale"
        if self.failure(run_id) is not None:
            return "failed"
        return "new"

    def _is_whole(self, record: Record, observe: Collection[str]) -> bool:
        if observe and not (record.observes.issuperset(observe) and record.observations_sha256):
            return False
        return not self.damaged_files(record, (PREDICTIONS, MODEL, OBSERVATIONS) if observe else (PREDICTIONS, MODEL))

    def damaged_files(self, record: Record, names: Collection[str] = (PREDICTIONS, MODEL, OBSERVATIONS)) -> list[str]:
        """The files, of these names, that are missing or do not have the hash that the record has."""
        hashes = record.file_hashes
        return [name for name in names if name in hashes and hashes[name] != self.sha256(record.run_id, name)]

    def observations(self, record: Record) -> bytes | None:
        """Content of the file with a run's observations; None where it is missing or does not have the recorded hash."""
        try:
            data = (self.path(record.run_id) / OBSERVATIONS).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == record.observations_sha256 else None

    def load(self, run_id: str) -> Record | Broken | None:
        """The record of a run; None where there is none, ``Broken`` where it is damaged or was edited."""
        file = self.path(run_id) / RECORD
        try:
            return checked(run_id, json.loads(file.read_bytes().decode(), parse_constant=_refuse_constant))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:  # computing the checksum finds numbers like 1e999
            return Broken(run_id, f"{file.name} of {run_id} cannot be read: {error}", "unreadable")

    def outline(self, run_id: str) -> Record | Broken | None:
        """As ``load``, but a record has the fields of ``outline_of`` alone, of which many may share parts."""
        found = self.load(run_id)
        return Record(run_id, outline_of(found.result)) if isinstance(found, Record) else found

    def derived(
        self,
        run_id: str,
        by: str,  # noqa: ARG002
        derive: Callable[[Record], Derived | None],
    ) -> Derived | Record | Broken | None:
        """What ``derive`` makes of a record; what ``load`` finds where that is none, or nothing can be made of it.

        ``by``: names all that decides what ``derive`` makes of a record. Several may have one object as ``alike``, which must
        not be changed.
        """
        found = self.load(run_id)
        made = derive(found) if isinstance(found, Record) else None
        return found if made is None else made

    def sha256(self, run_id: str, name: str) -> str | None:
        """Hexadecimal SHA-256 of a file of a run; None where it cannot be read."""
        try:
            with (self.path(run_id) / name).open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError:
            return None

    def failure(self, run_id: str) -> Mapping[str, Any] | None:
        """The error that ended a run, or None."""
        try:
            found = json.loads((self.path(run_id) / "failure.json").read_text(encoding="utf-8"))
        except RecursionError:
            return {"error": "failure.json is nested too deeply to be read"}
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def published(self) -> list[str]:
        """Names of all folders with a ``result.json``, sorted. Raises UserError."""
        try:
            names = os.listdir(self.root)  # noqa: PTH208  # a Path each is slow
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UserError(f"the results folder {str(self.root)!r} cannot be read: {error.strerror}") from error
        return sorted(name for name in names if os.path.lexists(f"{self.root}/{name}/{RECORD}"))

    def scan(self) -> Iterator[Record | Broken]:
        """Every published record, in the order of run ids. Raises UserError."""
        return (found for run_id in self.published() if (found := self.load(run_id)) is not None)

    def outlines(self) -> Iterator[Record | Broken]:
        """As ``scan``, with the ``outline`` of each record."""
        return (found for run_id in self.published() if (found := self.outline(run_id)) is not None)

    def write_result(self, run_id: str, result: Mapping[str, Any], *, replace: bool = True) -> None:
        """Publish a record with its checksum; removes an earlier failure of the run.

        ``replace`` False: for a run that had no record; FileExistsError where there is one by now, which then stays.
        """
        folder = self.path(run_id)
        # Its folder is synced with it: the names of the files that the record names are durable before the record's own.
        write_json_atomically(folder / "spec.json", result["spec"])
        (folder / "failure.json").unlink(missing_ok=True)
        write_json_atomically(folder / RECORD, with_checksum(result), exclusive=not replace)

    def write_failure(self, run_id: str, failure: Mapping[str, Any]) -> None:
        """Store the error that ended a run; removes an earlier record, which was made by other code."""
        folder = self.path(run_id)
        if (folder / RECORD).exists():  # one that a network client does not show yet was judged by nobody
            (folder / RECORD).unlink(missing_ok=True)
        write_json_atomically(folder / "failure.json", failure)

    def read_manifest(self, suite: str) -> dict[str, Any] | None:
        """The plan of a suite that ``run`` stored: rows, columns and the run id of each cell. Raises UserError."""
        file = self.root / "suites" / f"{suite}.json"
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:  # it may be sound, so nothing may replace it
            raise UserError(f"{str(file)!r} cannot be read ({error.strerror or error}); make it readable") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{str(file)!r} cannot be read ({error}); run the suite again to write it anew") from error

    def read_cells(self, suite: str) -> list[Mapping[str, Any]]:
        """The cells of a suite's manifest: row, column, seeds, run id, plugins. Empty where there is no manifest.

        Raises UserError where a cell has another form.
        """
        manifest = self.read_manifest(suite)
        if manifest is None:
            return []
        try:
            _Plan.model_validate(manifest, strict=True)
        except ValidationError as error:
            raise UserError(
                f"the plan of suite {plain(suite)!r} cannot be used; run the suite again to write it anew"
            ) from error
        return manifest["cells"]

    def remedy(self, run_id: str) -> str:
        """How to do a run again, as a clause with the command that its plan has; older plans have none."""
        for file in sorted((self.root / "suites").glob("*.json")):
            with contextlib.suppress(UserError):  # another suite's plan that is damaged
                for cell in self.read_cells(file.stem):
                    if cell["run_id"] == run_id and cell.get("command"):
                        return f"do the run again: {shell_command(*cell['command'], results=self.root)}"
        return "run its suite again"

    def write_manifest(self, suite: str, manifest: Mapping[str, Any]) -> bool:
        """Store a suite's plan, merged with the cells of earlier plans by (row, column, seeds): a run of some rows keeps the rest.

        A stored manifest that cannot be used is replaced, as is one that was planned from another content of the suite's file;
        returns whether this was so. Raises UserError where it cannot be written.
        """
        folder, other = self.root / "suites", False
        try:
            make_folder(folder)
            # Two launchers may store their parts at the same time.
            with locked(folder / f".{suite}.lock", lambda: None):
                try:
                    old = self.read_manifest(suite) or {}
                    if old:
                        _MergeablePlan.model_validate(old, strict=True)
                    other = bool(old) and old.get("file") != manifest.get("file")
                    new = dict(manifest) if other else _merged(old, manifest)
                    if new == old:
                        return False
                    data = json_bytes(new)
                except (UserError, ValueError, RecursionError) as error:
                    if isinstance(error.__cause__, OSError):
                        raise
                    data = json_bytes(manifest)
                write_atomically(folder / f"{suite}.json", data)
        except OSError as error:
            raise UserError(
                f"the plan of suite {suite!r} cannot be written to {str(folder)!r} ({refusal(error, folder)}); {remedy(error)}"
                " or name another results folder with --results DIR"
            ) from error
        return other


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a measurement")


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """``new`` with the rows, columns and cells that only ``old`` has; ValueError where they do not fit together."""
    merged = dict(new)
    for part in ("rows", "columns"):
        known = {entry["label"] for entry in new[part]}
        merged[part] = [*new[part], *(entry for entry in old.get(part, []) if entry["label"] not in known)]
    cells = {_cell_key(cell): cell for cell in [*old.get("cells", []), *new["cells"]]}
    if not {cell["column"] for cell in cells.values()} <= {entry["label"] for entry in merged["columns"]}:
        raise ValueError("a cell has a column that is not listed")
    order = {entry["label"]: i for i, entry in enumerate(merged["rows"])}
    if not {cell["row"] for cell in cells.values()} <= order.keys():
        raise ValueError("a cell has a row that is not listed")
    merged["cells"] = sorted(cells.values(), key=lambda cell: (order[cell["row"]], *map(str, _cell_key(cell))))
    return merged


def _cell_key(cell: Mapping[str, Any]) -> tuple[str, str, int, int]:
    return (cell["row"], cell["column"], cell["order_seed"], cell["train_seed"])


def unwritable(run_id: str, folder: Path, error: OSError) -> UserError:
    """The error of a run whose folder cannot be written."""
    return UserError(
        f"run {run_id} cannot be written to {str(folder)!r} ({refusal(error, folder)}); {remedy(error)} or"
        " name another folder with --results DIR, then run the same command: it goes on from its last checkpoint, or anew"
        " where none was saved"
    )
