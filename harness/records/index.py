"""An index of a results folder, from which unchanged records are taken instead of being read and checked again.

It is never the truth: it may be deleted at any time, and is then made anew. An entry counts only where

- the index is the user's own, nobody else may write it, and the same code that would check the record made it;
- the entry has the hash that was written with it, so that a damaged index is noticed;
- the file that it is about has the size, the times of its last change and of its last change of status, and the inode that it
  had when its content was checked.

A file that changed less than ``SETTLED_S`` seconds before it was read gets no entry: it could change again within the resolution
of the file system's times. What these cannot show is a disk that changes bits by itself: the command ``verify`` reads everything.

The index is a SQLite database that is written to a temporary file and renamed, and that is read without locks. Each user
of a folder has an own one. Imports no torch.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from smope_bench.harness.provenance import code_bytes
from smope_bench.harness.records import record, store
from smope_bench.harness.records.record import RECORD, RECORD_SCHEMA, Broken, Record, outline_of
from smope_bench.harness.records.store import Derived, Store

SETTLED_S = 2.0
LEAST_NEW = 100
"""With fewer new entries than this the index is not written: they are read again sooner than it is."""
LEFTOVER_S = 3600.0
"""Age of a temporary file whose process was killed."""
BATCH = 2000
"""Entries that are gathered before they are written to a temporary file."""
COMMON = "common"
SHARED = (
    ("spec", "method"), ("spec", "benchmark"), ("spec", "backbone"), ("spec", "schedule"), ("model", "tasks"),
    ("model", "learned"), ("provenance", COMMON), (None, "test_counts"), (None, "class_order"), (None, "class_names"),
    (None, "domains"), (None, "devices"), (None, "flags"),
)  # fmt: skip
"""Parts that many records have alike, which are kept once; ``provenance`` without ``OF_THE_RUN`` is one."""
OF_THE_RUN = ("started", "finished")
OF_MANY = ("provenance", "spec")
"""Parts of an outline that many records have alike, which are kept once, together."""
_HOLDERS = {of for of, _ in SHARED}
_TABLES = """
CREATE TABLE records (run_id TEXT PRIMARY KEY, proof TEXT, outline TEXT, own_digest BLOB, digest BLOB, own TEXT);
CREATE TABLE parts (digest BLOB PRIMARY KEY, text TEXT);
CREATE TABLE derived (run_id TEXT PRIMARY KEY, proof TEXT, alike TEXT, own TEXT, digest BLOB);
CREATE TABLE files (name TEXT PRIMARY KEY, proof TEXT, sha256 TEXT, digest BLOB);
"""


class IndexedStore(Store):
    """A store that takes unchanged records and hashes of unchanged files from the index, and adds to it when its block ends.

    ``afresh``: an index that is there is ignored, and replaced. The records that it returns share parts, and must not be changed.
    """

    def __init__(self, root: Path, *, afresh: bool = False) -> None:
        super().__init__(root)
        self._place = os.fspath(root)
        self._file = root / f".index-{os.getuid() if hasattr(os, 'getuid') else 0}.sqlite"
        self._index = None if afresh else _opened(self._file)
        self._additions = _Additions(self._file, afresh=afresh)
        self._parts: dict[bytes, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._drop()
        self._additions.close(keep=kind is None or issubclass(kind, Exception))

    def load(self, run_id: str) -> Record | Broken | None:
        """As ``Store.load``."""
        proof = _proof(f"{self._place}/{run_id}/{RECORD}")
        row = self._row("SELECT proof, outline, own_digest, digest, own FROM records WHERE run_id = ?", run_id)
        if row and row[0] == proof and row[3] == _digest(run_id, *row[:3]) and row[2] == _digest(row[4]):
            with contextlib.suppress(LookupError):
                return Record(run_id, self._whole(row[4]))
        return self._read(run_id, proof)

    def outline(self, run_id: str) -> Record | Broken | None:
        """As ``Store.outline``."""
        proof = _proof(f"{self._place}/{run_id}/{RECORD}")
        row = self._row("SELECT proof, outline, own_digest, digest FROM records WHERE run_id = ?", run_id)
        if row and row[0] == proof and row[3] == _digest(run_id, *row[:3]):
            with contextlib.suppress(LookupError):
                own = json.loads(row[1])
                return Record(run_id, {**self._part(bytes.fromhex(own.pop(COMMON))), **own})
        found = self._read(run_id, proof)
        return Record(run_id, outline_of(found.result)) if isinstance(found, Record) else found

    def derived(
        self, run_id: str, by: str, derive: Callable[[Record], Derived | None]
    ) -> Derived | Record | Broken | None:
        """As ``Store.derived``."""
        file = f"{self._place}/{run_id}/{RECORD}"
        proof = _proof(file)
        row = self._row("SELECT proof, alike, own, digest FROM derived WHERE run_id = ?", run_id)
        if row and row[0] == proof and row[3] == _digest(by, run_id, *row[:3]):
            with contextlib.suppress(LookupError):
                return Derived(self._part(bytes.fromhex(row[1])), json.loads(row[2]))
        found = super().derived(run_id, by, derive)
        if isinstance(found, Derived):
            text = _text(found.alike)
            digest = _digest(text)
            if _is_settled(file, proof):
                self._additions.add_derived(run_id, by, str(proof), (digest, text), _text(found.own))
            return Derived(self._parts.setdefault(digest, found.alike), found.own)
        return found

    def sha256(self, run_id: str, name: str) -> str | None:
        """As ``Store.sha256``."""
        key = f"{run_id}/{name}"
        proof = _proof(f"{self._place}/{key}")
        row = self._row("SELECT proof, sha256, digest FROM files WHERE name = ?", key)
        if row and row[0] == proof and row[2] == _digest(key, *row[:2]):
            return row[1]
        found = super().sha256(run_id, name)
        if found is not None and _is_settled(f"{self._place}/{key}", proof):
            self._additions.add_file(key, str(proof), found)
        return found

    def _read(self, run_id: str, proof: str | None) -> Record | Broken | None:
        found = super().load(run_id)
        if isinstance(found, Record) and _is_settled(f"{self._place}/{run_id}/{RECORD}", proof):
            self._additions.add_record(run_id, str(proof), found.result)
        return found

    def _row(self, query: str, key: str | bytes) -> tuple[Any, ...] | None:
        if self._index is None:
            return None
        try:
            return self._index.execute(query, (key,)).fetchone()
        except (sqlite3.Error, UnicodeEncodeError) as error:  # everything else is read
            self._drop()
            if isinstance(error, sqlite3.Error):
                self._additions.start_afresh()
            return None

    def _drop(self) -> None:
        if self._index is not None:
            with contextlib.suppress(sqlite3.Error):
                self._index.close()
            self._index = None

    def _whole(self, own: str) -> dict[str, Any]:
        """A record from its own text. Raises LookupError where a part is missing or damaged."""
        record = json.loads(own)
        for holder, name in _shared_places(record):
            holder[name] = self._part(bytes.fromhex(holder[name]))
        own_provenance = record["provenance"]
        record["provenance"] = {**own_provenance.pop(COMMON), **own_provenance}
        return record

    def _part(self, digest: bytes) -> Any:
        if digest not in self._parts:
            row = self._row("SELECT text FROM parts WHERE digest = ?", digest)
            if row is None or _digest(row[0]) != digest:
                raise LookupError(digest.hex())
            self._parts[digest] = json.loads(row[0])
        return self._parts[digest]


class _Additions:
    """New entries, gathered in memory and then in a copy of the index, which replaces it at the end."""

    def __init__(self, file: Path, *, afresh: bool) -> None:
        self._file, self._afresh = file, afresh
        self._rows: list[tuple[str, tuple[Any, ...]]] = []
        self._known: set[bytes | str] = set()
        self._copy: tuple[Path, sqlite3.Connection] | None = None
        self._failed, self._count = False, 0

    def add_record(self, run_id: str, proof: str, record: Mapping[str, Any]) -> None:
        """Add a record that has passed all checks."""
        if not self._is_new(run_id):
            return
        own = {
            key: dict(value) if key in _HOLDERS and isinstance(value, dict) else value for key, value in record.items()
        }
        provenance = own["provenance"]
        own["provenance"] = {name: provenance.pop(name) for name in OF_THE_RUN if name in provenance}
        own["provenance"][COMMON] = provenance
        for holder, name in _shared_places(own):
            text = _text(holder[name])
            digest = _digest(text)
            holder[name] = digest.hex()
            self._add_part(digest, text)
        outline = outline_of(record)
        common = _text({name: outline.pop(name) for name in OF_MANY})
        self._add_part(_digest(common), common)
        text, outline = _text(own), _text({**outline, COMMON: _digest(common).hex()})
        digest = _digest(text)
        row = (run_id, proof, outline, digest, _digest(run_id, proof, outline, digest), text)
        self._add("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?)", row)

    def add_derived(self, run_id: str, by: str, proof: str, alike: tuple[bytes, str], own: str) -> None:
        """Add what was made of a record; ``alike``: digest and text."""
        if not self._is_new(f"{run_id}/"):
            return
        self._add_part(*alike)
        row = (run_id, proof, alike[0].hex(), own)
        self._add("INSERT OR REPLACE INTO derived VALUES (?, ?, ?, ?, ?)", (*row, _digest(by, run_id, *row[1:])))

    def _add_part(self, digest: bytes, text: str) -> None:
        if self._is_new(digest):
            self._rows.append(("INSERT OR REPLACE INTO parts VALUES (?, ?)", (digest, text)))

    def add_file(self, name: str, proof: str, sha256: str) -> None:
        """Add the hash of a file."""
        if not self._is_new(name):
            return
        row = (name, proof, sha256, _digest(name, proof, sha256))
        self._add("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", row)

    def _is_new(self, name: bytes | str) -> bool:
        """Whether this is the first entry of that name, or would be, were there to be an index."""
        is_new = not self._failed and name not in self._known
        self._known.add(name)
        return is_new

    def _add(self, statement: str, row: tuple[Any, ...]) -> None:
        self._count += 1
        self._rows.append((statement, row))
        if len(self._rows) >= BATCH:
            self._write()

    def _write(self) -> None:
        """Move the gathered entries to the copy; where it cannot be written there will be no new index."""
        for _ in range(2):
            try:
                self._copy = self._copy or _copied(self._file, afresh=self._afresh)
                for statement, row in self._rows:
                    self._copy[1].execute(statement, row)
                break
            except sqlite3.Error:  # a copy of something damaged, or a full disk
                self.start_afresh()
            except (OSError, UnicodeEncodeError):
                self._failed = True
                break
        else:
            self._failed = True
        self._rows.clear()

    def start_afresh(self) -> None:
        """Build on nothing that is there, because it is damaged."""
        self._afresh = True
        self._discard()

    def _discard(self) -> None:
        if self._copy is not None:
            file, database = self._copy
            self._copy = None
            with contextlib.suppress(OSError, sqlite3.Error):
                database.close()
                file.unlink(missing_ok=True)

    def close(self, *, keep: bool) -> None:
        """Put the copy in the index's place if ``keep`` and if it is worth it."""
        if keep and not self._failed and (self._copy or self._count >= LEAST_NEW):
            self._write()
        if self._copy is not None and keep and not self._failed:
            file, database = self._copy
            with contextlib.suppress(OSError, sqlite3.Error):
                database.commit()
                database.close()
                _sync(file)
                file.replace(self._file)
        self._discard()


def _opened(file: Path) -> sqlite3.Connection | None:
    """The index, to be read; None where it may not be trusted or cannot be read."""
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return None
        if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
            return None
        # No locks: the file is never changed, only replaced.
        found = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    except (OSError, ValueError, sqlite3.Error):
        return None
    with contextlib.suppress(sqlite3.Error):
        if found.execute("PRAGMA user_version").fetchone() == (_version(),):
            return found
    found.close()
    return None


def _copied(file: Path, *, afresh: bool) -> tuple[Path, sqlite3.Connection]:
    """A temporary file beside ``file`` with its content, or with an empty index, and its database."""
    for old in file.parent.glob(f"{file.name}-*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > LEFTOVER_S:
                old.unlink()
    is_usable = not afresh and (there := _opened(file)) is not None and there.close() is None
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f"{file.name}-")
    os.close(handle)
    if is_usable:
        shutil.copyfile(file, name)
    database = sqlite3.connect(name)
    database.execute("PRAGMA journal_mode = OFF")  # a copy that is not finished is thrown away
    database.execute("PRAGMA synchronous = OFF")
    if not is_usable:
        database.executescript(f"{_TABLES}PRAGMA user_version = {_version()};")
    return Path(name), database


def _sync(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _proof(file: str) -> str | None:
    """What shows that a file was not changed; None where there is none."""
    try:
        found = os.stat(file)  # noqa: PTH116  # a Path each is slow
    except (OSError, ValueError):
        return None
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _is_settled(file: str, proof: str | None) -> bool:
    """Whether a file is still the one of ``proof``, and was not changed a moment ago."""
    if proof is None or proof != _proof(file):
        return False
    return time.time() - max(map(int, proof.split()[1:3])) / 1e9 >= SETTLED_S


@functools.cache
def _version() -> int:
    """Changes with the code that checks records, and with the form of the index."""
    code = b"".join(code_bytes(Path(file).read_bytes()) for file in (__file__, store.__file__, record.__file__))
    return int.from_bytes(hashlib.sha256(code + bytes([RECORD_SCHEMA])).digest()[:4]) >> 1


def _digest(*parts: object) -> bytes:
    """16 bytes of a hash of some texts; of anything else, which only a damaged index has, as of its text."""
    data = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    framed = b"".join([len(part).to_bytes(8, "little") + part for part in data])
    return hashlib.blake2b(framed, digest_size=16).digest()


_text = json.JSONEncoder(separators=(",", ":")).encode


def _shared_places(record: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """(mapping, key) of each shared part of a record."""
    holders = [(record if of is None else record.get(of), name) for of, name in SHARED]
    return [(holder, name) for holder, name in holders if isinstance(holder, dict) and name in holder]
