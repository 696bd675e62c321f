"""Files written as a whole or not at all: a temporary file in the same folder, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path

from smope_bench.benchmarks.durable import make_folder, sync_folder, unfinished

_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK})
"""What file systems without hard links answer."""


def write_json_atomically(file: Path, value: object, *, sync_name: bool = True, exclusive: bool = False) -> None:
    """Write a value as JSON by ``write_atomically``. Raises OSError; ValueError for NaN and infinity."""
    write_atomically(file, json_bytes(value), sync_name=sync_name, exclusive=exclusive)


def write_atomically(file: Path, data: bytes, *, sync_name: bool = True, exclusive: bool = False) -> None:
    """Write durably: after a crash or a power loss the file has its old content or all of the new. Raises OSError.

    ``exclusive``: only if there is no such file; FileExistsError where there is. The file system decides that, not a cache of
    this machine: one of several callers succeeds. A file system without hard links cannot, and the file is replaced there.

    ``sync_name`` False: for a file that counts only together with one that is written to the same folder afterwards, such as
    a record, which names its hash. Its name then becomes durable with the other's.
    """
    if not file.parent.is_dir():
        make_folder(file.parent)
    temporary = unfinished(file.parent, f".{file.name}-")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if exclusive:
            _link(temporary, file)
        else:
            temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync_name:
        sync_folder(file.parent)


def _link(temporary: Path, file: Path) -> None:
    """Rename ``temporary``, unless there is a ``file``: FileExistsError."""
    try:
        os.link(temporary, file)
    except FileExistsError:
        # A client whose first request was done, and its answer lost, is refused the second.
        if not _is_same(temporary, file):
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        temporary.replace(file)
        return
    # The file is there: what is left of the other name is removed with the checkpoints.
    with contextlib.suppress(OSError):
        temporary.unlink()


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def json_bytes(value: object) -> bytes:
    """A value as the JSON text of records: UTF-8, one space of indent, a final line break."""
    return (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()
