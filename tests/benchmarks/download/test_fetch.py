"""Downloads from a server of our own that behaves as badly as the world's."""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import multiprocessing
import os
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from smope_bench.benchmarks.disk import shown_bytes
from smope_bench.benchmarks.download import transfer
from smope_bench.benchmarks.download.fetch import Remote, downloads_folder, fetch, pin_file, pin_of
from smope_bench.benchmarks.download.locks import locked
from smope_bench.benchmarks.download.transfer import Pace, Part
from smope_bench.benchmarks.errors import BenchmarkError

CONTENT = bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
# What the fixture `server` gives: tests are in no package, so that its class cannot be imported.
Server = Any


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return downloads_folder(tmp_path, "toy")


def remote(*urls: str, digest: str | None = f"sha256:{SHA256}", name: str = "file.bin") -> Remote:
    return Remote(name, urls, digest, len(CONTENT))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def refusal(call: Any, *words: str) -> str:
    """The one sentence that a call gives."""
    with pytest.raises(BenchmarkError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text
    return text


@pytest.mark.parametrize("digest", [f"sha256:{SHA256}", f"md5:{MD5}"])
def test_a_download_is_verified_and_used_again(server: Server, folder: Path, digest: str) -> None:
    wanted = remote(server.url(), digest=digest)
    file = fetch(wanted, folder)
    assert file == folder / "file.bin" and file.read_bytes() == CONTENT
    assert names(folder) == ["file.bin", "file.bin.pin"] and pin_of(wanted, folder) == SHA256
    assert fetch(wanted, folder) == file and len(server.asked) == 1


def test_redirects_are_followed_to_http_only(server: Server, folder: Path) -> None:
    assert fetch(remote(server.url("to-http")), folder).read_bytes() == CONTENT
    refusal(lambda: fetch(remote(server.url("to-file"), name="b"), folder), "file:///etc/hostname")
    refusal(lambda: fetch(remote("ftp://127.0.0.1/x", name="c"), folder), "'ftp' is not one of https, http, file")
    refusal(lambda: fetch(remote("nonsense", name="d"), folder), "no scheme")
    assert names(folder) == ["file.bin", "file.bin.pin"]


@pytest.mark.parametrize(
    ("old", "new", "allowed"), [("https", "http", False), ("http", "https", True), ("http", "ftp", False)]
)
def test_a_redirect_never_leaves_https(old: str, new: str, allowed: bool) -> None:
    asked, handler = urllib.request.Request(f"{old}://a/x"), transfer._Redirects()
    headers = http.client.HTTPMessage()
    if allowed:
        assert (
            handler.redirect_request(asked, io.BytesIO(), 302, "Found", headers, f"{new}://b/x").full_url
            == "https://b/x"
        )
    else:
        with pytest.raises(urllib.error.HTTPError, match=f"leads to {new}://b/x, which is not {old}"):
            handler.redirect_request(asked, io.BytesIO(), 302, "Found", headers, f"{new}://b/x")


def test_a_local_mirror(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "mirror.bin").write_bytes(CONTENT)
    missing, there = ((tmp_path / name).as_uri() for name in ("absent.bin", "mirror.bin"))
    assert fetch(remote(missing, there), folder).read_bytes() == CONTENT


def test_a_cut_connection_goes_on_where_it_was(server: Server, folder: Path) -> None:
    server.cuts, told = 1, []
    assert fetch(remote(server.url()), folder, progress=told.append).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, f"bytes={HALF}-"] and server.sent == len(CONTENT)
    assert any("the connection ended after 51.2 kB of 102.4 kB; trying again" in text for text in told)


def test_a_later_command_goes_on_where_an_earlier_one_stopped(server: Server, folder: Path) -> None:
    def stop(text: str) -> None:
        if "trying again" in text:
            raise KeyboardInterrupt

    server.cuts = 1
    with pytest.raises(KeyboardInterrupt):
        fetch(remote(server.url()), folder, progress=stop)
    assert "file.bin" not in names(folder) and (folder / "file.bin.part").stat().st_size == HALF
    assert fetch(remote(server.url()), folder).read_bytes() == CONTENT
    assert server.asked[-1][1] == f"bytes={HALF}-" and server.sent == len(CONTENT)
    assert names(folder) == ["file.bin", "file.bin.pin"]


def test_an_unfinished_download_goes_on_from_its_own_mirror(server: Server, folder: Path) -> None:
    server.cuts = 3
    refusal(lambda: fetch(remote(server.url("absent"), server.url()), folder), "HTTP 404", "the connection ended")
    assert fetch(remote(server.url("absent"), server.url()), folder).read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/absent", *["/file.bin"] * 4] and server.asked[-1][1] is not None


def test_a_server_without_ranges_begins_anew(server: Server, folder: Path) -> None:
    server.cuts, server.knows_ranges = 1, False
    assert fetch(remote(server.url()), folder).read_bytes() == CONTENT
    assert server.asked[1][1] == f"bytes={HALF}-" and server.sent == HALF + len(CONTENT)


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_a_file_that_changed_meanwhile_begins_anew(server: Server, folder: Path, honours_if_range: bool) -> None:
    server.cuts, server.honours_if_range = 1, honours_if_range

    def change(text: str) -> None:
        if "trying again" in text:
            server.content, server.etag = CONTENT[::-1], '"v2"'

    assert fetch(remote(server.url(), digest=None), folder, progress=change).read_bytes() == CONTENT[::-1]


def test_a_file_without_a_version_goes_on_only_where_its_digest_is_known(server: Server, folder: Path) -> None:
    server.etag, server.cuts = "", 1
    fetch(remote(server.url(), digest=None, name="unknown"), folder)
    server.cuts = 1
    fetch(remote(server.url()), folder)
    assert [asked for _, asked in server.asked] == [None, None, None, f"bytes={HALF}-"]


@pytest.mark.parametrize("digest", [None, f"sha256:{SHA256}"])
def test_zeros_that_a_power_loss_left_in_a_part_are_not_kept(
    server: Server, folder: Path, digest: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cuts = 3
    refusal(lambda: fetch(remote(server.url(), digest=digest), folder), "the connection ended")
    part = folder / "file.bin.part"
    part.write_bytes(bytes(part.stat().st_size))
    monkeypatch.setattr(transfer, "this_boot", lambda: "the next one")
    assert fetch(remote(server.url(), digest=digest), folder).read_bytes() == CONTENT


def test_an_altered_part_costs_a_second_download_and_no_more(server: Server, folder: Path) -> None:
    server.cuts = 3
    refusal(lambda: fetch(remote(server.url()), folder), "the connection ended")
    part = folder / "file.bin.part"
    part.write_bytes(b"x" * part.stat().st_size)
    assert fetch(remote(server.url()), folder).read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_not_continued(server: Server, folder: Path) -> None:
    server.cuts = 3
    refusal(lambda: fetch(remote(server.url()), folder), "the connection ended")
    (folder / "file.bin.part").write_bytes(CONTENT * 2)
    assert fetch(remote(server.url()), folder).read_bytes() == CONTENT
    assert server.asked[-1][1] is None


def test_a_short_file_without_a_length_is_found_by_its_digest(server: Server, folder: Path) -> None:
    server.cuts, server.sends_length = 1, False
    refusal(lambda: fetch(remote(server.url()), folder), f"expected sha256:{SHA256}")
    assert names(folder) == []


def test_mirrors_are_tried_in_turn(server: Server, folder: Path) -> None:
    told: list[str] = []
    urls = [server.url(path) for path in ("absent", "wrong", "file.bin")]
    assert fetch(remote(*urls), folder, progress=told.append).read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/absent", "/wrong", "/file.bin"]
    assert any("has the wrong digest and was deleted" in text for text in told)


def test_the_last_word_says_everything(server: Server, folder: Path) -> None:
    urls = [server.url(path) for path in ("absent", "busy", "wrong")]
    found = hashlib.sha256(b"wrong" * 100).hexdigest()
    words = [
        "HTTP 404",
        "HTTP 503",
        *urls,
        f"has sha256:{found}, expected sha256:{SHA256}",
        f"put it at {folder.resolve() / 'file.bin'}, or give its place with `make it --from FILE`",
    ]
    refusal(lambda: fetch(remote(*urls), folder, preparation="make it"), *words)
    assert names(folder) == [] and [path for path, _ in server.asked].count("/busy") == transfer.TRIES


def test_nobody_listens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE_S", 0.0)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        refusal(lambda: fetch(remote(url), folder), f"{url}: Connection refused", "put it at")


@pytest.mark.parametrize("early", [True, False])
def test_a_full_disk_is_one_sentence(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_require_space" if early else "_write", full)
        refusal(lambda: fetch(remote(server.url()), folder), "no space is left", str(folder), "same command again")
    assert "file.bin" not in names(folder)
    assert fetch(remote(server.url()), folder).read_bytes() == CONTENT


def test_space_is_asked_for_before_it_is_used(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Usage", (), {"free": len(CONTENT) - 1})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: free)
    refusal(lambda: fetch(remote(server.url()), folder), "no space is left")
    assert names(folder) == []


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    refusal(lambda: fetch(remote(server.url()), tmp_path / "taken" / "x"), "choose another data folder")


def test_a_file_in_place_is_not_believed(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "file.bin").write_bytes(b"by hand")
    told: list[str] = []
    assert fetch(remote(server.url()), folder, progress=told.append).read_bytes() == CONTENT
    assert (folder / "file.bin.bad").read_bytes() == b"by hand" and any("kept as file.bin.bad" in text for text in told)


def test_what_nobody_vouches_for_is_pinned(server: Server, folder: Path) -> None:
    wanted, told = remote(server.url(), digest=None), []
    fetch(wanted, folder, progress=told.append)
    assert any(f"sha256 {SHA256} is pinned" in text for text in told) and pin_of(wanted, folder) == SHA256
    server.content = CONTENT[::-1]
    (folder / "file.bin").write_bytes(b"altered")
    refusal(lambda: fetch(wanted, folder), f"expected sha256:{SHA256}", f"delete {pin_file(wanted, folder)}")
    assert names(folder) == ["file.bin.bad", "file.bin.pin"]
    pin_file(wanted, folder).write_text("?")
    refusal(lambda: fetch(wanted, folder), "holds no sha256; delete it")
    pin_file(wanted, folder).unlink()
    assert fetch(wanted, folder).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("as_folder", [True, False])
@pytest.mark.parametrize("digest", [f"md5:{MD5}", None])
def test_what_the_user_has_is_used_in_place(tmp_path: Path, folder: Path, as_folder: bool, digest: str | None) -> None:
    mine = tmp_path / "mine" / ("file.bin" if as_folder else "copy.bin")
    mine.parent.mkdir()
    mine.write_bytes(CONTENT)
    (tmp_path / "mine" / "other").write_bytes(CONTENT[:-1])
    wanted = remote("ftp://nowhere", digest=digest)
    given = [tmp_path / "mine" / "other", mine.parent if as_folder else mine]
    assert fetch(wanted, folder, given) == mine
    assert mine.read_bytes() == CONTENT and names(folder) == ["file.bin.pin"] and pin_of(wanted, folder) == SHA256


def test_what_the_user_has_is_not_believed(server: Server, tmp_path: Path, folder: Path) -> None:
    mine, told = tmp_path / "file.bin", []
    mine.write_bytes(CONTENT[:-1] + b"?")
    refusal(lambda: fetch(remote(server.url()), folder, [mine]), str(mine), f"expected sha256:{SHA256}", "intact copy")
    assert mine.exists() and not server.asked
    renamed = mine.rename(tmp_path / "other.bin")
    assert fetch(remote(server.url()), folder, [renamed], told.append).parent == folder
    assert any(f"{renamed} is not the published file.bin" in text for text in told)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\\b", ".hidden", "a\0"])
def test_a_remote_has_a_plain_name(name: str) -> None:
    refusal(lambda: remote(name=name), "is not a plain file name")
    refusal(lambda: remote(digest="sha1:abc"), "is none of md5:<hex>, sha256:<hex>, sha512:<hex> and gitblob:<hex>")


def test_two_at_once_download_once(server: Server, folder: Path) -> None:
    found: list[Path] = []
    told: list[str] = []
    folder.mkdir(parents=True)
    with locked(folder / ".file.bin.lock", lambda: None) as holds:
        assert holds
        threads = [
            threading.Thread(target=lambda: found.append(fetch(remote(server.url()), folder, progress=told.append)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        while sum("waiting for another process" in text for text in told) < 3:
            assert all(thread.is_alive() for thread in threads)
            threading.Event().wait(0.01)
        assert not server.asked
    for thread in threads:
        thread.join(timeout=5)
    assert len(found) == 3 and len(server.asked) == 1 and names(folder) == ["file.bin", "file.bin.pin"]


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    held, release = multiprocessing.get_context("fork").Event(), multiprocessing.get_context("fork").Event()

    def hold() -> None:
        with locked(lock, lambda: None):
            held.set()
            release.wait(5)
            os._exit(1)  # as a killed process: nothing is cleaned up

    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    assert held.wait(5)
    with locked(lock, release.set) as holds:
        assert holds and release.is_set()
    process.join()
    assert not lock.exists()


def test_where_there_are_no_locks_each_has_a_part_of_its_own(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smope_bench.benchmarks.download import locks

    def unsupported(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "_lock", unsupported)
    server.cuts = 3
    refusal(lambda: fetch(remote(server.url()), folder), "the connection ended")
    assert f"file.bin.{os.getpid()}.part" in names(folder) and "file.bin.part" not in names(folder)


def test_progress_is_told_about_once_a_second() -> None:
    told: list[str] = []
    times = iter([0.0, 0.0, 0.4, 0.9, 1.1, 1.5, 2.2])
    pace = Pace("file.bin", told.append, lambda: next(times))
    pace.begin(1_000_000)
    for done in range(2, 7):
        pace.moved(done * 1_000_000, 10_000_000)
    assert told == ["file.bin: 4.0 MB of 10.0 MB (40 %), 2.7 MB/s", "file.bin: 6.0 MB of 10.0 MB (60 %), 2.3 MB/s"]
    assert [shown_bytes(count) for count in (10, 2.19e9)] == ["0.0 kB", "2.2 GB"]


def test_a_part_without_a_readable_note_is_not_continued(tmp_path: Path) -> None:
    part = Part(tmp_path / "x.part")
    part.note.write_text("[1, 2]")
    assert part.noted() is None
    part.note.write_text('{"url": 1}')
    assert part.noted() is None
