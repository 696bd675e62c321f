"""A tiny sweep on a real Slurm that takes its nodes away, compared with one that nobody disturbed.

From the project's folder, as root, where ``slurm-wlm`` is installed: ``python tests/robustness/slurm_sweep.py``. It starts a
Slurm of two nodes on this machine (arrays of at most 5 jobs) and does the same sweep once for each way of losing a node:
pre-emption that puts jobs back, pre-emption that cancels them, a node that is set to DOWN, and a time limit that is shorter than
a task. It prints its figures as JSON; the exit status is 1 where a run was lost, done twice, or differs in a bit, and 2 where no
Slurm can be started.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(Path(__file__).parent), str(ROOT / "tests/harness/executors")]

from kill_sweep import LONGEST_S, Launcher, Sweep, Tally, hold_against  # noqa: E402  # pyright: ignore[reportMissingImports]
from slurm_cluster import PREEMPTION, NoSlurm, started  # noqa: E402  # pyright: ignore[reportMissingImports]
from watch import Watch  # noqa: E402  # pyright: ignore[reportMissingImports]

METHODS = ("ncm", "linear_probe", "l2p++", "hide_prompt")
NODES = ("n0", "n1")
CALLS = 20
"""So many calls of the command have to be enough."""
SEEN = {"put back": r"Requeuing JobId=", "lost with a node": r"due to failure of node"}
"""What the controller's log says of jobs, for the figures."""


def slurm(*command: str) -> str:
    """Output of one of Slurm's tools."""
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def running(partition: str) -> list[str]:
    """Jobs that run."""
    return slurm(
        "squeue", "--noheader", "--array", "--states=RUNNING", f"--partition={partition}", "--format=%i"
    ).split()


def preempt(draw: random.Random) -> None:
    """A job that needs both nodes, in a partition that goes first."""
    slurm(
        "sbatch",
        "--wait",
        "--partition=first",
        "--nodes=2",
        "--time=1",
        "--output=/dev/null",
        "--chdir=/",
        "--wrap=sleep 2",
    )


def set_down(draw: random.Random) -> None:
    """A node is set to DOWN, and comes back later."""
    node = f"nodename={draw.choice(NODES)}"
    slurm("scontrol", "update", node, "state=down", "reason=test")
    time.sleep(draw.uniform(1, 10))
    slurm("scontrol", "update", node, "state=resume")


@dataclass(frozen=True)
class Part:
    """One way of losing nodes: the options of the sweep, and what is done to it meanwhile."""

    name: str
    partition: str
    disturb: Callable[[random.Random], None] | None = None
    options: Sequence[str] = ("time=30",)
    is_long: bool = False
    """Whether its runs have many epochs."""


PARTS = (
    Part("pre-empted and put back", "requeue", preempt),
    Part("pre-empted and cancelled", "cancel", preempt),
    Part("a node set to DOWN", "requeue", set_down),
    Part("a time limit shorter than a task", "requeue", options=("time=1", "signal_delay_s=20"), is_long=True),
)


def disturbed(sweep: Sweep, part: Part, times: int, tally: Tally) -> None:
    """Call the command until it succeeds, and take nodes away from it so many times."""
    draw = random.Random(part.name)
    for _ in range(CALLS):
        launcher = sweep.start()
        tally.invocations += 1
        while part.disturb is not None and tally.killed < times and launcher.poll() is None:
            if not wait_for_jobs(part.partition, launcher):
                break
            time.sleep(draw.uniform(0, 20))
            if running(part.partition):
                part.disturb(draw)
                tally.kills.update([part.name])
        if sweep.finish(launcher) == 0:
            return
    raise RuntimeError(f"{part.name}: not done after {CALLS} calls: {sweep.said()}")


def wait_for_jobs(partition: str, launcher: Launcher) -> bool:
    """Wait until a job runs; False if the command ends before."""
    end = time.monotonic() + LONGEST_S
    while not running(partition):
        if launcher.poll() is not None:
            return False
        if time.monotonic() > end:
            raise RuntimeError("no job starts")
        time.sleep(0.5)
    return True


def slurm_sweep(folder: Path, parts: Sequence[Part], asked: argparse.Namespace) -> dict[str, Any]:
    """The figures of all parts. Raises NoSlurm."""
    begun, cluster = time.monotonic(), folder / "slurm"
    cluster.mkdir(parents=True)
    tallies, runs, longest = dict[str, Tally](), dict[str, int](), dict[str, float]()
    with started(cluster, PREEMPTION, nodes=2, cpus=1):
        calm: dict[bool, Sweep] = {}
        for part in parts:
            methods = [asked.long_method] if part.is_long else asked.methods.split(",")
            extra = [*(("--set", f"schedule.epochs={asked.epochs}") if part.is_long else ()), *asked.extra]
            if part.is_long not in calm:
                calm[part.is_long] = undisturbed = Sweep(folder / f"undisturbed-{part.is_long}", methods, extra)
                if undisturbed.finish(undisturbed.start()) != 0:
                    raise RuntimeError(f"the undisturbed sweep failed: {undisturbed.said()}")
            truth, tally = calm[part.is_long].outcome(), Tally()
            options = [word for text in (f"partition={part.partition}", *part.options) for word in ("--slurm", text)]
            sweep = Sweep(folder / part.name.replace(" ", "-"), methods, ["--executor", "slurm", *options, *extra])
            places = [sweep.results / run_id for run_id in truth]
            for place in places:
                place.mkdir(parents=True)
            with Watch(places) as watch:
                disturbed(sweep, part, asked.times, tally)
            hold_against(truth, sweep, watch, tally)
            tallies[part.name], runs[part.name] = tally, len(truth)
            longest[part.name] = longest_task_s(calm[part.is_long].results)
            print(part.name, vars(tally), file=sys.stderr, flush=True)
    log = (cluster / "slurmctld.log").read_text(errors="replace")
    return {
        "runs": runs,
        "disturbances": {name: tally.killed for name, tally in tallies.items()},
        "calls": {name: tally.invocations for name, tally in tallies.items()},
        "jobs": {what: len(re.findall(pattern, log)) for what, pattern in SEEN.items()},
        "longest_task_s": longest,
        "lost": [run for tally in tallies.values() for run in tally.lost],
        "duplicated": [run for tally in tallies.values() for run in tally.duplicated],
        "different": [run for tally in tallies.values() for run in tally.different],
        "total_s": round(time.monotonic() - begun, 1),
    }


def longest_task_s(results: Path) -> float:
    """Seconds that the longest task of the undisturbed sweep took to train."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in results.glob("*/result.json")]
    return round(max(task["train_s"] for record in records for task in record["timings"]["tasks"]), 1)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=4, help="how often nodes are taken away, in each part")
    parser.add_argument("--methods", default=",".join(METHODS), help="names, separated by commas")
    parser.add_argument("--long-method", default="l2p++", help="of the runs that are longer than the time limit")
    parser.add_argument("--epochs", type=int, default=60, help="of those runs: a task must take more than a minute")
    parser.add_argument(
        "--parts", default="", help="words of the names of the parts to do, separated by commas; all by default"
    )
    parser.add_argument("--folder", type=Path, help="where the sweeps are kept; a temporary folder unless given")
    parser.add_argument("extra", nargs="*", help="further options of the command 'run', after --")
    asked = parser.parse_args()
    parts = [part for part in PARTS if any(word in part.name for word in asked.parts.split(","))]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.folder or Path(temporary)).resolve()
        try:
            figures = slurm_sweep(folder, parts, asked)
        except NoSlurm as reason:
            print(f"error: {reason}", file=sys.stderr)
            return 2
    print(json.dumps(figures, indent=1))
    return 1 if any(figures[name] for name in ("lost", "duplicated", "different")) else 0


if __name__ == "__main__":
    sys.exit(main())
