"""A sample of the states that a power loss can leave: each is read as the product reads it, and for some the life goes on."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from unittest import mock

import life  # pyright: ignore[reportMissingImports]
from disk_states import (  # pyright: ignore[reportMissingImports]
    State,
    Tree,
    count_states,
    states,
)
from file_calls import (  # pyright: ignore[reportMissingImports]
    Disk,
    Names,
    Operation,
    Said,
    Sync,
    record,
)

from smope_bench.benchmarks.image_store.cache import verify_caches
from smope_bench.harness.checkpointing.checkpoint import Checkpoints, _read_marker
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution import lease, scheduler
from smope_bench.harness.records.cleanup import CHECKPOINT
from smope_bench.harness.records.record import RECORD, Broken, Record
from smope_bench.harness.records.store import Store

RESUMED = 2
"""Number of the call that resumes and finishes the runs."""
HOURS_S = 3 * 3600.0
DONE = 10**9
"""What is promised of a run that is published: more than any checkpoint."""


LITTER = (CHECKPOINT, "progress.json", "cancel", "claim.*", ".*")
"""What only an unfinished run needs."""


@dataclass(frozen=True)
class Promise:
    """What the user or the product itself relies on at a point of the life."""

    calls: int = 0
    """Commands that ended: the next one is under way."""
    runs: tuple[tuple[str, int], ...] = ()
    """Of each run: the least checkpoint to go on from, or DONE."""

    def with_run(self, run: str, least: int) -> Promise:
        """The same with more for a run."""
        return Promise(self.calls, tuple(sorted({**dict(self.runs), run: least}.items())))


@dataclass
class Tally:
    """What was tried, and what came of it."""

    read: int = 0
    by_system: Counter[str] = field(default_factory=Counter)
    continued: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    told: Counter[str] = field(default_factory=Counter)
    """Sentences with which a command ended that did not do its work."""

    def fault(self, kind: str, state: State, more: str = "") -> None:
        """Count a fault, and keep the first state that shows it."""
        self.faults[kind] += 1
        self.examples.setdefault(kind, f"{state.system}, after operation {state.operations}: {more}")


def promises(operations: Sequence[Operation]) -> list[Promise]:
    """What is relied on after each operation.

    A checkpoint counts once the product removes what came before it; a record once the product removes the run's checkpoints, or
    has printed that the run finished.
    """
    disk, promise, found = Disk(), Promise(), list[Promise]()
    newest, published, folders = dict[str, int](), list[str](), {0: PurePosixPath()}
    for operation in operations:
        if isinstance(operation, Said):
            for line in operation.text.splitlines():
                if "  finished  " in line:
                    promise = promise.with_run(published[-1], DONE)
                if line.startswith("call "):
                    promise = Promise(int(line.split()[1]) + 1, promise.runs)
        elif isinstance(operation, Names):
            for folder, name, to in operation.entries:
                path = folders[folder] / name
                if to is not None and operation.is_folder:
                    folders[to] = path
                if path.parts[0] != "results" or len(path.parts) < 3:
                    continue
                run = path.parts[1]
                if name == RECORD and to is not None:
                    published.append(run)
                elif (
                    path.parent.name == CHECKPOINT
                    and to is not None
                    and path.suffix == ".json"
                    and path.stem.isdecimal()
                ):
                    newest[run] = int(path.stem)
                elif path.parent.name == CHECKPOINT and to is None and path.suffix and not name.startswith("."):
                    promise = promise.with_run(run, DONE if run in published else newest[run])
        disk.do(operation)
        found.append(promise)
    return found


class Folder:
    """A folder that is given the content of one state after another; only what differs is written."""

    def __init__(self, root: Path) -> None:
        self.root, self._has = root, dict[str, bytes | None]()
        root.mkdir(parents=True)

    def set(self, tree: Tree) -> None:
        """Make the folder hold exactly this."""
        for path in sorted(self._has.keys() - tree.keys(), reverse=True):
            place = self.root / path
            (place.rmdir if self._has.pop(path) is None else place.unlink)()
        for path in sorted(tree):
            data = tree[path]
            if path in self._has and self._has[path] == data:
                continue
            if data is None:
                (self.root / path).mkdir()
            else:
                (self.root / path).write_bytes(data)
            self._has[path] = data


class Sweep:
    """A recorded life, and the outcome that must come of every state in its course."""

    def __init__(self, folder: Path, operations: list[Operation]) -> None:
        self.folder, self.outside, self.operations = folder, folder / "outside", operations
        self.promises = promises(operations)
        self.calls = life.calls(self.outside)
        self.truth = outcome(folder / "life")
        self.tally = Tally()

    @classmethod
    def lived(cls, folder: Path, methods: Sequence[str]) -> Sweep:
        """Record the life in ``folder``, and verify the record by what the life has left."""
        outside, root = folder / "outside", folder / "life"
        life.make_outside(outside, methods)
        root.mkdir()
        command = [sys.executable, life.__file__, str(outside)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        operations = record(command, root, folder / "strace.log", folder / "printed.txt", environment)
        require_same(root, operations)
        return cls(folder, operations)

    def try_all(self, draws: int, seed: int, continued: int) -> dict[str, Any]:
        """Read every state; go on from ``continued`` of them: of each situation some, and others at random. The figures."""
        began, draw = time.process_time(), random.Random(seed)
        situations: dict[tuple[Any, ...], list[State]] = {}
        reader = Folder(self.folder / "read")
        for state in states(self.operations, self.promises, seed, draws):
            self.tally.read += 1
            self.tally.by_system[state.system] += 1
            reader.set(state.tree)
            known = situations.setdefault(self.situation(reader.root, state), [])
            known.append(state)
        read_s, began = time.process_time() - began, time.process_time()
        for state in chosen(list(situations.values()), continued, draw):
            self.go_on(state)
        ordered, reordering = count_states(self.operations)
        syncs = Counter(
            promise.calls for one, promise in zip(self.operations, self.promises, strict=True) if isinstance(one, Sync)
        )
        kinds = Counter(type(one).__name__ for one in self.operations)
        return {
            "operations": len(self.operations),
            "kinds": dict(kinds),
            "fsyncs_of_each_call": list(syncs.values()),
            "states_ordered": _rounded(ordered),
            "states_reordering": _rounded(reordering),
            "states_read": self.tally.read,
            "by_system": dict(self.tally.by_system),
            "situations": len(situations),
            "states_continued": self.tally.continued,
            "faults": dict(self.tally.faults),
            "first_of_each": self.tally.examples,
            "told": dict(self.tally.told),
            "read_processor_s": round(read_s, 1),
            "continue_processor_s": round(time.process_time() - began, 1),
        }

    def control(self) -> str:
        """The first fault that is found where no fsync of a folder had been asked for; nothing where none is found."""
        folders = {
            to for one in self.operations if isinstance(one, Names) and one.is_folder for _, _, to in one.entries
        }
        careless = [one for one in self.operations if not (isinstance(one, Sync) and one.of in folders | {0})]
        other, reader = Sweep(self.folder, careless), Folder(self.folder / "control")
        for state in states(careless, other.promises, 0, 0):
            reader.set(state.tree)
            other.situation(reader.root, state)
            if other.tally.faults:
                break
        return next(iter(other.tally.faults), "")

    # -- reading -----------------------------------------------------------------------------------------------------

    def situation(self, root: Path, state: State) -> tuple[Any, ...]:
        """What the product finds in a state, as far as it makes a difference; faults are counted."""
        promise, store = self.promises[state.operations - 1], Store(root / "results")
        found: list[Any] = [state.system, promise.calls]
        for run in self.truth:
            least = dict(promise.runs).get(run, 0)
            done = self._record(store, run, state)
            resumed, exists = self._checkpoint(store, run, state)
            if least == DONE and not done:
                self.tally.fault("a finished run is lost", state, run)
            elif not done and resumed < least:
                self.tally.fault("a checkpoint is lost", state, f"{run} goes on from {resumed}, not {least}")
            found += [done, resumed, exists, self._lease(store, run)]
        try:
            found.append(store.read_manifest("power") is not None)
        except UserError as error:
            self.tally.fault("a manifest is half-true", state, str(error))
        caches = list(verify_caches(root / "data" / "imagefolder"))
        if any(cache.state != "intact" for cache in caches):
            self.tally.fault("an image store is half-true", state, str(caches))
        if promise.calls > 0 and not caches:
            self.tally.fault("prepared data are lost", state)
        found.append(len(caches))
        return tuple(found)

    def _record(self, store: Store, run: str, state: State) -> bool:
        loaded = store.load(run)
        if isinstance(loaded, Broken):
            self.tally.fault("a record is half-true", state, loaded.reason)
        is_done = store.state(run, None) == "done"
        if isinstance(loaded, Record) and not is_done:
            self.tally.fault("a record lacks a file that it names", state, run)
        return is_done

    def _checkpoint(self, store: Store, run: str, state: State) -> tuple[int, bool]:
        """Number of the checkpoint that the run goes on from, 0 for none, and whether there is any folder for them."""
        folder = store.path(run) / CHECKPOINT
        for file in sorted(folder.glob("[0-9]*.json"), reverse=True):
            try:
                fingerprint = _read_marker(file.read_text(encoding="utf-8")).fingerprint
            except ValueError as error:
                self.tally.fault("a checkpoint's marker is half-true", state, str(error))
                continue
            files = Checkpoints(folder, fingerprint)
            loaded = files.load()
            return (0 if loaded is None or files._last is None else files._last.number), True
        return 0, folder.is_dir()

    def _lease(self, store: Store, run: str) -> str:
        held = lease.newest(store.path(run))
        return "none" if held is None else "torn" if not held.token else "free" if held.is_released else "held"

    # -- going on ----------------------------------------------------------------------------------------------------

    def go_on(self, state: State) -> None:
        """Call the commands again, from the one that was under way or that of the runs; compare what comes of it."""
        self.tally.continued += 1
        root, promise = self.folder / f"on-{self.tally.continued}", self.promises[state.operations - 1]
        Folder(root).set(state.tree)
        for file in root.glob("results/*/claim.*"):  # the machine was down for hours
            then = time.time() - HOURS_S
            os.utime(file, (then, then))
        before = Path.cwd()
        os.chdir(root)
        try:
            with after_the_boot():
                for number, words in enumerate(self.calls):
                    # Also of runs that are done, what they left is removed by their own command. A report takes long, and changes
                    # nothing that a later command reads.
                    if number < min(promise.calls, RESUMED) or (words[0] == "report" and number != promise.calls):
                        continue
                    status, said = life.quietly(words)
                    if status:
                        self.tally.told[said.strip().splitlines()[-1] if said.strip() else f"status {status}"] += 1
                        self.tally.fault(
                            "a command did not end well", state, f"{words[0]}: {status}: {said.strip()[-300:]}"
                        )
                        break
            found = outcome(root)
            for run in self.truth.keys() | found.keys():
                if (wrong := differing(self.truth.get(run), found.get(run))) is not None:
                    self.tally.fault(f"after going on, {wrong} of a run differs", state, f"{root.name} {run}")
                left = [file.name for name in LITTER for file in (root / "results" / run).glob(name)]
                if left:
                    self.tally.fault("after going on, files are left over", state, f"{run}: {', '.join(left)}")
        finally:
            os.chdir(before)
        shutil.rmtree(root)


def chosen(situations: list[list[State]], count: int, draw: random.Random) -> Iterator[State]:
    """``count`` states: in turn one of each situation, drawn without return."""
    order = [draw.sample(each, len(each)) for each in situations]
    draw.shuffle(order)
    while count and order:
        for each in order[:count]:
            yield each.pop()
        count -= min(count, len(order))
        order = [each for each in order if each]


@contextmanager
def after_the_boot() -> Iterator[None]:
    """The machine was started again, so that the leases are of another boot. The time to wait for their holders is cut short."""
    monitor = partial(lease.LeaseMonitor, beat_s=0.005, dead_s=0.02)
    with (
        mock.patch.object(lease, "this_machine", lambda: "f" * 16),
        mock.patch.object(scheduler, "LeaseMonitor", monitor),
        mock.patch.object(scheduler, "LOOK_S", (0.01, 0.02)),
    ):
        yield


def outcome(root: Path) -> dict[str, dict[str, Any]]:
    """By run id, all of a finished run that must come out the same."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted((root / "results").glob("*/result.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        kept = (
            "spec",
            "accuracy_matrix",
            "test_counts",
            "predictions_sha256",
            "class_order",
            "split_hash",
            "flags",
            "model",
        )
        counts = ("learnable_parameters", "backbone_parameters", "train_images", "test_images")
        found[file.parent.name] = {
            **{name: record.get(name) for name in kept},
            "costs": {name: record["costs"][name] for name in counts},
            "predictions": (file.parent / "predictions.npz").read_bytes(),
            "kept model": hashlib.sha256((file.parent / "model.safetensors").read_bytes()).hexdigest(),
            "losses": losses(file.parent / "events.jsonl"),
        }
    return found


def losses(log: Path) -> list[Any]:
    """Of each epoch, as the log has them."""
    found = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        found += [(event["task"], event["epoch"], event["loss"])] if event.get("event") == "epoch" else []
    return found


def differing(wanted: dict[str, Any] | None, found: dict[str, Any] | None) -> str | None:
    """The first part that differs, or None."""
    if wanted is None or found is None:
        return "the presence"
    return next((part for part in wanted if wanted[part] != found[part]), None)


def require_same(root: Path, operations: Sequence[Operation]) -> None:
    """Raise RuntimeError where the operations do not give the folder that the life has left, byte for byte."""
    disk = Disk()
    for operation in operations:
        disk.do(operation)
    for path in root.rglob("*"):
        relative = PurePosixPath(path.relative_to(root))
        number = disk.find(relative)
        if number is None or (path.is_file() and bytes(disk.files.get(number, b"")) != path.read_bytes()):
            raise RuntimeError(f"the recorded operations do not give {relative}: a call is missing from the record")


def _rounded(count: int) -> str:
    return str(count) if count < 10**9 else f"about 10^{len(str(count)) - 1}"
