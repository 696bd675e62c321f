"""Every order in which launchers can take, hold, lose and publish a run over a network file system, with the real lease code.

From the project's folder: ``python tests/robustness/network_leases/explore.py``. It prints the figures of each world as JSON;
the exit status is 1 where a property fails. The launchers are those of ``harness/execution``, reduced to what they do with the
run's lease and record; between any two file operations any other launcher may go on, and any of them may crash or be stopped
for any time. A state that was met is not explored again, so the search ends when all of them are known.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from smope_bench.harness.execution.lease import Lease, LeaseMonitor, without_heartbeat

sys.path.append(str(Path(__file__).parent))

from simulated_network import (  # pyright: ignore[reportMissingImports]
    RECORD,
    TICK_S,
    Asked,
    Client,
    NetworkFiles,
    Operation,
    Operations,
    Server,
    Weather,
)

FOLDER = Path("/results/run")


@dataclass(frozen=True)
class World:
    """What is explored, and the rules that launchers follow; those that are off are for a check of the checks."""

    name: str
    launchers: int = 2
    weather: Weather = field(default_factory=Weather)
    crashes: int = 0
    stops: int = 0
    """How often a launcher is stopped, at any operation and for any time."""
    preemptions: int | None = None
    """How often another launcher goes on although the one that acted last could, in one way through the states; None: any
    number. Where a launcher waits, has ended, crashed or is stopped, a change to another is not counted."""
    work: int = 3
    """Ticks that a run takes."""
    dead: int = 1
    cache: int = 2
    skew: int = 2
    """Ticks without a heartbeat until a holder counts as dead; what the launchers believe of cache and clocks."""
    checks_lease: bool = True
    exclusive_record: bool = True
    frees_dead: bool = True
    longest: int = 30
    """Ticks after which launchers that have not ended count as waiting for ever."""


class Held(NamedTuple):
    """A lease, by what distinguishes it from another."""

    number: int
    token: str
    beats: int
    is_lost: bool


class Launcher(NamedTuple):
    """One launcher between two operations: the piece of code that it executes, with the answers that it got so far."""

    phase: str = "plan"
    answers: tuple[Any, ...] = ()
    held: Held | None = None
    seen: tuple[int, str, float] | None = None
    """What its monitor saw last, and when, in seconds."""
    worked: int = 0
    tokens: int = 0
    state: str = "alive"
    """``alive``, ``stopped``, ``resumed`` or ``crashed``."""

    @property
    def waits(self) -> bool:
        """Whether it waits for time to pass."""
        return self.phase in ("work", "wait") and not self.answers

    @property
    def acts(self) -> bool:
        """Whether it is in the middle of something."""
        return self.phase != "end" and not self.waits and self.state in ("alive", "resumed")


class State(NamedTuple):
    """All of a world at one moment."""

    server: Server
    launchers: tuple[Launcher, ...]
    crashes: int = 0
    stops: int = 0
    last: int | None = None
    """The launcher that acted last, where preemptions are counted."""
    preemptions: int = 0


class BrokenPromise(Exception):
    """A property does not hold."""


@dataclass
class Figures:
    """What was explored."""

    world: str
    states: int = 0
    transitions: int = 0
    ends: int = 0
    ticks: int = 0
    taken_over: int = 0
    refused: int = 0
    """Publications that found another's record in their place."""
    broken: str = ""
    trace: list[str] = field(default_factory=list)


def explore(world: World, most: int = 10_000_000) -> Figures:
    """All states of a world, depth first; stops at the first broken promise, whose way is in ``trace``."""
    figures = Figures(world.name)
    server = Server([Client() for _ in range(world.launchers)])
    start = State(server, (Launcher(),) * world.launchers)
    known = {_key(start, world)}
    # What a launcher does next follows from its answers alone, and most are met in many states.
    execute = functools.cache(functools.partial(_execute, world))
    path: list[tuple[State, Iterator[tuple[str, State]], str]] = [
        (start, _next(start, world, figures, execute), "start")
    ]
    try:
        while path:
            state, ways, _ = path[-1]
            found = next(ways, None)
            if found is None:
                path.pop()
                continue
            figures.transitions += 1
            step, state = found
            figures.ticks = max(figures.ticks, state.server.now)
            key = _key(state, world)
            if key in known:
                continue
            known.add(key)
            if len(known) > most:
                raise RuntimeError(f"{world.name}: more than {most} states")
            path.append((state, _next(state, world, figures, execute), step))
    except BrokenPromise as error:
        figures.broken = str(error)
        figures.trace = [step for _, _, step in path]
    figures.states = len(known)
    return figures


def _key(state: State, world: World) -> int:
    """64 bits that tell states apart. Ticks count: no way through the states comes back to where it was, and each one ends."""
    return hash((state.server.key(world.weather.cache), *state[1:]))


def _next(state: State, world: World, figures: Figures, execute: Execute) -> Iterator[tuple[str, State]]:
    """Everything that can happen in a state. Raises BrokenPromise."""
    if len(state.server.publishers) > 1:
        raise BrokenPromise(f"published by launchers {state.server.publishers}")
    if state.server.now > world.longest:
        raise BrokenPromise(f"not finished after {world.longest} ticks")
    is_over = True
    for index, launcher in enumerate(state.launchers):
        if launcher.phase == "end" or launcher.state == "crashed":
            continue
        is_over = False
        if launcher.state == "stopped":
            yield f"{index} resumes", _with(state, index, launcher._replace(state="resumed"))
            continue
        if launcher.acts and (counted := _preempting(state, index, world)) is not None:
            yield from _operations(counted, index, world, figures, execute)
        if state.crashes < world.crashes:
            yield f"{index} crashes", _with(state, index, launcher._replace(state="crashed"), crashes=1)
        if state.stops < world.stops:
            yield f"{index} is stopped", _with(state, index, launcher._replace(state="stopped"), stops=1)
    if is_over:
        figures.ends += 1
        if not state.server.publishers and any(launcher.state != "crashed" for launcher in state.launchers):
            raise BrokenPromise("all launchers ended and none has published")
    elif not any(launcher.acts for launcher in state.launchers) and any(
        launcher.waits and launcher.state in ("alive", "resumed") for launcher in state.launchers
    ):
        yield "time passes", _tick(state)


def _preempting(state: State, index: int, world: World) -> State | None:
    """The state in which this launcher acts, its preemption counted; None where the world allows no further one."""
    if world.preemptions is None:
        return state
    is_one = state.last not in (None, index) and state.launchers[state.last].acts
    if is_one and state.preemptions >= world.preemptions:
        return None
    return state._replace(last=index, preemptions=state.preemptions + is_one)


def _with(
    state: State, index: int, launcher: Launcher, *, server: Server | None = None, crashes: int = 0, stops: int = 0
) -> State:
    launchers = (*state.launchers[:index], launcher, *state.launchers[index + 1 :])
    return state._replace(
        server=server or state.server, launchers=launchers, crashes=state.crashes + crashes, stops=state.stops + stops
    )


def _tick(state: State) -> State:
    server = state.server.copy()
    server.now += 1

    def later(launcher: Launcher) -> Launcher:
        if not launcher.waits or launcher.state not in ("alive", "resumed"):
            return launcher
        if launcher.phase == "work":
            return launcher._replace(phase="beat", worked=launcher.worked + 1)
        return launcher._replace(phase="look")

    return state._replace(server=server, launchers=tuple(later(one) for one in state.launchers), last=None)


def _operations(
    state: State, index: int, world: World, figures: Figures, execute: Execute
) -> Iterator[tuple[str, State]]:
    """The next operation of one launcher, in each way that it may go."""
    launcher = state.launchers[index]

    def on_create(name: str) -> None:
        if taken := _taken_from(state, index, name):
            figures.taken_over += 1
            if taken.state == "alive":
                raise BrokenPromise(f"launcher {index} takes the run from one that is at work")

    def until_it_counts(me: Launcher, operations: Operations) -> tuple[Launcher, Operation | None]:
        """The launcher at its next operation that others could notice, or with None at the end of its piece of code."""
        while isinstance(found := execute(me, index), Operation) and found.is_free:
            me = me._replace(answers=(*me.answers, operations.ways(found)[0]()))
        return (me, found) if isinstance(found, Operation) else (found, None)

    choice, alternatives = 0, 1
    while choice < alternatives:
        server = state.server.copy()
        operations = Operations(server, world.weather, index, on_create)
        after, asked = until_it_counts(launcher._replace(state="alive"), operations)
        if asked is not None:
            ways = operations.ways(asked)
            alternatives, answer = len(ways), ways[choice]()
            figures.refused += asked.name == "publish" and not answer
            after, _ = until_it_counts(after._replace(answers=(*after.answers, answer)), operations)
        step = f"{index} {launcher.phase} {len(launcher.answers)}: {choice}"
        yield step, _with(state, index, after._replace(state=launcher.state), server=server)
        choice += 1


def _execute(world: World, me: Launcher, index: int) -> Launcher | Operation:
    """The next operation of a launcher whose answers are given, or the launcher after its piece of code."""
    files = NetworkFiles(index, me.answers, me.tokens)
    try:
        return PHASES[me.phase](me, files, world)._replace(answers=(), tokens=files.tokens)
    except Asked as asked:
        return asked.operation
    except OSError as error:
        raise BrokenPromise(f"launcher {index} fails in {me.phase!r}: {error}") from error


Execute = Callable[[Launcher, int], Launcher | Operation]
"""``_execute`` in one world."""


def _taken_from(state: State, index: int, name: str) -> Launcher | None:
    """The launcher whose valid lease a new one, of this name, ends: it holds the lease, has not released it and is not dead."""
    for other, launcher in enumerate(state.launchers):
        if other == index or launcher.held is None or launcher.phase not in ("begin", "work", "beat", "publish"):
            continue
        if name == f"claim.{launcher.held.number + 1}" and launcher.state != "crashed":
            return launcher
    return None


# -- what launchers do -----------------------------------------------------------------------------------------------------


def _plan(me: Launcher, files: NetworkFiles, world: World) -> Launcher:
    return me._replace(phase="end" if files.exists(FOLDER / RECORD) else "take")


def _take(me: Launcher, files: NetworkFiles, world: World) -> Launcher:
    lease = without_heartbeat(FOLDER, files=files)
    if isinstance(lease, Lease):
        return me._replace(phase="begin", held=_held(lease), worked=0)
    return me._replace(phase="wait")


def _begin(me: Launcher, files: NetworkFiles, world: World) -> Launcher:
    return me._replace(phase="forget" if files.exists(FOLDER / RECORD) else "work")


def _beat(me: Launcher, files: NetworkFiles, world: World) -> Launcher:
    lease = _lease(me, files)
    try:
        is_ours = lease.beat()
    except OSError:  # as the thread that writes heartbeats does
        is_ours = True
    me = me._replace(held=_held(lease))
    if not is_ours:
        return me._replace(phase="drop")
    return me._replace(phase="publish" if me.worked >= world.work else "work")


def _publish(me: Launcher, files: NetworkFiles, world: World) -> Launcher:
    if world.checks_lease and not (_lease(me, files).still_ours() and not files.exists(FOLDER / RECORD)):
        return me._replace(phase="drop")
    if files.publish(exclusive=world.exclusive_record):
        return me._replace(phase="forget")
    return me._replace(phase="drop")


def _forget(me: Launcher, files: NetworkFiles, world: World) -> Launcher:
    _lease(me, files).release(forget=True)
    return me._replace(phase="end", held=None)


def _drop(me: Launcher, files: NetworkFiles, world: World) -> Launcher:
    if files.exists(FOLDER / RECORD):
        return me._replace(phase="forget")
    _lease(me, files).release(forget=False)
    return me._replace(phase="wait", held=None, worked=0)


def _look(me: Launcher, files: NetworkFiles, world: World) -> Launcher:
    if files.exists(FOLDER / RECORD):
        return me._replace(phase="end", seen=None)
    monitor = LeaseMonitor(
        beat_s=TICK_S / 4,
        dead_s=world.dead * TICK_S,
        cache_s=world.cache * TICK_S,
        skew_s=world.skew * TICK_S,
        clock=files.clock,
        files=files,
    )
    if me.seen is not None:
        monitor.seen[FOLDER] = me.seen
    is_free = False
    with contextlib.suppress(OSError):  # as the scheduler does
        is_free = monitor.is_free(FOLDER) and world.frees_dead
    if is_free:
        return me._replace(phase="take", seen=None)
    return me._replace(phase="wait", seen=monitor.seen.get(FOLDER))


PHASES = {
    "plan": _plan,
    "take": _take,
    "begin": _begin,
    "beat": _beat,
    "publish": _publish,
    "forget": _forget,
    "drop": _drop,
    "look": _look,
}


def _held(lease: Lease) -> Held:
    return Held(lease.number, lease.token, lease.beats, lease.is_lost)


def _lease(me: Launcher, files: NetworkFiles) -> Lease:
    assert me.held is not None
    lease = Lease(FOLDER, me.held.number, me.held.token, 5.0, lambda: None, files=files)
    lease.beats, lease.is_lost = me.held.beats, me.held.is_lost
    return lease


# -- worlds ----------------------------------------------------------------------------------------------------------------

HONEST = Weather(cache=0)
OLD = Weather(cache=2)
SKEWED = Weather(cache=1, clocks=(-1, 1, 0), client_times=True)
_TWICE = replace(HONEST, lost_answers=1)
_THREE_OLD = World("three launchers, old names and contents", 3, weather=replace(OLD, cache=1), work=1)

SHORT = (
    World("a local file system, one crash", weather=HONEST, crashes=1, work=2),
    World("a local file system, one stop of any length", weather=HONEST, stops=1, work=1),
    World("old names and contents", weather=OLD, work=5),
    World("old names and contents, a run shorter than the cache", weather=OLD, work=1),
    World("old names and contents, one crash", weather=replace(OLD, cache=1), crashes=1, work=2),
    World("clocks apart, old names and contents", weather=SKEWED, work=4),
    World("an answer lost", weather=_TWICE, work=1),
    World("an answer lost, old names and contents", weather=replace(OLD, cache=1, lost_answers=1), work=1),
    replace(_THREE_OLD, name="three launchers, old names and contents, no preemption", preemptions=0),
)
"""What the test suite explores."""
LONG = (
    World("an answer lost, names and contents of a minute ago", weather=replace(OLD, lost_answers=1), work=1),
    World("a local file system, one crash, one stop", weather=HONEST, crashes=1, stops=1, work=1),
    World(
        "old names and contents, one crash, an answer lost",
        weather=replace(OLD, cache=1, lost_answers=1),
        crashes=1,
        work=1,
    ),
    World("old names and contents, one stop of any length", weather=replace(OLD, cache=1), stops=1, work=1),
    World("clocks apart, old names and contents, one crash", weather=SKEWED, crashes=1, work=4),
    World("three launchers, a local file system, one crash", 3, weather=HONEST, crashes=1, work=1),
    replace(_THREE_OLD, name="three launchers, old names and contents, two preemptions", preemptions=2),
    replace(_THREE_OLD, name="three launchers, names and contents of a minute ago", weather=OLD, preemptions=1),
    replace(_THREE_OLD, name="three launchers, old names and contents, one crash", crashes=1, preemptions=1),
    _THREE_OLD,
    replace(_THREE_OLD, name="three launchers, old names and contents, one crash, any order", crashes=1),
)
"""What the script explores with ``--long``."""
BROKEN = {
    "published": (
        World("records replace each other, one stop", weather=HONEST, stops=1, work=1, exclusive_record=False),
        World("records replace each other, a short run", weather=OLD, work=1, exclusive_record=False),
        replace(_THREE_OLD, name="records replace each other, three launchers", preemptions=1, exclusive_record=False),
        World("no look at the lease either", weather=OLD, work=5, exclusive_record=False, checks_lease=False),
    ),
    "takes the run from one that is at work": (
        World("no allowance for a cache", weather=OLD, cache=0, skew=2, work=5),
        World("no allowance for clocks", weather=replace(SKEWED, clocks=(-2, 2, 0)), skew=0, work=5),
    ),
    "not finished": (
        World("nobody judges the dead", weather=HONEST, crashes=1, frees_dead=False),
        World("creation is not exclusive", weather=replace(HONEST, exclusive_create=False), work=1),
    ),
}
"""By what goes wrong, worlds in which a rule is left out: the explorer has to find it."""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="the large worlds instead of the small ones")
    asked, ok = parser.parse_args(), True
    for world in LONG if asked.long else SHORT:
        started, figures = time.process_time(), explore(world)
        ok &= not figures.broken
        print(json.dumps(vars(figures) | {"processor_s": round(time.process_time() - started, 1)}), flush=True)
    for broken, worlds in BROKEN.items():
        for world in worlds:
            figures = explore(world)
            ok &= broken in figures.broken
            print(json.dumps({"without": world.name, "found": figures.broken, "states": figures.states}), flush=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
