"""The results folder: records are published atomically, and are whole or absent.

``result.json`` is written last and is the commit marker of a run; ``failure.json`` stands in its place when a run stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smope_bench.benchmarks.download.locks import locked
from smope_bench.harness.errors import UserError
from smope_bench.harness.provenance import with_sources
from smope_bench.harness.records.checksum import RECORD_SCHEMA, checksum_of, with_checksum
from smope_bench.harness.text import plain

State = Literal["new", "done", "stale", "failed"]
Fault = Literal["unreadable", "schema", "incomplete", "edited", "misplaced"]

OBSERVATIONS = "observations.npz"
"""What figures draw of a run, beside its record, which has the file's hash."""

PREDICTIONS = "predictions.npz"
"""What a run predicted, beside its record, which has the file's hash."""


@dataclass(frozen=True)
class Record:
    """A finished run, as stored."""

    run_id: str
    result: Mapping[str, Any]

    @property
    def spec(self) -> Mapping[str, Any]:
        """The run's specification."""
        return self.result["spec"]

    @property
    def fingerprint(self) -> str:
        """Hash of the code that made the record, its plugins included."""
        made = self.result["provenance"]
        plugins = made.get("plugins")
        sources = {str(kind): str(source) for kind, source in plugins.items()} if isinstance(plugins, dict) else {}
        return with_sources(str(made["code_fingerprint"]), sources)

    @property
    def observes(self) -> frozenset[str]:
        """Names of what the run observed beside accuracies."""
        return frozenset(self._observations.get("names", ()))

    @property
    def observations_sha256(self) -> str | None:
        """Hash of the file with what the run observed, or ``None``."""
        return self._observations.get("sha256")

    @property
    def _observations(self) -> Mapping[str, Any]:
        found = self.result.get("observations")
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Broken:
    """A record that cannot be used, and why in one sentence; ``misplaced`` is a copy or a folder that was renamed."""

    run_id: str
    reason: str
    fault: Fault


class Store:
    """Reads and writes one results folder; holds no state of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, run_id: str) -> Path:
        """Folder of a run; it need not exist."""
        return self.root / run_id

    def require_writable(self) -> None:
        """Create the folder and write into it once, so that a sweep does not find out after training. Raises UserError."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".probe-"):
                pass
        except OSError as error:
            raise UserError(
                f"the results folder {str(self.root)!r} cannot be written ({error.strerror}); name another with --results DIR"
            ) from error

    def state(self, run_id: str, fingerprint: str | None, observe: Collection[str] = ()) -> State:
        """``done`` if a whole record of this code exists that has all of ``observe``; ``stale`` if it must be made anew.

        A record is whole with its predictions: where that file is missing or not the one it names, the run is made anew.
        """
        found = self.load(run_id)
        if isinstance(found, Record):
            is_current = fingerprint in (None, found.fingerprint)
            is_whole = self._has_predictions(found) and self._has_observed(found, observe)
            return "done" if is_current and is_whole else "stale"
        if self.failure(run_id) is not None:
            return "failed"
        return "new"

    def _has_predictions(self, record: Record) -> bool:
        named = record.result.get("predictions_sha256")  # records that were migrated may name none
        return named is None or named == _sha256(self.path(record.run_id) / PREDICTIONS)

    def _has_observed(self, record: Record, names: Collection[str]) -> bool:
        return not names or (record.observes.issuperset(names) and self.observations(record) is not None)

    def observations(self, record: Record) -> bytes | None:
        """The file with what a run observed; ``None`` where it is missing or not the one that its record names."""
        try:
            data = (self.path(record.run_id) / OBSERVATIONS).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == record.observations_sha256 else None

    def load(self, run_id: str) -> Record | Broken | None:
        """The record of a run; ``None`` where none was published, ``Broken`` where it cannot be trusted."""
        file = self.path(run_id) / "result.json"
        try:
            return _checked(run_id, json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:  # numbers like 1e999 are found when the seal is computed
            return Broken(run_id, f"{file.name} of {run_id} cannot be read: {error}", "unreadable")

    def failure(self, run_id: str) -> Mapping[str, Any] | None:
        """What stopped a run, or ``None``."""
        try:
            found = json.loads((self.path(run_id) / "failure.json").read_text(encoding="utf-8"))
        except RecursionError:
            return {"error": "failure.json is nested too deeply to be read"}
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def scan(self) -> Iterator[Record | Broken]:
        """Every published record, in the order of run ids."""
        if not self.root.is_dir():
            return
        for folder in sorted(self.root.iterdir()):
            if (folder / "result.json").is_file():
                found = self.load(folder.name)
                if found is not None:
                    yield found

    def write_result(self, run_id: str, result: Mapping[str, Any]) -> None:
        """Publish a record under its seal; an earlier failure of the run is forgotten."""
        folder = self.path(run_id)
        write_json(folder / "spec.json", result["spec"])
        (folder / "failure.json").unlink(missing_ok=True)
        write_json(folder / "result.json", with_checksum(result))

    def write_failure(self, run_id: str, failure: Mapping[str, Any]) -> None:
        """Say what stopped a run; a record that other code published before does not outlive it."""
        folder = self.path(run_id)
        (folder / "result.json").unlink(missing_ok=True)
        write_json(folder / "failure.json", failure)

    def read_manifest(self, suite: str) -> dict[str, Any] | None:
        """What ``run`` noted of a suite: its rows, columns and the run id of each cell."""
        file = self.root / "suites" / f"{suite}.json"
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{str(file)!r} cannot be read ({error}); run the suite again to write it anew") from error

    def read_cells(self, suite: str) -> list[Mapping[str, Any]]:
        """The runs that ``run`` noted of a suite, none where it noted nothing: row, column, seeds, run id, plugins.

        Raises UserError where a cell is none: the file may be of anybody's making.
        """
        noted = self.read_manifest(suite)
        cells = [] if noted is None else noted.get("cells") if isinstance(noted, dict) else None
        if not isinstance(cells, list) or not all(map(_is_cell, cells)):
            raise UserError(f"the plan of suite {plain(suite)!r} cannot be used; run the suite again to write it anew")
        return cells

    def write_manifest(self, suite: str, manifest: Mapping[str, Any]) -> None:
        """Note a suite's plan. Cells merge by (row, column, seeds): a partial re-run does not forget the others.

        A manifest that cannot be used is written anew.
        """
        folder = self.root / "suites"
        folder.mkdir(parents=True, exist_ok=True)
        # Of two launchers that note their parts at once, neither is forgotten.
        with locked(folder / f".{suite}.lock", lambda: None):
            try:
                self.read_cells(suite)
                data = _json_bytes(_merged(self.read_manifest(suite) or {}, manifest))
            except (UserError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
                data = _json_bytes(manifest)
            write_bytes(folder / f"{suite}.json", data)


def write_json(file: Path, value: object) -> None:
    """Write durably and atomically: temporary file in the same folder, fsync, rename, fsync of the folder."""
    write_bytes(file, _json_bytes(value))


def write_bytes(file: Path, data: bytes) -> None:
    """As ``write_json``, for bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _checked(run_id: str, result: object) -> Record | Broken:
    if not isinstance(result, dict):
        return Broken(run_id, f"the record of {run_id} is not a JSON object", "unreadable")
    found = _fault(run_id, result)
    return Record(run_id, result) if found is None else Broken(run_id, f"the record of {run_id} {found[1]}", found[0])


def _fault(run_id: str, result: Mapping[str, Any]) -> tuple[Fault, str] | None:
    schema = result.get("schema_version")
    if schema != RECORD_SCHEMA:
        remedy = "; bring it up to date with: run_all.py migrate" if schema in range(1, RECORD_SCHEMA) else ""
        return "schema", f"has schema {schema!r}, not {RECORD_SCHEMA}{remedy}"
    if result.get("run_id") != run_id:
        return "misplaced", f"is a copy, or its folder was renamed: it says that it is run {result.get('run_id')!r}"
    missing = {"spec", "accuracy_matrix", "test_counts", "provenance", "costs", "timings"} - result.keys()
    if missing:
        return "incomplete", f"lacks {', '.join(sorted(missing))}"
    if not isinstance(result["provenance"], dict) or "code_fingerprint" not in result["provenance"]:
        return "incomplete", "does not say which code made it"
    if result.get("seal") != checksum_of(result):
        return "edited", "was changed after it was written: its seal does not fit"
    return None


def _sha256(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a measurement")


def _is_cell(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    plugins = value.get("plugins", {})
    return (
        all(isinstance(value.get(name), str) for name in ("row", "column", "run_id"))
        and all(isinstance(value.get(name), int) for name in ("order_seed", "train_seed"))
        and isinstance(plugins, dict)
        and all(isinstance(source, str) for source in plugins.values())
    )


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """``new`` with the rows, columns and cells that only ``old`` has; ValueError or KeyError where they do not fit together."""
    merged = dict(new)
    for part in ("rows", "columns"):
        known = {entry["label"] for entry in new[part]}
        merged[part] = [*new[part], *(entry for entry in old.get(part, []) if entry["label"] not in known)]
    cells = {_cell_key(cell): cell for cell in [*old.get("cells", []), *new["cells"]]}
    if not {cell["column"] for cell in cells.values()} <= {entry["label"] for entry in merged["columns"]}:
        raise ValueError("a cell has a column that is not listed")
    order = {entry["label"]: i for i, entry in enumerate(merged["rows"])}
    merged["cells"] = sorted(cells.values(), key=lambda cell: (order[cell["row"]], *map(str, _cell_key(cell))))
    return merged


def _cell_key(cell: Mapping[str, Any]) -> tuple[str, str, int, int]:
    return (cell["row"], cell["column"], cell["order_seed"], cell["train_seed"])


def unwritable(run_id: str, folder: Path, error: OSError) -> UserError:
    """What a run ends with that cannot leave its results."""
    return UserError(
        f"run {run_id} cannot be written to {str(folder)!r} ({error.strerror or type(error).__name__}); make room there or"
        " name another folder with --results DIR, then run the same command: it goes on from its last checkpoint"
    )
