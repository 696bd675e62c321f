"""Published files: found, given by the user or downloaded, and used only after their digest is checked.

``fetch`` returns a verified file. Each file of the downloads folder has a ``<name>.pin`` with the sha256 it had when
it was first used. Where no digest is published, later files must have the pinned one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from smope_bench.benchmarks.base import ProgressCallback, silent
from smope_bench.benchmarks.disk import shown_bytes
from smope_bench.benchmarks.download.locks import locked
from smope_bench.benchmarks.download.transfer import Pace, Part, RefusedError, transfer
from smope_bench.benchmarks.durable import make_folder, sync_folder
from smope_bench.benchmarks.errors import BenchmarkError

CHUNK = 1 << 22
DIGEST = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}|gitblob:[0-9a-f]{40}")
GIT_BLOB = "gitblob"
"""The id that git gives a file's content: sha1 over ``blob <size>``, a zero byte and the content."""
SIZE_SLACK = 2.0  # published sizes are rounded; a file off by more than this factor is not read
FOLDER = "downloads"


@dataclass(frozen=True)
class Remote:
    """A published file."""

    name: str
    """File name in the downloads folder."""
    urls: tuple[str, ...]
    """The first is the owners', the others are mirrors."""
    digest: str | None
    """``md5:<hex>``, ``sha256:<hex>``, ``sha512:<hex>`` or ``gitblob:<hex>``; None if none is published.

    A file without one is pinned at first use, with a message.
    """
    size: int | None = None
    """Approximate number of bytes."""

    def __post_init__(self) -> None:
        if not self.name or self.name.startswith(".") or re.search(r"[/\\\0]", self.name):
            raise BenchmarkError(f"{self.name!r} is not a plain file name")
        if self.digest is not None and not DIGEST.fullmatch(self.digest):
            raise BenchmarkError(
                f"{self.name}: digest {self.digest!r} is none of md5:<hex>, sha256:<hex>, sha512:<hex> and"
                " gitblob:<hex>"
            )


@dataclass(frozen=True)
class Checked:
    """Result of checking a file; ``found`` is in the form of ``expected``, which is None if nothing is known."""

    sha256: str
    found: str
    expected: str | None

    @property
    def fits(self) -> bool:
        """Whether the file may be used."""
        return self.expected is None or self.found == self.expected


def downloads_folder(root: Path, name: str) -> Path:
    """The downloads folder of a benchmark or backbone below the data folder."""
    return root / name / FOLDER


def pin_file(remote: Remote, folder: Path) -> Path:
    """Path of a file's pin."""
    return folder / f"{remote.name}.pin"


def pin_of(remote: Remote, folder: Path) -> str | None:
    """The sha256 (hex) of a file at its first use; None before."""
    return read_pin(pin_file(remote, folder))


def read_pin(pin: Path) -> str | None:
    """The sha256 (hex) of a pin, or None where there is none. Raises BenchmarkError for a changed one."""
    try:
        text = pin.read_text("utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BenchmarkError(f"the pin {pin} cannot be read ({error.strerror or error})") from error
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise BenchmarkError(f"the pin {pin} holds no sha256; delete it to pin the file anew")
    return text


@contextlib.contextmanager
def unpinned_on_error(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Remove pins made inside if the content of the files is refused: a wrong file must not exclude the right one."""
    new = [pin for name in names if not (pin := folder / f"{name}.pin").exists()]
    try:
        yield
    except BaseException:
        for pin in new:
            with contextlib.suppress(OSError):
                pin.unlink()
        raise


def fetch(
    remote: Remote,
    folder: Path,
    given: Sequence[Path] = (),
    progress: ProgressCallback = silent,
    preparation: str = "",
) -> Path:
    """Return a verified file: one of ``given``, else ``folder/name``, else a download to there.

    ``given``: files (of any name, identified by digest) or folders with a file of that name; they are used in place and not
    changed. An interrupted download is resumed, now or at the next call. Raises
    BenchmarkError with what was tried, where to put the file by hand, and the command ``preparation`` that takes it.
    """
    supplied = _from_given(remote, folder, given, progress)
    if supplied is not None:
        return supplied
    target = folder / remote.name
    if target.is_file() and _accepted(target, remote, folder, progress):
        return target
    if target.is_dir():
        raise BenchmarkError(
            f"{target} is a folder, not the file {remote.name}: take it away, or put the file in its place"
        )
    tried = _said_of_given(remote, given, progress)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(remote, folder, progress) as part:
            tried += _set_aside_if_bad(remote, folder, progress)
            if not target.is_file():
                _download(remote, folder, part, progress, tried, preparation)
    except OSError as error:
        raise BenchmarkError(
            f"{remote.name} cannot be kept under {folder} ({error.strerror or error}); choose another data folder"
        ) from error
    return target


def check(path: Path, remote: Remote, folder: Path, progress: ProgressCallback = silent) -> Checked:
    """Read a file and compare it with its published digest, else with its pin. Raises BenchmarkError if unreadable."""
    pin = None if remote.digest else pin_of(remote, folder)
    expected = remote.digest or (f"sha256:{pin}" if pin else None)
    algorithm = expected.partition(":")[0] if expected else "sha256"
    digests = digests_of(path, {"sha256", algorithm}, progress)
    return Checked(digests["sha256"], f"{algorithm}:{digests[algorithm]}", expected)


def is_published(file: Path, remote: Remote, folder: Path, progress: ProgressCallback = silent) -> bool:
    """Whether a file of another name is the published one, by its digest. Raises BenchmarkError if it is unreadable."""
    return _may_be(file, remote, folder) and check(file, remote, folder, progress).fits


def fault_of_download(file: Path, remote: Remote, folder: Path, progress: ProgressCallback = silent) -> str:
    """Why a file in the downloads folder cannot be used, or '' if it can. Raises BenchmarkError if it is unreadable."""
    checked = check(file, remote, folder, progress)
    return "" if checked.fits else f"it has {checked.found}, expected {checked.expected}"


def digests_of(path: Path, algorithms: set[str], progress: ProgressCallback = silent) -> dict[str, str]:
    """Hex digests of a file, read once."""
    named = {name: "sha1" if name == GIT_BLOB else name for name in algorithms}
    hashes = {name: hashlib.new(algorithm, usedforsecurity=False) for name, algorithm in named.items()}
    pace = Pace(path.name, progress)
    try:
        with path.open("rb") as file:
            size, done = os.fstat(file.fileno()).st_size, 0
            if GIT_BLOB in hashes:
                hashes[GIT_BLOB].update(b"blob %d\0" % size)
            while chunk := file.read(CHUNK):
                for digest in hashes.values():
                    digest.update(chunk)
                done += len(chunk)
                pace.moved(done, size, "checking ")
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be read ({error.strerror or error})") from error
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def _from_given(remote: Remote, folder: Path, given: Sequence[Path], progress: ProgressCallback) -> Path | None:
    """The file among those of the user, or None."""
    files = [path / remote.name if path.is_dir() else path for path in given]
    files = [path for path in files if path.is_file()]
    for path in sorted(files, key=lambda path: path.name != remote.name):  # the right name first
        named = path.name == remote.name
        if not named and not _may_be(path, remote, folder):
            continue
        checked = check(path, remote, folder, progress)
        if checked.fits:
            _pin(remote, folder, checked, progress)
            return path
        differs = f"{path} is not the published {remote.name}: it has {checked.found}, expected {checked.expected}"
        if named:
            raise BenchmarkError(
                f"{differs}; give an intact copy, or leave it out to download it{_unpin(remote, folder)}"
            )
        progress(differs)
    return None


def _said_of_given(remote: Remote, given: Sequence[Path], progress: ProgressCallback) -> list[str]:
    """None of the user's files fits: a message before the download, repeated in the final error."""
    if not given:
        return []
    said = f"no published {remote.name} is in what --from gave ({', '.join(map(str, given))})"
    progress(said)
    return [said]


def _may_be(path: Path, remote: Remote, folder: Path) -> bool:
    """Whether to read a file of another name: its size fits and a digest is known."""
    if remote.digest is None and pin_of(remote, folder) is None:
        return _kind(path.name) == _kind(remote.name)
    size = path.stat().st_size
    return remote.size is None or remote.size / SIZE_SLACK <= size <= remote.size * SIZE_SLACK


def _kind(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return {".tgz": ".gz"}.get(suffix, suffix)


def _accepted(path: Path, remote: Remote, folder: Path, progress: ProgressCallback) -> bool:
    """Whether a file may be used; if so it is pinned."""
    checked = check(path, remote, folder, progress)
    if checked.fits:
        _pin(remote, folder, checked, progress)
    return checked.fits


def _pin(remote: Remote, folder: Path, checked: Checked, progress: ProgressCallback) -> None:
    """Note the sha256 of a file that is about to be used."""
    if remote.digest is None and checked.expected is not None:
        return
    pin = pin_file(remote, folder)
    with contextlib.suppress(BenchmarkError):  # a changed pin is replaced if a published digest fits
        if read_pin(pin) == checked.sha256:
            return
    try:
        make_folder(folder)
        temporary = pin.with_name(f"{pin.name}.{os.getpid()}")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(checked.sha256 + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(pin)
        sync_folder(folder)
    except OSError as error:
        raise BenchmarkError(
            f"the digest of {remote.name} cannot be noted in {pin} ({error.strerror or error}); choose another data folder"
        ) from error
    if remote.digest is None:
        progress(f"{remote.name}: its owners publish no digest; sha256 {checked.sha256} is pinned from now on in {pin}")


@contextlib.contextmanager
def _alone(remote: Remote, folder: Path, progress: ProgressCallback) -> Iterator[Part]:
    """The partial file of this process: the common one under a lock, or its own if the file system has no locks."""

    def waiting() -> None:
        progress(f"{remote.name}: waiting for another process that downloads it")

    with locked(folder / f".{remote.name}.lock", waiting) as holds:
        mine = "" if holds else f".{os.getpid()}"
        yield Part(folder / f"{remote.name}{mine}.part")


def _set_aside_if_bad(remote: Remote, folder: Path, progress: ProgressCallback) -> list[str]:
    """Rename a bad file of the right name, which the user may have put there.

    Returns the reason, if there was one.
    """
    target = folder / remote.name
    if target.is_file() and not _accepted(target, remote, folder, progress):
        aside = target.with_name(f"{remote.name}.bad")
        target.replace(aside)
        said = f"{target} had the wrong digest and is kept as {aside.name}, not used"
        progress(f"{said}; it is downloaded anew")
        return [said]
    return []


def _download(
    remote: Remote, folder: Path, part: Part, progress: ProgressCallback, tried: Sequence[str], preparation: str
) -> None:
    """Try every address in turn. ``tried``: earlier failures. Raises BenchmarkError."""
    noted, failures, refused = part.noted(), dict[str, str](), set[str]()
    pace = Pace(remote.name, progress)
    known = remote.digest is not None or pin_of(remote, folder) is not None
    # An unfinished download is resumed first; if the result is wrong, its address is tried again from the beginning.
    unfinished = [noted.url] if noted is not None and noted.url in remote.urls and part.size else []
    for url in (*unfinished, *remote.urls):
        if url in refused:
            continue
        try:
            transfer(url, part, pace, checked_later=known)
        except RefusedError as error:
            refused.add(url)
            failures[url] = str(error)
            progress(f"{remote.name}: {url}: {error}")
            continue
        checked = check(part.path, remote, folder, progress)
        if checked.fits:
            _publish(remote, folder, part, checked, progress)
            return
        part.discard()
        failures[url] = f"has {checked.found}, expected {checked.expected}{_unpin(remote, folder)}"
        progress(f"{remote.name}: what came from {url} has the wrong digest and was deleted")
    causes = [*tried, *(f"{url}: {why}" for url, why in failures.items())]
    raise BenchmarkError(_in_words(remote, folder, causes, preparation))


def _publish(remote: Remote, folder: Path, part: Part, checked: Checked, progress: ProgressCallback) -> None:
    """Give a verified download its name. The pin is written first: a file of that name always has one."""
    _pin(remote, folder, checked, progress)
    part.path.replace(folder / remote.name)
    part.discard()
    sync_folder(folder)


def _unpin(remote: Remote, folder: Path) -> str:
    """The remedy where only a pin excludes a file."""
    return "" if remote.digest else f" (if its owners have changed the file, delete {pin_file(remote, folder)})"


def _in_words(remote: Remote, folder: Path, failures: Sequence[str], preparation: str) -> str:
    facts = [f"about {shown_bytes(remote.size)}"] if remote.size else []
    known = ", ".join([*facts, *([remote.digest] if remote.digest else [])])
    elsewhere = f", or give its place with `{preparation} --from FILE`" if preparation else ""
    return (
        f"{remote.name} could not be downloaded ({'; '.join(failures) or 'it has no address'}): try again later, or get "
        f"the file{known and f' ({known})'} in another way and put it at {folder.resolve() / remote.name}{elsewhere}"
    )
