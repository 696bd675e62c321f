"""Files written as a whole or not at all: a temporary file in the same folder, fsync, rename, fsync of the folder."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from smope_bench.benchmarks.durable import make_folder, sync_folder


def write_json_atomically(file: Path, value: object, *, sync_name: bool = True) -> None:
    """Write a value as JSON by ``write_atomically``. Raises OSError; ValueError for NaN and infinity."""
    write_atomically(file, json_bytes(value), sync_name=sync_name)


def write_atomically(file: Path, data: bytes, *, sync_name: bool = True) -> None:
    """Write durably: after a crash or a power loss the file has its old content or all of the new. Raises OSError.

    ``sync_name`` False: for a file that counts only together with one that is written to the same folder afterwards, such as
    a record, which names its hash. Its name then becomes durable with the other's.
    """
    if not file.parent.is_dir():
        make_folder(file.parent)
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
    if sync_name:
        sync_folder(file.parent)


def json_bytes(value: object) -> bytes:
    """A value as the JSON text of records: UTF-8, one space of indent, a final line break."""
    return (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()
