"""A disk that refuses: the words say what has run out, and what is unfinished is everybody's whom the user lets read."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smope_bench.benchmarks.disk import refusal, remedy
from smope_bench.benchmarks.durable import unfinished


def full(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.fixture
def group_may_write() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_what_is_left_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 6, 4_100))  # pyright: ignore[reportAttributeAccessIssue]
    assert refusal(full(errno.ENOSPC), tmp_path / "not" / "there") == "No space left on device, 4.1 kB free"
    assert refusal(full(errno.EROFS), tmp_path) == "Read-only file system"
    assert refusal(full(errno.EDQUOT), tmp_path) == os.strerror(errno.EDQUOT)
    assert refusal(OSError("no number"), tmp_path) == "OSError"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_room_is_the_remedy_where_it_has_run_out(number: int) -> None:
    assert remedy(full(number)) == "make room there"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EIO])
def test_room_is_no_remedy_elsewhere(number: int) -> None:
    assert remedy(full(number)) == "make it writable"


@pytest.mark.skipif(not hasattr(os, "statvfs"), reason="inodes are POSIX's")
def test_inodes_that_are_all_taken_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs_result((4096, 4096, 10, 5, 5, 16, 0, 0, 0, 255))  # 16 inodes, none free
    monkeypatch.setattr(os, "statvfs", lambda folder: found)
    assert refusal(full(errno.ENOSPC), tmp_path).endswith("cannot hold more files, all inodes are taken")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX's")
def test_the_shell_s_limit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (512_000, -1))
    assert refusal(full(errno.EFBIG), tmp_path) == "File too large, ulimit -f allows 512.0 kB"
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, -1))
    assert refusal(full(errno.EFBIG), tmp_path) == "File too large"


@pytest.mark.usefixtures("group_may_write")
def test_what_is_unfinished_obeys_the_user_s_mask(tmp_path: Path) -> None:
    folder, file = unfinished(tmp_path, ".a-"), unfinished(tmp_path, ".a-")
    folder.mkdir()
    file.open("xb").close()
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o775, 0o664)
