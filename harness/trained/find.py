"""Finished runs by id or by the beginning of one, and the files with their trained models. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smope_bench.harness.errors import UserError
from smope_bench.harness.records.record import MODEL, RECORD, Broken, Record, checksum_of
from smope_bench.harness.records.store import Store
from smope_bench.harness.text import plain, shell_command

DESCRIPTION = "model.json"
"""File of an exported model that describes it, as a record does."""
NAMED_AT_MOST = 8


@dataclass(frozen=True)
class KeptModel:
    """A trained model on disk, of a run or exported. ``data``: the verified content of its safetensors file."""

    run_id: str
    record: Mapping[str, Any]
    """Fields of a record: ``spec``, ``class_names``, ``provenance``, ``model`` and, of a run, all others."""
    data: bytes
    folder: Path
    """Where it lies."""

    @property
    def remedy(self) -> str:
        """How to train it again, as a clause."""
        return Store(self.folder.parent).remedy(self.run_id)

    @property
    def sources(self) -> dict[str, str]:
        """Hashes of the sources of the plugins that the run used, by kind."""
        return {str(kind): str(digest) for kind, digest in (self.record["provenance"].get("plugins") or {}).items()}


def find_run(run: str, results: Path) -> Record:
    """The finished run with this id, or the only one whose id begins so. Raises UserError."""
    store = Store(results)
    if not results.is_dir():
        raise UserError(f"there is no results folder {str(results)!r}; name it with --results DIR")
    ids = sorted(file.parent.name for file in results.glob(f"*/{RECORD}"))
    found = [run] if run in ids else [each for each in ids if run and each.startswith(run)]
    if not found:
        raise UserError(_unknown(run, store, ids))
    if len(found) > 1:
        raise UserError(
            f"{len(found)} runs of {str(results)!r} begin with {plain(run)!r}: {_listed(found)}; give more of the id"
        )
    record = store.load(found[0])
    if isinstance(record, Record):
        return record
    reason = record.reason if isinstance(record, Broken) else f"run {found[0]} has no record"
    if isinstance(record, Broken) and record.fault == "misplaced":
        raise UserError(f"{reason}; delete {str(store.path(found[0]))!r}, or give it back its name")
    raise UserError(f"{reason}; {store.remedy(found[0])}")


def located(run: str, results: Path) -> tuple[str, Path]:
    """Id and results folder of a run; ``run`` may be the run's own folder, as a shell completes it, in any results folder."""
    folder = _expanded(run)
    if len(folder.parts) > 1 and _has(folder, RECORD):
        return folder.name, folder.parent
    return run, results


def is_exported(run: str) -> bool:
    """Whether ``run`` is a folder that ``export`` wrote."""
    return _has(_expanded(run), DESCRIPTION)


def _expanded(run: str) -> Path:
    return Path(os.path.expanduser(run))  # noqa: PTH111  # unlike a Path, it leaves an unknown user's ~ as it is


def _has(folder: Path, name: str) -> bool:
    return os.path.isfile(folder / name)  # noqa: PTH113  # unlike a Path, it does not raise for names that are too long


def find_model(run: str, results: Path) -> KeptModel:
    """The trained model of a run, by its id, or of a folder that ``export`` wrote. Raises UserError."""
    path = _expanded(run)
    if is_exported(run):
        return _read_exported(path)
    if _has(path, MODEL) and not _has(path, RECORD):
        raise UserError(f"the exported folder {run!r} has lost its {DESCRIPTION}; export it again")
    run, results = located(run, results)
    record = find_run(run, results)
    folder, remedy = results / record.run_id, Store(results).remedy(record.run_id)
    if record.kept_model is None:
        raise UserError(
            f"run {record.run_id} was stored without its trained model; remove the folder {shlex.quote(str(folder))},"
            f" then {remedy}"
        )
    data = _read_verified(folder / MODEL, record.kept_model, record.run_id, remedy)
    return KeptModel(record.run_id, record.result, data, folder)


def _read_exported(folder: Path) -> KeptModel:
    file = folder / DESCRIPTION
    again = "export it again"
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        is_whole = isinstance(described, dict) and described.get("seal") == checksum_of(described)
        is_whole = is_whole and isinstance(described.get("model"), dict) and "run_id" in described
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{str(file)!r} cannot be read ({plain(error)}); {again}") from error
    if not is_whole:
        raise UserError(f"{str(file)!r} was changed after it was written: its seal does not fit; {again}")
    run_id = str(described["run_id"])
    return KeptModel(run_id, described, _read_verified(folder / MODEL, described["model"], run_id, again), folder)


def _read_verified(file: Path, entry: Mapping[str, Any], run_id: str, remedy: str) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"the trained model {str(file)!r} of run {run_id} cannot be read ({error.strerror}); {remedy}"
        ) from error
    if hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise UserError(
            f"the trained model {str(file)!r} of run {run_id} is damaged: it does not have the hash that its record names;"
            f" {remedy}"
        )
    return data


def _unknown(run: str, store: Store, ids: list[str]) -> str:
    """Why no finished run was found: it failed, or is not finished, or there is none with this id."""
    where = str(store.root)
    begun = sorted(
        folder.name for folder in store.root.iterdir() if run and folder.name.startswith(run) and folder.is_dir()
    )
    if begun and begun[0] not in ("suites", *ids):
        if store.failure(begun[0]) is not None:
            remedy = store.remedy(begun[0])
            return f"run {plain(begun[0])} of {where!r} failed, so that it has no model and no predictions; {remedy}"
        return (
            f"run {plain(begun[0])} of {where!r} is not finished, so that it has no model and no predictions yet; see"
            f" {shell_command('status', results=store.root)}"
        )
    known = f"it has {_listed(ids)}" if ids else "it has no finished run"
    return f"no run of {where!r} has the id {plain(run)!r} or one that begins so; {known}"


def _listed(ids: list[str]) -> str:
    more = f" and {len(ids) - NAMED_AT_MOST} more" if len(ids) > NAMED_AT_MOST else ""
    return f"{', '.join(ids[:NAMED_AT_MOST])}{more}"
