"""The states in which a power loss can leave a disk, for each point of a recorded sequence of operations.

Two kinds of file system are modelled. An **ordered** one keeps names in a journal: after the loss there are all changes of names
up to some point that is not earlier than the last fsync of anything; of each file's data since its own last fsync, any beginning.
A **reordering** one promises what POSIX does and no more: fsync of a file keeps its data, fsync of a folder keeps its entries.
Of all else any subset may be there: each change of a folder's entries, each sector of what was written since (old, new or zeros),
any length. A rename within a folder is one change; between two folders it may have reached one of them alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from file_calls import (  # pyright: ignore[reportMissingImports]
    Disk,
    Names,
    Operation,
    Said,
    Sync,
    Truncate,
    Write,
    cut_to,
    set_name,
    write_at,
)

SECTOR = 512
"""Bytes that a disk writes as a whole or not at all."""
SINGLE = 12
"""Up to so many unsynced changes of names, each alone is taken, and each alone is left out."""

Tree = Mapping[str, bytes | None]
"""Content of every file by path below the root; None for a folder."""
Data = Sequence[Write | Truncate]
Content = Callable[[bytes, Data], bytes]
System = Literal["ordered", "reordering"]


@dataclass(frozen=True)
class State:
    """What is on the disk after a power loss that followed the first ``operations`` operations."""

    operations: int
    system: System
    tree: Tree


@dataclass
class Pending:
    """A disk of which a part is not durable yet."""

    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    """Durable entries of each folder."""
    files: dict[int, bytes] = field(default_factory=dict)
    """Durable content of each file."""
    names: dict[int, list[tuple[int, str, int | None]]] = field(default_factory=dict)
    """Changes of each folder's entries since its last fsync, each with the number of its operation."""
    data: dict[int, list[Write | Truncate]] = field(default_factory=dict)
    """Changes of each file since its last fsync."""
    committed: Disk = field(default_factory=Disk)
    """Only the names: those of an ordered file system up to its last commit."""
    journal: list[Names] = field(default_factory=list)
    """Changes of names since then."""
    made: set[int] = field(default_factory=lambda: {0})
    """Numbers of folders."""

    def do(self, number: int, operation: Operation) -> None:
        """Take the next operation, which has this number."""
        match operation:
            case Names(entries):
                self.journal.append(operation)
                self.made |= {to for _, _, to in entries if to is not None and operation.is_folder}
                for folder, name, to in entries:
                    self.names.setdefault(folder, []).append((number, name, to))
            case Write(file) | Truncate(file):
                self.data.setdefault(file, []).append(operation)
            case Sync(of):
                if of in self.data:
                    self.files[of] = whole(self.files.get(of, b""), self.data.pop(of))
                for _, name, to in self.names.pop(of, ()):
                    set_name(self.folders.setdefault(of, {}), name, to)
                for change in self.journal:
                    self.committed.do(change)
                self.journal.clear()
            case Said():
                pass

    # -- states ------------------------------------------------------------------------------------------------------

    def ordered(self, changes: int, content: Content) -> Tree:
        """The first ``changes`` of the changes of names since the last commit, and this part of the data."""
        disk = Disk({number: dict(names) for number, names in self.committed.folders.items()})
        for change in self.journal[:changes]:
            disk.do(change)
        return self._tree(disk.folders, content)

    def reordered(self, keeps: Callable[[int, int], bool], content: Content) -> Tree:
        """The changes of names for which ``keeps`` (number of the operation, folder), and this part of the data."""
        folders = dict(self.folders)
        for folder, changes in self.names.items():
            folders[folder] = dict(self.folders.get(folder, {}))
            for number, name, to in changes:
                if keeps(number, folder):
                    set_name(folders[folder], name, to)
        return self._tree(folders, content)

    def _tree(self, folders: Mapping[int, Mapping[str, int]], content: Content) -> Tree:
        tree: dict[str, bytes | None] = {}

        def walk(folder: int, prefix: str) -> None:
            for name, to in folders.get(folder, {}).items():
                if to in self.made:
                    tree[prefix + name] = None
                    walk(to, f"{prefix}{name}/")
                else:
                    data, base = self.data.get(to), self.files.get(to, b"")
                    tree[prefix + name] = base if data is None else content(base, data)

        walk(0, "")
        return tree

    def count(self) -> tuple[int, int]:
        """How many states an ordered and a reordering file system may leave; lengths are not counted beside sectors."""
        folders = (*self.folders.values(), *self.committed.folders.values())
        named = {to for names in folders for to in names.values()}
        named |= {to for each in self.names.values() for _, _, to in each if to is not None}
        changes = sum(len({number for number, _, _ in each}) for each in self.names.values())
        sizes = [_size(changes) for file, changes in self.data.items() if file in named]
        sectors = sum(-(-size // SECTOR) for size in sizes)
        return (len(self.journal) + 1) * math.prod(size + 1 for size in sizes), 2**changes * 3**sectors

    def draws(self, draw: random.Random, count: int) -> Iterator[tuple[System, Tree]]:
        """The extreme states, each change of names alone and left out alone, and ``count`` random states of each system."""
        every, keys = (
            len(self.journal),
            [(n, f) for f, each in self.names.items() for n in dict.fromkeys(e[0] for e in each)],
        )
        for changes, content in ((0, lost), (every, lost), (0, whole), (every, whole), (every, half)):
            yield "ordered", self.ordered(changes, content)
        for kept in (False, True):
            for content in (lost, whole, half, zeros):
                yield "reordering", self.reordered(lambda *_, kept=kept: kept, content)
        if 1 < len(keys) <= SINGLE:
            for one in keys:
                yield "reordering", self.reordered(lambda *key, one=one: key == one, whole)
                yield "reordering", self.reordered(lambda *key, one=one: key != one, whole)
        for _ in range(count if every or self.data else 0):
            yield "ordered", self.ordered(draw.randint(0, every), _cut_anywhere(draw))
            share = draw.random()
            chosen = {key for key in keys if draw.random() < share}
            yield "reordering", self.reordered(lambda *key, chosen=chosen: key in chosen, _anything(draw))


def states(operations: Sequence[Operation], promised: Sequence[Hashable], seed: int, count: int) -> Iterator[State]:
    """States of each prefix of the operations, ``count`` random ones of either system; each content once a promise.

    ``promised``: what holds after each operation. After an fsync fewer states are possible than before it.
    """
    draw, pending, seen = random.Random(seed), Pending(), set[int]()
    for number, (operation, promise) in enumerate(zip(operations, promised, strict=True), 1):
        pending.do(number, operation)
        for system, tree in pending.draws(draw, count):
            key = hash((promise, frozenset(tree.items())))
            if key not in seen:
                seen.add(key)
                yield State(number, system, tree)


def count_states(operations: Sequence[Operation]) -> tuple[int, int]:
    """How many (point, state) pairs there are in an ordered and in a reordering file system."""
    pending, ordered, reordering = Pending(), 0, 0
    for number, operation in enumerate(operations, 1):
        pending.do(number, operation)
        if not isinstance(operation, Sync | Said):
            more = pending.count()
            ordered, reordering = ordered + more[0], reordering + more[1]
    return ordered, reordering


# -- what may be left of data that were written since the last fsync -----------------------------------------------------


def lost(base: bytes, changes: Data) -> bytes:
    """Nothing."""
    del changes
    return base


def whole(base: bytes, changes: Data) -> bytes:
    """All of it."""
    return _first(base, changes, _size(changes))


def half(base: bytes, changes: Data) -> bytes:
    """The first half of the bytes."""
    return _first(base, changes, _size(changes) // 2)


def zeros(base: bytes, changes: Data) -> bytes:
    """The length, with zeros in place of the bytes."""
    return whole(base, [_blank(one) if isinstance(one, Write) else one for one in changes])


def _blank(write: Write) -> Write:
    return Write(write.file, write.offset, bytes(len(write.data)))


def _size(changes: Data) -> int:
    return sum(len(one.data) for one in changes if isinstance(one, Write))


def _first(base: bytes, changes: Data, count: int) -> bytes:
    """The changes up to the first ``count`` written bytes."""
    content = bytearray(base)
    for one in changes:
        if isinstance(one, Truncate):
            cut_to(content, one.size)
            continue
        if count < len(one.data):
            if count:
                write_at(content, one.offset, one.data[:count])
            break
        write_at(content, one.offset, one.data)
        count -= len(one.data)
    return bytes(content)


def _cut_anywhere(draw: random.Random) -> Content:
    """Of each file another beginning."""
    return lambda base, changes: _first(
        base, changes, draw.choice((0, _size(changes), draw.randint(0, _size(changes))))
    )


def _anything(draw: random.Random) -> Content:
    """Of each file something else: one of the above, or each sector old, new or zeros."""
    kinds = (lost, whole, zeros, _cut_anywhere(draw), lambda base, changes: _scattered(base, changes, draw))

    def one(base: bytes, changes: Data) -> bytes:
        return draw.choice(kinds)(base, changes)

    return one


def _scattered(base: bytes, changes: Data, draw: random.Random) -> bytes:
    content = bytearray(base)
    for one in changes:
        if isinstance(one, Truncate):
            if draw.random() < 0.5:
                cut_to(content, one.size)
            continue
        end = one.offset + len(one.data)
        cut_to(content, max(len(content), end if draw.random() < 0.5 else 0))
        at = one.offset
        while at < end:
            stop = min(end, (at // SECTOR + 1) * SECTOR)
            kind = draw.randrange(3)
            if kind:
                write_at(content, at, one.data[at - one.offset : stop - one.offset] if kind == 1 else bytes(stop - at))
            at = stop
    return bytes(content)
