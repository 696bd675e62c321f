"""Reads the structure of a user's folder of pictures: parts, classes, files and their hashes."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smope_bench.benchmarks.base import ProgressCallback, Split, silent
from smope_bench.benchmarks.errors import BenchmarkError


@dataclass(frozen=True)
class ImageFile:
    """One file. ``split`` is None where the folder has no split; ``sha256`` is that of its bytes."""

    path: Path
    label: int
    split: Split | None
    sha256: str

    def read(self) -> bytes:
        """The bytes that were hashed. Raises BenchmarkError where they have changed."""
        data = _read(self.path)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise BenchmarkError(f"{shown(self.path)} has changed while it was being read")
        return data


@dataclass(frozen=True)
class Folder:
    """All images of a folder, class after class, file names rising. ``notes``: how the folder was read, a sentence each."""

    class_names: tuple[str, ...]
    files: tuple[ImageFile, ...]
    content: str
    notes: tuple[str, ...] = ()


PartName = Literal["train", "test", "val"]
PART_NAMES: dict[str, PartName] = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validation": "val",
}  # fmt: skip
"""What folders of parts are called, in any case."""
SYSTEM_NAMES = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found", "$recycle.bin", "icon\r"}
    | {"system volume information"}
)
"""What operating systems and archivers put into folders, in lower case."""
TEXT_ENDINGS = frozenset(
    {".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".rst", ".yaml", ".yml", ".xml", ".html", ".pdf", ".names"}
)
TEXT_STEMS = ("readme", "license", "licence", "copying", "citation")
NAMED_AT_MOST = 6


def shown(path: Path) -> str:
    """A file's name made printable."""
    return repr(str(path))


def require_folder(root: Path, expected: str) -> None:
    """Raise BenchmarkError if ``root`` is no folder; ``expected``: what it must hold."""
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise BenchmarkError(f"{shown(root)} {state}; path must name a folder with {expected}")


def scan_folder(root: Path, progress: ProgressCallback = silent) -> Folder:
    """Read and hash every picture below ``root``.

    Layouts: ``<class>/<image>``, ``train/<class>/<image>`` beside ``test/<class>/<image>`` or ``val/<class>/<image>``, or
    ``train/`` alone. Where there is a test part, ``val`` is left out. A single folder of folders inside ``root`` is read in
    its place. Hidden files, those of operating systems, and texts beside the class folders are ignored; anything else out
    of place is an error that names it. Classes rise by name, or by number where every name is one; names that differ only
    by their Unicode form are one class. ``content`` is a sha256 (hex) over the relative names and bytes of all pictures:
    moving the folder does not change it.
    """
    require_folder(root, "one sub-folder per class")
    ignored: list[Path] = []
    top, tops = _unwrapped(root, ignored)
    parts, notes = _parts(tops, ignored)
    classes, ordered = _classes(root, parts)
    progress(f"reading {len(classes)} classes of {root}")
    digest, files = hashlib.sha256(), []
    for split, _, folders in parts:
        for label, name in enumerate(classes):
            for path in (path for folder in folders[name] for path in _files_in(folder, ignored)):
                sha256 = hashlib.sha256(_read(path)).hexdigest()
                files.append(ImageFile(path, label, split, sha256))
                digest.update(os.fsencode(path.relative_to(top).as_posix()) + b"\0" + sha256.encode() + b"\n")
    wrapped = [] if top == root else [f"{shown(root)} holds the folder {top.name!r} alone, which is read in its place"]
    return Folder(classes, tuple(files), digest.hexdigest(), (*wrapped, *notes, *ordered, *ignored_in(root, ignored)))


def _unwrapped(root: Path, ignored: list[Path]) -> tuple[Path, list[Path]]:
    """The folder that holds classes or parts, and what it holds: ``root``, or a single folder of folders inside it."""
    while True:
        tops = folders_in(root, ignored)
        if not tops:
            raise BenchmarkError(f"{shown(root)} has no classes; it must hold one sub-folder of images per class")
        if len(tops) > 1 or tops[0].name.casefold() in PART_NAMES or not _holds_folders(tops[0]):
            return root, tops
        root = tops[0]


PartFolders = tuple[Split | None, str, dict[str, list[Path]]]
"""The split of a part, the name of its folder, and the folders of each class."""


def _parts(tops: list[Path], ignored: list[Path]) -> tuple[list[PartFolders], list[str]]:
    """The folder's own parts, or one with no split; and how they are used, where that is not obvious."""
    named: dict[PartName, Path] = {}
    others = []
    for top in tops:
        part = PART_NAMES.get(top.name.casefold())
        if part is None or not _holds_folders(top):
            others.append(top)
        elif part in named:
            raise BenchmarkError(f"{shown(named[part])} and {shown(top)} are both called {part}; move one of them away")
        else:
            named[part] = top
    if "train" not in named or (len(named) == 1 and others):
        bare = next((top for top in others if "train" in named and top.name.casefold() in PART_NAMES), None)
        if bare is not None:
            raise BenchmarkError(
                f"{shown(bare)} has no class folders, so that its images cannot be tested on; move it away to hold a part of"
                f" {named['train'].name} out instead"
            )
        return [(None, "", _by_class(tops))], []
    if others:
        beside = " and ".join(named[part].name for part in ("train", "test", "val") if part in named)
        raise BenchmarkError(f"{shown(others[0])} lies beside {beside}; move it away")
    notes, train, tested = [], named["train"], named.get("test") or named.get("val")
    if "val" in named:
        is_tested = tested is named["val"]
        use = "is tested on" if is_tested else "is left out: neither trained nor tested on"
        notes = [f"{named['val'].name}/ {use}, since there is {'no' if is_tested else 'a'} test part"]
    if tested is None:
        return [(None, train.name, _by_class(folders_in(train, ignored)))], []
    halves: list[tuple[Split, Path]] = [("train", train), ("test", tested)]
    return [(split, part.name, _by_class(folders_in(part, ignored))) for split, part in halves], notes


def _by_class(folders: list[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        found[readable(folder.name)].append(folder)
    return found


def _classes(root: Path, parts: list[PartFolders]) -> tuple[tuple[str, ...], list[str]]:
    """Names of the classes, the same in every part, in order; and what the order is, where it is not by name."""
    _, first, folders = parts[0]
    if not folders:
        raise BenchmarkError(f"{shown(root / first)} has no classes; it must hold one sub-folder of images per class")
    for _, other, others in parts[1:]:
        for name in sorted(set(folders) ^ set(others)):
            has, lacks = (first, other) if name in folders else (other, first)
            raise BenchmarkError(f"class {name!r} of {shown(root)} is in {has} but not in {lacks}")
    forms = {name: {os.fsencode(path.name) for _, _, part in parts for path in part[name]} for name in folders}
    by_name = sorted(folders, key=lambda name: min(forms[name]))
    notes = [
        f"class {name!r} is written in {len(spelt)} Unicode forms, which are read as one class"
        for name, spelt in forms.items()
        if len(spelt) > 1
    ]
    ordered = by_number(by_name)
    if ordered != by_name:
        shortened = ", ".join((*ordered[:3], "...", ordered[-1]) if len(ordered) > 4 else ordered)
        notes.append(f"class names are numbers and rise as such: {shortened}")
    return tuple(ordered), notes


def by_number(names: list[str]) -> list[str]:
    """Names in rising order of number where every one is a number, else as they are."""
    return sorted(names, key=int) if all(name.isascii() and name.isdigit() for name in names) else names


def _entries(folder: Path, ignored: list[Path], *, beside: bool = False) -> list[Path]:
    """What a folder holds, rising; what is none of the user's pictures goes to ``ignored``.

    ``beside``: the folder holds class folders, beside which there may be texts.
    """
    kept = []
    try:
        for path in sorted(folder.iterdir(), key=os.fsencode):
            name = path.name.casefold()
            is_text = beside and (path.suffix.casefold() in TEXT_ENDINGS or name.startswith(TEXT_STEMS))
            if name.startswith(".") or name in SYSTEM_NAMES or (is_text and path.is_file()):
                ignored.append(path)
            else:
                kept.append(path)
    except OSError as error:
        raise BenchmarkError(f"{shown(folder)} cannot be read ({error.strerror})") from error
    return kept


def ignored_in(root: Path, ignored: list[Path]) -> list[str]:
    """One sentence that names what was ignored."""
    counts = Counter(path.name for path in dict.fromkeys(ignored))
    named = [f"{name!r}{f' ({count} times)' if count > 1 else ''}" for name, count in sorted(counts.items())]
    more = f" and {len(named) - NAMED_AT_MOST} more" if len(named) > NAMED_AT_MOST else ""
    return [f"not read in {shown(root)}: {', '.join(named[:NAMED_AT_MOST])}{more}"] if named else []


def _holds_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in _entries(folder, []))


def folders_in(root: Path, ignored: list[Path], what: str = "class") -> list[Path]:
    """Folders of classes or, as ``what`` has it, domains; a file beside them is an error unless it is one to be ignored."""
    entries = _entries(root, ignored, beside=True)
    for entry in entries:
        if not entry.is_dir():
            raise BenchmarkError(f"{shown(entry)} lies beside the {what} folders; every image must be in one of them")
    return entries


def _files_in(folder: Path, ignored: list[Path]) -> list[Path]:
    """Files of one class folder."""
    entries = _entries(folder, ignored)
    if not entries:
        raise BenchmarkError(f"class folder {shown(folder)} is empty")
    for entry in entries:
        if entry.is_dir():
            raise BenchmarkError(f"{shown(entry)} is a folder inside a class folder; images must lie directly in it")
        if not entry.is_file():
            # Reading a pipe would block; a dangling link cannot be read.
            raise BenchmarkError(f"{shown(entry)} is neither a file nor a link to one")
    return entries


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchmarkError(f"{shown(path)} cannot be read ({error.strerror})") from error


def readable(name: str) -> str:
    """A class name as composed UTF-8 (NFC): bytes that are not text become ``\\xff``."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def require_no_repeats(folder: Folder) -> None:
    """Raise BenchmarkError where the test part repeats pictures of the training part, byte for byte."""
    trained = {file.sha256: file.path for file in folder.files if file.split == "train"}
    tested = [file for file in folder.files if file.split == "test"]
    repeated = [file for file in tested if file.sha256 in trained]
    if repeated:
        first = repeated[0]
        raise BenchmarkError(
            f"{shown(first.path)} is the same picture as {shown(trained[first.sha256])}: {len(repeated):,} of"
            f" {len(tested):,} test pictures are training pictures too; remove them from one part, or go on with"
            " --set benchmark.repeats=allow"
        )
