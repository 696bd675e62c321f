"""A simulated network file system that holds one run's folder: what clients are shown may be old, answers get lost, clocks differ.

Time passes in ticks. The server's state is always right; each client keeps what it was shown and may show it again for
``Weather.cache`` ticks. What may happen at an operation is a list of alternatives, from which the explorer chooses.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from smope_bench.harness.execution.lease_files import LeaseFiles

RECORD = "result.json"
SILLY = ".nfs0000000000000001"
"""Name under which a client keeps a removed file that is still open."""
TICK_S = 30.0


@dataclass(frozen=True)
class Weather:
    """What this file system does to its clients. Times in ticks of 30 seconds."""

    cache: int = 2
    """How long a client may go on showing names and contents that are no longer so."""
    clocks: tuple[int, ...] = (0, 0, 0)
    """How far each client's clock is ahead of the server's."""
    client_times: bool = False
    """Whether times of files are those of the clients that wrote them, as with a write-back cache."""
    lost_answers: int = 0
    """How many exclusive creations are done, and then refused because the client had to ask again."""
    exclusive_create: bool = True
    """False: a file system that lets everybody create everything, for a check of the checks."""


class File(NamedTuple):
    """A file of the server; ``number`` differs between files of the same name."""

    content: bytes
    time: int
    number: int


@dataclass(slots=True)
class Client:
    """What one client remembers, each with the tick at which it was shown. None: no such file."""

    names: tuple[frozenset[str], int] | None = None
    files: dict[str, tuple[File | None, int]] = field(default_factory=dict)


@dataclass(slots=True)
class Server:
    """The state of the file system with all its clients."""

    clients: list[Client]
    now: int = 0
    files: dict[str, File] = field(default_factory=dict)
    made: int = 0
    lost: int = 0
    publishers: tuple[int, ...] = ()

    def copy(self) -> Server:
        """An independent copy."""
        clients = [Client(client.names, dict(client.files)) for client in self.clients]
        return Server(clients, self.now, dict(self.files), self.made, self.lost, self.publishers)

    def key(self, cache: int) -> object:
        """Equal for states from which the same can happen: what is too old to be shown is forgotten."""
        oldest = self.now - cache
        clients = tuple(
            (
                None if client.names is None or client.names[1] < oldest else client.names,
                frozenset(shown for shown in client.files.items() if shown[1][1] >= oldest),
            )
            for client in self.clients
        )
        return self.now, clients, frozenset(self.files.items()), self.made, self.lost, self.publishers


class Failure(NamedTuple):
    """The answer of an operation that failed."""

    errno: int


class Operation(NamedTuple):
    """What a launcher asks of the file system: the name of a method of ``Operations``, and its arguments."""

    name: str
    arguments: tuple[Any, ...]

    @property
    def is_free(self) -> bool:
        """Whether nobody else is affected by it."""
        return self.name in ("now", "clock")


class Asked(BaseException):
    """Ends a launcher's code at its next operation. No error: code that handles errors must not see it."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self.operation = Operation(name, arguments)


class NetworkFiles(LeaseFiles):
    """The operations of leases for one client, in the place of those of a real file system.

    A launcher's code is executed from its beginning with the answers that it got so far; the next operation ends it by
    ``Asked``. ``Operations`` has the answers to that.
    """

    def __init__(self, client: int, answers: tuple[Any, ...], tokens: int) -> None:
        self._client, self._given, self._at, self.tokens = client, answers, 0, tokens

    def _step(self, name: str, *arguments: Any) -> Any:
        if self._at == len(self._given):
            raise Asked(name, *arguments)
        answer = self._given[self._at]
        self._at += 1
        if isinstance(answer, Failure):
            raise OSError(answer.errno, os.strerror(answer.errno))
        return answer

    def make_folder(self, folder: Path) -> None:
        """The folder is there."""

    def names(self, folder: Path) -> list[str]:
        """Names in the folder, and one of a removed file that is still open."""
        return [*self._step("names"), SILLY]

    def read(self, file: Path) -> tuple[bytes, float]:
        """Content and time."""
        found: File = self._step("read", file.name)
        return found.content, found.time * TICK_S

    def exists(self, file: Path) -> bool:
        """Whether there is such a file."""
        return self._step("exists", file.name)

    def create(self, file: Path, content: bytes) -> None:
        """Create the file, which is empty at first; the second step writes its content."""
        self._step("create", file.name)
        self._step("fill", file.name, content)

    def overwrite(self, file: Path, content: bytes) -> None:
        """Write over a file; a handle of one that was removed is stale."""
        self._step("overwrite", file.name, content)

    def remove(self, file: Path) -> None:
        """Remove a file at the server."""
        self._step("remove", file.name)

    def publish(self, *, exclusive: bool) -> bool:
        """Put this client's record in its place; ``exclusive``: unless there is one."""
        return self._step("publish", exclusive)

    def now(self, folder: Path) -> float:
        """The server's time, or this client's."""
        return self._step("now") * TICK_S

    def clock(self) -> float:
        """This client's monotonic clock."""
        return self._step("clock") * TICK_S

    def new_token(self) -> str:
        """A token by count."""
        self.tokens += 1
        return f"{self._client}-{self.tokens}"

    def process(self) -> tuple[str, int, str]:
        """Each client is a machine of its own."""
        return f"machine-{self._client}", 1, "1"


class Operations:
    """What an operation of one client does to the server: each method has the ways in which it may go, which give its answer."""

    def __init__(self, server: Server, weather: Weather, client: int, on_create: Callable[[str], None]) -> None:
        self._server, self._weather, self._client, self._on_create = server, weather, client, on_create

    def ways(self, asked: Operation) -> list[Callable[[], Any]]:
        """The ways of an operation."""
        return getattr(self, asked.name)(*asked.arguments)

    def names(self) -> list[Callable[[], Any]]:
        """Names as the server has them, or as this client was shown them lately."""
        mine = self._server.clients[self._client]
        old = mine.names

        def fresh() -> frozenset[str]:
            shown = frozenset(self._server.files)
            mine.names = (shown, self._server.now)
            return shown

        if old is None or not self._is_recent(old[1]) or old[0] == frozenset(self._server.files):
            return [fresh]
        return [fresh, lambda: old[0]]

    def exists(self, name: str) -> list[Callable[[], Any]]:
        """Whether the server has the file, or this client was shown that lately."""
        return [lambda look=look: not isinstance(look(), Failure) for look in self.read(name)]

    def read(self, name: str) -> list[Callable[[], Any]]:
        """The file as the server has it, or as this client was shown it lately."""
        mine, now = self._server.clients[self._client], self._server.now
        truth, old = self._server.files.get(name), mine.files.get(name)

        def fresh() -> File | Failure:
            had = old is not None and old[0] is not None and self._is_recent(old[1])
            mine.files[name] = (truth, now)
            if truth is None:
                return Failure(errno.ESTALE if had else errno.ENOENT)
            return truth

        if old is None or not self._is_recent(old[1]) or old[0] == truth:
            return [fresh]
        return [fresh, lambda: Failure(errno.ENOENT) if old[0] is None else old[0]]

    def create(self, name: str) -> list[Callable[[], Any]]:
        """Create an empty file unless there is one; the answer may get lost."""
        server = self._server

        def refuse() -> Failure:
            return Failure(errno.EEXIST)

        def make() -> bool:
            self._on_create(name)
            self._put(name, b"")
            return True

        def lose() -> Failure:
            server.lost += 1
            make()
            return refuse()

        if name in server.files and self._weather.exclusive_create:
            return [refuse]
        return [make, lose] if server.lost < self._weather.lost_answers else [make]

    def fill(self, name: str, content: bytes) -> list[Callable[[], Any]]:
        """Write the content of a file that this client has just created."""
        return [lambda: self._put(name, content, again=True)]

    def overwrite(self, name: str, content: bytes) -> list[Callable[[], Any]]:
        """Write over a file; a handle of one that was removed is stale."""

        def write() -> Any:
            return self._put(name, content, again=True) if name in self._server.files else Failure(errno.ESTALE)

        return [write]

    def remove(self, name: str) -> list[Callable[[], Any]]:
        """Remove a file at the server."""

        def remove() -> bool:
            self._server.files.pop(name, None)
            self._remember(name, None)
            return True

        return [remove]

    def publish(self, exclusive: bool) -> list[Callable[[], Any]]:
        """Put this client's record in its place; ``exclusive``: unless there is one."""
        server = self._server

        def link() -> bool:
            if exclusive and RECORD in server.files:
                return False
            self._put(RECORD, b"record")
            server.publishers = (*server.publishers, self._client)
            return True

        return [link]

    def now(self) -> list[Callable[[], Any]]:
        """The server's time, or this client's. Everything that the client was shown before stays as it is: the worst case."""
        return [self._stamp]

    def clock(self) -> list[Callable[[], Any]]:
        """This client's monotonic clock."""
        return [lambda: self._server.now]

    def _stamp(self) -> int:
        return self._server.now + (self._weather.clocks[self._client] if self._weather.client_times else 0)

    def _put(self, name: str, content: bytes, *, again: bool = False) -> bool:
        server = self._server
        if again and name not in server.files:  # removed by another client while this one had it open
            return True
        if not again:
            server.made += 1
        number = server.files[name].number if again else server.made
        server.files[name] = File(content, self._stamp(), number)
        self._remember(name, server.files[name])
        return True

    def _remember(self, name: str, file: File | None) -> None:
        """A client sees its own changes at once, and others' not sooner for that."""
        mine, now = self._server.clients[self._client], self._server.now
        mine.files[name] = (file, now)
        if mine.names is not None:
            shown = mine.names[0] - {name} if file is None else mine.names[0] | {name}
            mine.names = (shown, mine.names[1])

    def _is_recent(self, at: int) -> bool:
        return self._server.now - at <= self._weather.cache
