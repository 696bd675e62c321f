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


@dataclass(frozen=True)
class File:
    """A file of the server; ``number`` differs between files of the same name."""

    content: bytes
    time: int
    number: int


@dataclass
class Client:
    """What one client remembers, each with the tick at which it was shown. None: no such file."""

    names: tuple[frozenset[str], int] | None = None
    files: dict[str, tuple[File | None, int]] = field(default_factory=dict)


@dataclass
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
        """Equal for states from which the same can happen: ages count, not times; forgotten is what is too old to be shown."""
        now = self.now

        def age(time: int) -> int:
            return min(now - time, 64)

        def of(file: File | None) -> object:
            return None if file is None else (file.content, age(file.time), file.number)

        clients = tuple(
            (
                None
                if client.names is None or now - client.names[1] > cache
                else (client.names[0], age(client.names[1])),
                frozenset((name, of(file), now - at) for name, (file, at) in client.files.items() if now - at <= cache),
            )
            for client in self.clients
        )
        return (
            clients,
            frozenset((name, of(file)) for name, file in self.files.items()),
            self.made,
            self.lost,
            self.publishers,
        )


class Failure(NamedTuple):
    """The answer of an operation that failed."""

    errno: int


class Pause(BaseException):
    """Ends a piece of a launcher's code at its next operation. No error: code that handles errors must not see it."""


class NetworkFiles(LeaseFiles):
    """The operations of leases for one client, in the place of those of a real file system.

    A launcher's code is executed up to one further operation at a time: the answers so far are given again, one operation
    is done on the server, and the next one ends the execution by ``Pause``.
    """

    def __init__(
        self,
        server: Server,
        weather: Weather,
        client: int,
        answers: tuple[Any, ...],
        choice: int,
        tokens: int,
        on_create: Callable[[str], None],
    ) -> None:
        self._server, self._weather, self._client = server, weather, client
        self._given, self._choice, self._on_create = list(answers), choice, on_create
        self._at, self._is_done = 0, False
        self.alternatives, self.tokens = 1, tokens

    @property
    def answers(self) -> tuple[Any, ...]:
        """All answers so far, for the next execution."""
        return tuple(self._given)

    def _step(self, possible: Callable[[], list[Callable[[], Any]]], *, is_free: bool = False) -> Any:
        """The answer of an operation that may go on in one of several ways. ``is_free``: it affects nobody else."""
        if self._at == len(self._given):
            if self._is_done and not is_free:
                raise Pause
            ways = possible()
            if not is_free:
                self.alternatives, self._is_done = len(ways), True
            self._given.append(ways[0 if is_free else self._choice]())
        answer = self._given[self._at]
        self._at += 1
        if isinstance(answer, Failure):
            raise OSError(answer.errno, os.strerror(answer.errno))
        return answer

    def make_folder(self, folder: Path) -> None:
        """The folder is there."""

    def names(self, folder: Path) -> list[str]:
        """Names as the server has them, or as this client was shown them lately."""
        del folder
        mine = self._server.clients[self._client]

        def fresh() -> frozenset[str]:
            shown = frozenset(self._server.files)
            mine.names = (shown, self._server.now)
            return shown

        def ways() -> list[Callable[[], Any]]:
            old = mine.names
            if old is None or not self._is_recent(old[1]) or old[0] == frozenset(self._server.files):
                return [fresh]
            return [fresh, lambda: old[0]]

        return [*self._step(ways), SILLY]

    def read(self, file: Path) -> tuple[bytes, float]:
        """Content and time as the server has them, or as this client was shown them lately."""
        found: File = self._step(lambda: self._looks(file.name))
        return found.content, found.time * TICK_S

    def exists(self, file: Path) -> bool:
        """Whether the server has the file, or this client was shown that lately."""
        return self._step(
            lambda: [lambda look=look: not isinstance(look(), Failure) for look in self._looks(file.name)]
        )

    def _looks(self, name: str) -> list[Callable[[], Any]]:
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

    def create(self, file: Path, content: bytes) -> None:
        """Create the file, which is empty at first; the second step writes its content."""
        server, name = self._server, file.name

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

        def ways() -> list[Callable[[], Any]]:
            if name in server.files and self._weather.exclusive_create:
                return [refuse]
            return [make, lose] if server.lost < self._weather.lost_answers else [make]

        self._step(ways)
        self._step(lambda: [lambda: self._put(name, content, again=True)])

    def overwrite(self, file: Path, content: bytes) -> None:
        """Write over a file; a handle of one that was removed is stale."""

        def write() -> Any:
            return (
                self._put(file.name, content, again=True) if file.name in self._server.files else Failure(errno.ESTALE)
            )

        self._step(lambda: [write])

    def remove(self, file: Path) -> None:
        """Remove a file at the server."""

        def remove() -> bool:
            self._server.files.pop(file.name, None)
            self._remember(file.name, None)
            return True

        self._step(lambda: [remove])

    def publish(self, *, exclusive: bool) -> bool:
        """Put this client's record in its place; ``exclusive``: unless there is one."""
        server = self._server

        def link() -> bool:
            if exclusive and RECORD in server.files:
                return False
            self._put(RECORD, b"record")
            server.publishers = (*server.publishers, self._client)
            return True

        return self._step(lambda: [link])

    def now(self, folder: Path) -> float:
        """The server's time, or this client's. Everything that the client was shown before stays as it is: the worst case."""
        del folder
        return self._step(lambda: [self._stamp], is_free=True) * TICK_S

    def clock(self) -> float:
        """This client's monotonic clock."""
        return self._step(lambda: [lambda: self._server.now], is_free=True) * TICK_S

    def new_token(self) -> str:
        """A token by count."""
        self.tokens += 1
        return f"{self._client}-{self.tokens}"

    def process(self) -> tuple[str, int, str]:
        """Each client is a machine of its own."""
        return f"machine-{self._client}", 1, "1"

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
