"""Files that one of several callers may write, whatever the caches and the lost answers of a network file system say."""

import errno
import os
from pathlib import Path

import pytest

from smope_bench.harness.records.atomic_write import write_atomically


def test_an_exclusive_file_is_written_by_one_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_atomically(file, b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        write_atomically(file, b"second", exclusive=True)
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"] and file.read_bytes() == b"first"
    write_atomically(file, b"third")
    assert file.read_bytes() == b"third"


def test_a_success_whose_answer_was_lost_is_a_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    write_atomically(tmp_path / "result.json", b"mine", exclusive=True)
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]


def test_a_record_that_the_client_does_not_show_is_another_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise FileExistsError(errno.EEXIST, "File exists", str(target))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "result.json", b"mine", exclusive=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links_gets_a_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    def unknown(source: Path, target: Path) -> None:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(os, "link", unknown)
    write_atomically(tmp_path / "result.json", b"mine", exclusive=True)
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]


def test_a_file_is_for_all_whom_the_user_s_mask_lets_read(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        write_atomically(tmp_path / "result.json", b"ours")
        write_atomically(tmp_path / "other.json", b"ours", exclusive=True)
        os.umask(0o077)
        write_atomically(tmp_path / "mine.json", b"mine")
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == {"result.json": 0o664, "other.json": 0o664, "mine.json": 0o600}
