"""Download of one file, resumed after interruptions. Digests are checked by the caller."""

from __future__ import annotations

import errno
import functools
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from smope_bench.benchmarks.base import ProgressCallback
from smope_bench.benchmarks.disk import refusal, shown_bytes
from smope_bench.benchmarks.errors import BenchmarkError

SCHEMES = ("https", "http", "file")
CHUNK = 1 << 18
TIMEOUT_S = 30.0  # to connect, and of silence between two reads
TRIES = 3
PAUSE_S = 1.0
WORTH = 16 << 20  # a try with this many new bytes does not count as failed
INTERVAL_S = 1.0
WORTH_TRYING_AGAIN = (408, 425, 429, 500, 502, 503, 504)
RANGE_NOT_SATISFIABLE = 416
HEADERS = {"User-Agent": "smope-bench", "Accept-Encoding": "identity"}


class RefusedError(Exception):
    """An address has no such file; the next one is tried."""


class CutError(Exception):
    """A try ended early; it can be resumed."""


@dataclass(frozen=True)
class Noted:
    """Facts of a file when its partial download began."""

    url: str
    validator: str | None
    length: int | None
    boot: str | None = None
    """Hash of the boot of the machine. A power loss may leave zeros in a file that grew: without a digest, the rest of a download
    is fetched only within the same boot."""


@dataclass(frozen=True)
class Part:
    """A partial file and a note of its origin."""

    path: Path

    @property
    def note(self) -> Path:
        """Path of the note."""
        return self.path.with_name(self.path.name + ".json")

    @property
    def size(self) -> int:
        """Number of bytes so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def noted(self) -> Noted | None:
        """The note, or None if it cannot be read."""
        try:
            found = json.loads(self.note.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if (
            not isinstance(found, dict)
            or not {"url", "validator", "length"} <= found.keys() <= Noted.__annotations__.keys()
        ):
            return None
        return Noted(**found)

    def begin(self, noted: Noted) -> None:
        """Start again: the old bytes are removed before the new note is written."""
        self.path.write_bytes(b"")
        self.note.write_text(json.dumps(asdict(noted)), "utf-8")

    def discard(self) -> None:
        """Remove both files."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


@functools.cache
def this_boot() -> str | None:
    """Hash of the present boot of the machine; None where the system does not tell boots apart."""
    try:
        return hashlib.sha256(Path("/proc/sys/kernel/random/boot_id").read_bytes()).hexdigest()[:16]
    except OSError:
        return None


class Pace:
    """Progress messages, about one a second."""

    def __init__(self, name: str, progress: ProgressCallback, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self._progress, self._clock = name, progress, clock
        self._began = self._said = clock()
        self._from = 0

    def say(self, text: str) -> None:
        """Send a message now."""
        self._progress(f"{self.name}: {text}")

    def begin(self, done: int) -> None:
        """Begin a try with ``done`` bytes so far."""
        self._began, self._from = self._clock(), done

    def moved(self, done: int, total: int | None, doing: str = "") -> None:
        """Send bytes, percent and rate, at most once a second."""
        now = self._clock()
        if now - self._said < INTERVAL_S:
            return
        self._said = now
        rate = shown_bytes((done - self._from) / max(now - self._began, 1e-9))
        share = f" of {shown_bytes(total)} ({100 * done / total:.0f} %)" if total else ""
        self.say(f"{doing}{shown_bytes(done)}{share}, {rate}/s")


def transfer(url: str, part: Part, pace: Pace, *, checked_later: bool) -> None:
    """Complete ``part``, in several tries if needed.

    ``checked_later``: a digest is known; only then is a file resumed whose version the server does not give. Raises
    RefusedError, and BenchmarkError for errors of the disk; the bytes so far are kept for the next call.
    """
    failed = 0
    while True:
        before = part.size
        try:
            return _attempt(url, part, pace, checked_later=checked_later)
        except CutError as error:
            failed = 0 if part.size - before >= WORTH else failed + 1
            if failed >= TRIES:
                raise RefusedError(str(error)) from error
            pace.say(f"{error}; trying again")
            time.sleep(PAUSE_S * failed)


def _attempt(url: str, part: Part, pace: Pace, *, checked_later: bool) -> None:
    noted = _continued(url, part, checked_later)
    start = part.size if noted is not None else 0
    if noted is not None and start == noted.length:
        return
    with _opened(url, part, _range(noted, start)) as response:
        now = _answered(url, response)
        if getattr(response, "status", None) != http.client.PARTIAL_CONTENT:
            start = 0  # the server sends the whole file
        elif noted is None or not _unchanged(noted, now) or _first_byte(response) != start:
            part.discard()
            raise CutError("the file at the address has changed")
        else:
            now = noted
        try:
            _require_space(part, now.length, start)
            _receive(response, part, now, start, pace)
        except OSError as error:
            raise BenchmarkError(_disk_in_words(error, part, pace.name)) from error
    if now.length is not None and part.size != now.length:
        raise CutError(f"the connection ended after {shown_bytes(part.size)} of {shown_bytes(now.length)}")


def _receive(response: Any, part: Part, now: Noted, start: int, pace: Pace) -> None:
    """Append the received bytes. Raises CutError for the connection, OSError for the disk."""
    if start == 0:
        part.begin(now)
    size = f", {shown_bytes(now.length)}" if now.length else ""
    pace.say(f"going on from {shown_bytes(start)}{size}" if start else f"downloading from {now.url}{size}")
    pace.begin(start)
    done = start
    with part.path.open("ab") as file:
        while chunk := _read(response):
            _write(file, chunk)
            done += len(chunk)
            pace.moved(done, now.length)
        file.flush()
        os.fsync(file.fileno())


def _read(response: Any) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise CutError(f"the connection broke ({_reason(error)})") from error


def _write(file: IO[bytes], chunk: bytes) -> None:
    file.write(chunk)


def _continued(url: str, part: Part, checked_later: bool) -> Noted | None:
    """The note of a part that can be resumed from this address, or None."""
    noted = part.noted()
    if noted is None or noted.url != url or not part.size:
        return None
    if noted.validator is None and not (checked_later and noted.length is not None):
        return None
    if not checked_later and noted.boot != this_boot():
        return None
    return noted if noted.length is None or part.size <= noted.length else None


def _range(noted: Noted | None, start: int) -> dict[str, str]:
    if noted is None:
        return {}
    asked = {"Range": f"bytes={start}-"}
    # A weak validator may not stand in If-Range; the answer is compared in either case.
    if noted.validator is not None and not noted.validator.startswith("W/"):
        asked["If-Range"] = noted.validator
    return asked


def _answered(url: str, response: Any) -> Noted:
    headers: Mapping[str, str] = response.headers
    total = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
    return Noted(
        url, headers.get("ETag") or headers.get("Last-Modified"), int(total) if total.isdigit() else None, this_boot()
    )


def _unchanged(noted: Noted, now: Noted) -> bool:
    """Whether an answer is of the noted file; an answer to If-Range need not repeat the validator."""
    return now.validator in (None, noted.validator) and now.length in (None, noted.length)


def _first_byte(response: Any) -> int:
    first = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else -1


def _opened(url: str, part: Part, headers: Mapping[str, str]) -> Any:
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise RefusedError(f"{scheme or 'no scheme'!r} is not one of {', '.join(SCHEMES)}")
    try:
        return _opener().open(urllib.request.Request(url, headers={**HEADERS, **headers}), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == RANGE_NOT_SATISFIABLE:
            part.discard()
            raise CutError("the file at the address has changed") from error
        said = f"HTTP {error.code} {_reason(error)}"
        raise (CutError if error.code in WORTH_TRYING_AGAIN else RefusedError)(said) from error
    except (OSError, http.client.HTTPException) as error:
        raise (RefusedError if scheme == "file" else CutError)(_reason(error)) from error
    except ValueError as error:
        raise RefusedError(_reason(error)) from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects within a scheme or from http to https only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        old, new = req.type, urllib.parse.urlsplit(newurl).scheme
        if new != "https" and (old, new) != ("http", "http"):
            raise urllib.error.HTTPError(newurl, code, f"leads to {newurl}, which is not {old}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        _Redirects,
        urllib.request.HTTPErrorProcessor,
        urllib.request.FileHandler,
    ):
        opener.add_handler(handler())
    return opener


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    told = getattr(reason, "strerror", None) or reason or getattr(error, "strerror", None) or error
    return " ".join(str(told).split()) or type(error).__name__


def _require_space(part: Part, length: int | None, start: int) -> None:
    """Raise BenchmarkError if the disk is too small, before filling it."""
    freed = part.size - start  # a new start frees the old part
    if length is not None and length - start - freed > shutil.disk_usage(part.path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _disk_in_words(error: OSError, part: Part, name: str) -> str:
    folder = part.path.parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space is left under {folder} to download {name} ({refusal(error, folder)}): free some and give the same"
            f" command again, which goes on from {shown_bytes(part.size)}, or choose another data folder"
        )
    return f"{name} cannot be kept under {folder} ({refusal(error, folder)}); choose another data folder"
