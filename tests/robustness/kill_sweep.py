"""Kills a tiny sweep again and again, runs it to completion, and compares it with one that nobody disturbed.

From the project's folder: ``python tests/robustness/kill_sweep.py --kills 100``. It prints its figures as JSON; the exit status
is 1 where a run was lost, done twice, differs in a bit, or left files that only an unfinished run needs. ``--forked`` starts
launchers and workers as forks of this process, which saves the imports; starting Python is then not disturbed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from watch import Watch  # pyright: ignore[reportMissingImports]  # beside this file, which is run as a script

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

from forked import Forked  # noqa: E402  # pyright: ignore[reportMissingImports]

from smope_bench import run_all  # noqa: E402
from smope_bench.harness.records.event_log import events_in, lines_of  # noqa: E402

Launcher = subprocess.Popen[bytes] | Forked
METHODS = ("ncm", "linear_probe", "l2p++", "smope", "hide_prompt", "vq_prompt", "joint")
"""Closed form, one phase, a dense start, task inference before prompts, several phases, and all tasks at once."""
SETTINGS = ("benchmark.test_fraction=0.8", "schedule.batch_size=16")
CHECKPOINT_MINUTES = "0.003"
"""Every few steps: most kills hit a run inside a task."""
LONGEST_S = 600.0
TIDY_S = 10.0
"""How long a worker that outlived its launcher may clean up after the record that the last call waited for."""
LITTER = ("checkpoint", "progress.json", "cancel", "claim.*", ".*")
VICTIMS = ("group", "launcher", "worker", "worker")
"""Everything at once, the launcher alone with its workers orphaned, or a worker alone, which leaves the launcher going."""


@dataclass
class Tally:
    """What was done to the sweep, and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    invocations: int = 0
    rounds: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    litter: list[str] = field(default_factory=list)

    @property
    def killed(self) -> int:
        """All kills so far."""
        return sum(self.kills.values())


class Sweep:
    """The command that is disturbed, with its own results and data folder; ``extra`` options apply to every call.

    ``start_s``: until about when it is starting.
    """

    def __init__(self, folder: Path, methods: Sequence[str], extra: Sequence[str], *, forked: bool = False) -> None:
        self.results, self.data, self._forked = folder / "results", folder / "data", forked
        self.start_s = 1.0 if forked else 5.0
        self._log = folder / "log.txt"
        folder.mkdir(parents=True, exist_ok=True)
        chosen = [part for text in SETTINGS for part in ("--set", text)]
        places = ["--results", str(self.results), "--data", str(self.data)]
        self._command = ["run", "ci", "--methods", ",".join(methods)]
        self._command += [
            *chosen,
            "--checkpoint-every",
            CHECKPOINT_MINUTES,
            "--workers",
            "2",
            "--device",
            "cpu",
            *places,
            *extra,
        ]

    def do_here(self, *more: str) -> int:
        """Do the command in this process, with ``more`` options; its exit status. What it prints is in the log."""
        with (
            self._log.open("a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            return run_all.main([*self._command, *more])

    def start(self, *more: str, before: Callable[[], object] = lambda: None, log: Path | None = None) -> Launcher:
        """Start the command in a process group of its own, with ``more`` options. A fork does ``before`` first.

        ``log``: where it prints to, if not to the sweep's own log.
        """

        def program() -> int:  # pragma: no cover
            before()
            return run_all.main([*self._command, *more])

        said = log or self._log
        if self._forked:
            return Forked(program, said, said, self._log.parent)
        command, environment = (
            [sys.executable, str(ROOT / "run_all.py"), *self._command, *more],
            os.environ | {"OMP_NUM_THREADS": "1"},
        )
        with said.open("ab") as stream:
            return subprocess.Popen(
                command, stdout=stream, stderr=stream, env=environment, start_new_session=True, cwd=self._log.parent
            )

    def finish(self, launcher: Launcher) -> int:
        """Wait for the end of a call; a call that hangs is an error with the end of its log."""
        try:
            return launcher.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            os.killpg(launcher.pid, signal.SIGKILL)
            raise RuntimeError(f"the sweep hangs: {self.said()}") from None

    def said(self) -> str:
        """The end of the log."""
        return self._log.read_text(errors="replace")[-2000:] if self._log.is_file() else ""

    def outcome(self) -> dict[str, dict[str, Any]]:
        """By run id, all of a finished run that must come out the same however often it was interrupted."""
        return {file.parent.name: bits(file.parent) for file in sorted(self.results.glob("*/result.json"))}


def bits(folder: Path) -> dict[str, Any]:
    """All of a finished run that must come out the same however often it was interrupted."""
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    events = events_in(lines_of(folder / "events.jsonl"))
    kept = ("spec", "accuracy_matrix", "test_counts", "predictions_sha256", "class_order", "split_hash", "flags")
    counts = ("learnable_parameters", "backbone_parameters", "train_images", "test_images")
    return {
        **{name: record[name] for name in kept},
        "costs": {name: record["costs"][name] for name in counts},
        "predictions": (folder / "predictions.npz").read_bytes().hex(),
        "epochs": [{key: value for key, value in e.items() if key != "t"} for e in events if e["event"] == "epoch"],
    }


def kill(launcher: Launcher, draw: random.Random) -> str | None:
    """SIGKILL to the group, the launcher or one worker; None where there is nothing left to kill."""
    victim = draw.choice(VICTIMS)
    try:
        children = psutil.Process(launcher.pid).children()
        workers = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
        if victim == "worker" and workers:
            draw.choice(workers).kill()
            return victim
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    if launcher.poll() is not None:
        return None
    if victim == "group":
        with contextlib.suppress(ProcessLookupError):  # a fork that has not begun its own group yet
            os.killpg(launcher.pid, signal.SIGKILL)
    else:
        victim = "launcher"
    launcher.kill()
    launcher.wait(LONGEST_S)
    return victim


def disturb(sweep: Sweep, watch: Watch, kills: int, tally: Tally, draw: random.Random) -> None:
    """Kill and call again until the sweep is complete or so many kills were made; then let it complete."""
    while True:
        launcher = sweep.start()
        tally.invocations += 1
        while tally.killed < kills and launcher.poll() is None:
            if draw.random() < 0.8:  # while runs are being done: soon after one of the next changes on disk
                watch.wait_for(
                    watch.changes + draw.randint(1, 60), 60, lambda process=launcher: process.poll() is not None
                )
                time.sleep(draw.random() * draw.choice((0.0, 0.02, 0.3)))
            else:  # at any time, the start included
                time.sleep(draw.uniform(0, sweep.start_s))
            victim = kill(launcher, draw)
            tally.kills.update([victim] if victim else [])
        status = sweep.finish(launcher)
        if status == 0:
            return
        if status > 1:
            raise RuntimeError(f"exit status {status}: {sweep.said()}")


def one_round(sweep: Sweep, kills: int, tally: Tally, truth: Any) -> None:
    """A sweep in a new folder, disturbed and completed, held against the undisturbed one."""
    tally.rounds += 1
    places = [sweep.results / run_id for run_id in truth]
    for place in places:  # watched from before the first write, so that no record is published unseen
        place.mkdir(parents=True)
    with Watch(places) as watch:
        disturb(sweep, watch, kills, tally, random.Random(f"{sweep.results.parent.name} {kills}"))
    hold_against(truth, sweep, watch, tally)
    tally.litter += litter(places)


def hold_against(truth: Any, sweep: Sweep, watch: Watch, tally: Tally) -> None:
    """What the sweep lost, did twice or did otherwise than the undisturbed one, whose outcome is ``truth``."""
    if watch.overflowed:
        raise RuntimeError("the kernel dropped notices; the number of records published is not known")
    found, published = sweep.outcome(), watch.times("result.json")
    tally.lost += sorted(truth.keys() - found.keys())
    tally.duplicated += [run for run in truth if published.get(run, 0) > 1]
    for run in sorted(truth.keys() & found.keys()):
        parts = [part for part in truth[run] if truth[run][part] != found[run][part]]
        tally.different += [f"{run} ({truth[run]['spec']['method']['name']}): {part}" for part in parts]


def litter(places: Sequence[Path]) -> list[str]:
    """What is left in the folders of runs that are all done, and should not be."""
    end = time.monotonic() + TIDY_S
    while left := sorted(
        f"{file.parent.name}/{file.name}" for place in places for name in LITTER for file in place.glob(name)
    ):
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return left


def kill_sweep(new_sweep: Callable[[str], Sweep], kills: int) -> dict[str, Any]:
    """The figures of a sweep that was killed ``kills`` times; a round that completes before is followed by another."""
    started = time.monotonic()
    calm = new_sweep("undisturbed")
    if calm.finish(calm.start()) != 0:
        raise RuntimeError(f"the undisturbed sweep failed: {calm.said()}")
    undisturbed_s, truth, tally = time.monotonic() - started, calm.outcome(), Tally()
    while tally.killed < kills:
        one_round(new_sweep(f"round-{tally.rounds}"), kills, tally, truth)
    return {
        "kills": tally.killed,
        "victims": dict(tally.kills),
        "invocations": tally.invocations,
        "rounds": tally.rounds,
        "runs_a_round": len(truth),
        "lost": tally.lost,
        "duplicated": tally.duplicated,
        "different": tally.different,
        "left_over": tally.litter,
        "undisturbed_s": round(undisturbed_s, 1),
        "total_s": round(time.monotonic() - started, 1),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--methods", default=",".join(METHODS), help="names, separated by commas")
    parser.add_argument("--folder", type=Path, help="where the sweeps are kept; a temporary folder unless given")
    parser.add_argument("--forked", action="store_true", help="fork launchers and workers from this process")
    parser.add_argument("extra", nargs="*", help="further options of the command 'run', after --")
    asked = parser.parse_args()
    if asked.forked:
        importlib.import_module("timm")  # with torch
    with tempfile.TemporaryDirectory() as temporary:
        folder, methods = (asked.folder or Path(temporary)).resolve(), asked.methods.split(",")
        figures = kill_sweep(lambda name: Sweep(folder / name, methods, asked.extra, forked=asked.forked), asked.kills)
    print(json.dumps(figures, indent=1))
    return 1 if any(figures[name] for name in ("lost", "duplicated", "different", "left_over")) else 0


if __name__ == "__main__":
    sys.exit(main())
