"""A sweep on which two launchers work while it is disturbed, and what must be true of it after each disturbance."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
from kill_sweep import (  # pyright: ignore[reportMissingImports]
    LONGEST_S,
    Launcher,
    Sweep,
    Tally,
    bits,
    hold_against,
    litter,
)  # pyright: ignore[reportMissingImports]
from watch import Watch  # pyright: ignore[reportMissingImports]
from world import Clock, Code, command, processes, quicken, reap  # pyright: ignore[reportMissingImports]

from smope_bench import run_all
from smope_bench.harness import provenance
from smope_bench.harness.execution import lease, lease_files
from smope_bench.harness.records.atomic_write import write_json_atomically
from smope_bench.harness.records.record import Record, with_checksum
from smope_bench.harness.records.store import Store

OF_SIGNALS = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit statuses of a call that was asked to end."""
OF_AN_ORPHAN = "EOFError: Ran out of input"
"""What Python's multiprocessing prints in a new worker whose launcher was killed before it had sent it anything."""
CALMING_CALLS = 4
TIDY_S = 20.0


@dataclass
class Figures(Tally):
    """What was done, and what was found; see ``broken``."""

    disturbances: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    checks: int = 0
    finished: int = 0
    stale: int = 0
    invalid: list[str] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)

    @property
    def broken(self) -> dict[str, list[str]]:
        """Each promise that was broken, and where; empty lists if all held."""
        names = ("lost", "duplicated", "different", "invalid", "unsaid", "litter", "processes")
        return {name: getattr(self, name) for name in names}


@dataclass
class Slot:
    """One of the launchers: its process, and where it writes what it prints."""

    number: int
    log: Path
    launcher: Launcher
    is_done: bool = False
    saw_another_folder: bool = False
    """Whether it may have finished runs in a folder that took the place of the real one for a while."""


class Disturbed:
    """One results folder in which two launchers work. A context manager, at whose end no process is left.

    ``truth``: the outcome of the undisturbed sweep by run id. ``two_machines``: the second launcher takes itself for another
    machine's, so that a lease of one that is dead is judged by its silence alone.
    """

    def __init__(
        self, sweep: Sweep, disk: Path, folder: Path, truth: dict[str, Any], code: Code, figures: Figures, seed: str
    ) -> None:
        self._sweep, self.results, self.disk, self.folder, self._truth = sweep, sweep.results, disk, folder, truth
        self.draw, self.clock, self.figures, self._code = random.Random(seed), Clock(), figures, code
        self.has_own_disk, self._two_machines = os.path.ismount(disk), self.draw.random() < 0.5
        self._known: dict[str, tuple[str, str]] = {}  # by run: hash of its finished files, and the code that made it
        self._stale: set[str] = set()
        self._may_hide = (
            False  # whether a launcher may have finished runs in a folder that took the place of the real one
        )
        self._places = [self.results / run_id for run_id in truth]
        for place in self._places:  # watched from before the first write
            place.mkdir(parents=True)
        self._watch = Watch(self._places).__enter__()
        self._slots: list[Slot] = []

    def __enter__(self) -> Disturbed:
        self._slots = [self._start(number) for number in range(2)]
        return self

    def __exit__(self, *error: object) -> None:
        self.kill_all()
        self._watch.__exit__(None, None, None)

    @property
    def longest_stop_s(self) -> float:
        """Records of other code are replaced, not linked: a stopped process must be back before it counts as dead."""
        return 1.0 if self._stale else 6.0

    def any_slot(self) -> Slot | None:
        """A launcher that runs."""
        running = self._running()
        return self.draw.choice(running) if running else None

    def processes_of(self, slot: Slot) -> list[psutil.Process]:
        """A launcher and its workers; none if it has just ended."""
        try:
            launcher = psutil.Process(slot.launcher.pid)
            return [launcher, *launcher.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def pause(self, longest_s: float) -> None:
        """Let the launchers go on for a while, mostly a short one."""
        time.sleep(longest_s * self.draw.random() ** 3)

    def wait_for_changes(self) -> None:
        """Until some files of runs have changed, or all launchers have ended."""
        wanted = self._watch.changes + self.draw.choice((1, 10, 100, 300))
        self._watch.wait_for(wanted, self.draw.uniform(0.2, 3.0), lambda: not self._running())
        time.sleep(self.draw.random() * self.draw.choice((0.0, 0.02, 0.3)))

    def tend(self) -> bool:
        """Look at calls that have ended and make those again that have not done everything; whether all is done."""
        for slot in self._slots:
            if slot.launcher.poll() is not None and not slot.is_done:
                self._judge(slot)
                if not slot.is_done:
                    self._slots[slot.number] = self._start(slot.number)
        return all(slot.is_done for slot in self._slots)

    def call_anew(self, before: Callable[[], None]) -> bool:
        """End a call and make it again, with ``before`` as the first that its process does."""
        slot = self.any_slot()
        if slot is None:
            return False
        os.kill(slot.launcher.pid, signal.SIGTERM)
        self.end(slot)
        self._slots[slot.number] = self._start(slot.number, before)
        return True

    def end(self, slot: Slot) -> None:
        """Wait for the end of a call that was asked to end."""
        slot.launcher.wait(LONGEST_S)
        self._judge(slot)

    def end_all(self) -> None:
        """Ask all calls to end and wait for it; no process of theirs is left."""
        for slot in self._slots:
            if slot.launcher.poll() is None:
                os.kill(slot.launcher.pid, signal.SIGTERM)
        for slot in self._slots:
            self.end(slot)
        self._await_processes()

    def kill_all(self) -> None:
        """SIGKILL to everything that was started."""
        for process in processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for slot in self._slots:
            slot.launcher.wait(LONGEST_S)
        reap({slot.launcher.pid for slot in self._slots})

    def new_code(self, part: Literal["docstring", "code"]) -> None:
        """Edit the code. Where it computes otherwise finished runs must be shown as stale (or dead, if killed when they were
        being done anew), else as done."""
        self.check()
        if self._code.edit(part) != (part == "code"):
            self.figures.invalid.append(f"an edit of {part} changed the fingerprint, or one of code did not")
        self._hold({run: self._truth[run] for run in self._known})
        if part == "code":
            self.figures.stale += len(self._known)
            self._stale = set(self._known)
        for run, state in self.shown().items():
            wanted = {"stale", "dead"} if run in self._stale else {"done"}
            wanted |= {"running"}  # a lease whose holder was killed on another machine, or before it wrote who it is
            if run in self._known and state not in wanted:
                self.figures.different.append(f"{run} is shown as {state} after an edit of {part}")
        for slot in self._slots:
            slot.is_done = False
        self._slots = [self._start(slot.number) for slot in self._slots]

    def shown(self) -> dict[str, str]:
        """What the command ``status`` shows of each run."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = run_all.main(["status", "ci", "--json", "--results", str(self.results)])
        if status != 0:  # killed before the plan was written
            return dict.fromkeys(self._truth, "new")
        return {view["run_id"]: view["state"] for view in json.loads(out.getvalue())}

    def check(self) -> None:
        """What must be true at any time: finished runs stay as they are, and each new one is whole and has the right bits."""
        self.figures.checks += 1
        fingerprint, store = provenance.code_fingerprint(), Store(self.results)
        for run in self._truth:
            digest = _digest(self.results / run)
            known, made_by = self._known.get(run, ("", ""))
            if digest == known:
                continue
            found = store.load(run)
            if not isinstance(found, Record):
                is_lost = known and found is None
                (self.figures.lost if is_lost else self.figures.invalid).append(f"{run}: {found or store.failure(run)}")
                continue
            if digest != _digest(self.results / run):  # a stale record was replaced meanwhile
                continue
            if (found.fingerprint == made_by and run not in self._stale) or found.fingerprint != fingerprint:
                self.figures.different.append(f"{run}: its files changed, or were made by no code that is in use")
            if damaged := store.damaged_files(found):
                self.figures.invalid.append(f"{run}: {damaged}")
            else:
                made = bits(self.results / run)
                parts = [part for part, value in self._truth[run].items() if value != made[part]]
                self.figures.different += [f"{run}: {part}" for part in parts]
            self._known[run] = digest, found.fingerprint
            self._stale.discard(run)
            self.figures.finished += 1

    def control(self) -> list[str]:
        """The promises whose breach is noticed when finished runs are damaged here, once everything else is over."""
        figures, self.figures, self._slots = self.figures, Figures(), []
        file = next(iter(self._places)) / "result.json"
        data = file.read_bytes()
        file.unlink()
        self.check()  # lost
        file.write_bytes(data[: len(data) // 2])
        self.check()  # invalid
        write_json_atomically(file, with_checksum({**json.loads(data), "seal": None, "timings": {}}))
        self.check()  # different
        self._hold(self._truth)  # published twice
        noticed = [promise for promise, broken in self.figures.broken.items() if broken]
        self.figures = figures
        return noticed

    def complete(self) -> None:
        """After the last disturbance: the same command ends with everything done, and nothing else is left."""
        for _ in range(CALMING_CALLS):
            for slot in self._slots:
                slot.launcher.wait(LONGEST_S)
            if self.tend():
                break
        else:
            self.figures.lost.append(
                f"not done after {CALMING_CALLS} undisturbed calls: {self._slots[0].log.read_text()[-800:]}"
            )
            return
        self._await_processes()
        if litter(self._places):  # of a holder on another machine that died: silent for long enough now
            self._slots = [self._start(number) for number in range(2)]
            for slot in self._slots:
                self.end(slot)
        self.check()
        self._hold(self._truth)
        self.figures.different += [
            f"{run} is shown as {state}" for run, state in self.shown().items() if state != "done"
        ]
        self.figures.litter += litter(self._places)

    def hide(self) -> None:
        """What took the place of the results folder is not seen any more."""
        self.results.rename(self.results.with_name(f"hidden-{time.monotonic_ns()}"))
        for slot in self._slots:
            slot.saw_another_folder = True

    def _running(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.launcher.poll() is None]

    def _hold(self, truth: dict[str, Any]) -> None:
        """Compare finished runs; how often each is published is counted anew from here on."""
        self._watch.__exit__(None, None, None)  # which has then seen everything
        hold_against(truth, self._sweep, self._watch, self.figures)
        self._watch = Watch(self._places).__enter__()

    def _start(self, number: int, before: Callable[[], None] = lambda: None) -> Slot:
        log = self.folder / f"log-{number}.txt"
        log.write_bytes(b"")

        def change() -> None:  # pragma: no cover
            self.clock.install()
            quicken()
            if self._two_machines and number:
                other = hashlib.sha256(b"another machine").hexdigest()[:16]
                lease.this_machine = lease_files.this_machine = lambda: other
            before()

        self.figures.invocations += 1
        workers = ("--workers", str(2 - number))
        return Slot(number, log, self._sweep.start(*workers, before=change, log=log))

    def _judge(self, slot: Slot) -> None:
        """Take down how a call ended: by a signal, or by an exit status that it explains in sentences."""
        if slot.is_done or slot.launcher.returncode is None:
            return
        status, said = slot.launcher.returncode, slot.log.read_text(errors="replace")
        self.figures.statuses[status] += 1
        is_asked = status in OF_SIGNALS
        explained = status <= 0 or is_asked or "error:" in said or "failed:" in said
        is_ours = "Traceback" in said and not (status == -signal.SIGKILL and said.rstrip().endswith(OF_AN_ORPHAN))
        if is_ours or not explained or (status > 2 and not is_asked):
            self.figures.unsaid.append(f"exit status {status}: {said[-1500:]}")
        if status == 0:
            fingerprint, store = provenance.code_fingerprint(), Store(self.results)
            missing = [run for run in self._truth if store.state(run, fingerprint) != "done"]
            slot.is_done = not missing
            if missing and not slot.saw_another_folder:
                self.figures.lost.append(f"exit status 0, and not done: {missing}")

    def _await_processes(self) -> None:
        """Workers that outlived their launcher end by themselves, after the run that they are doing."""
        end = time.monotonic() + TIDY_S
        while True:
            reap({slot.launcher.pid for slot in self._slots})
            left = [process for process in processes() if process.pid not in {s.launcher.pid for s in self._slots}]
            if not left or time.monotonic() > end:
                break
            time.sleep(0.1)
        self.figures.processes += [" ".join(command(process)) for process in left if process.is_running()]


def _digest(folder: Path) -> str:
    """Of a finished run's record and predictions; empty where there is no record."""
    try:
        record = (folder / "result.json").read_bytes()
    except FileNotFoundError:
        return ""
    predictions = folder / "predictions.npz"
    return hashlib.sha256(record + (predictions.read_bytes() if predictions.exists() else b"none")).hexdigest()
