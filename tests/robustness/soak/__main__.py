"""``python tests/robustness/soak --disturbances 1000 --seed 0``: a tiny sweep on two launchers that nothing leaves in peace.

After each disturbance all promises are checked. It prints its figures as JSON; the exit status is 1 where a promise was broken.
Runs on Linux; as root it gives the sweep a small disk of its own, which can be filled. The seed decides what is done, in which
order and for how long; what the processes are doing at that moment is the machine's affair.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import torch
from disturbances import KINDS, upgrade  # pyright: ignore[reportMissingImports]
from disturbed import Disturbed, Figures  # pyright: ignore[reportMissingImports]
from kill_sweep import Sweep  # pyright: ignore[reportMissingImports]
from mounts import CannotMount, tmpfs  # pyright: ignore[reportMissingImports]
from world import Code  # pyright: ignore[reportMissingImports]

METHODS = ("ncm", "ridge", "linear_probe")
TINY = ("--limit", "5", "--checkpoint-every", "0")
DISK_MB = 48
PR_SET_CHILD_SUBREAPER = 36
UPGRADED_WHEN_DONE = 0.3


def own_disk(place: Path) -> bool:
    """Mount a small disk there, which only this process and its children see and which ends with them; False where not allowed."""
    try:
        tmpfs(place, DISK_MB)
    except CannotMount:
        return False
    return True


def soak(
    folder: Path, disturbances: int, seed: int, seeds: str, seconds: float, names: Sequence[str]
) -> dict[str, Any]:
    """The figures of sweeps that were disturbed so many times, or until so many seconds have passed."""
    started = time.monotonic()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    disk, figures, draw = folder / "disk", Figures(), random.Random(seed)
    has_disk = own_disk(disk)
    extra = (*TINY, "--seeds", seeds, "--data", str(disk / "data"))

    def new_sweep(name: str) -> Sweep:
        return Sweep(disk / name, METHODS, extra, forked=True)

    calm = new_sweep("undisturbed")
    if calm.do_here("--executor", "serial") != 0:  # forks of this process begin with what it imports
        raise RuntimeError("the undisturbed sweep failed")
    truth = {run: {part: bits[part] for part in bits if part != "epochs"} for run, bits in calm.outcome().items()}
    code, noticed = Code(folder / "code"), list[str]()

    def is_over() -> bool:
        return figures.disturbances.total() >= disturbances or time.monotonic() - started > seconds

    while not is_over() and not any(figures.broken.values()):
        figures.rounds += 1
        sweep = new_sweep(f"round-{figures.rounds}")
        with Disturbed(sweep, disk, folder, truth, code, figures, f"{seed} {figures.rounds}") as disturbed:
            while not is_over() and not any(figures.broken.values()):
                disturbed.wait_for_changes()
                kinds = [kind for kind in KINDS if kind.__name__ in names]
                if disturbed.tend():
                    if draw.random() > UPGRADED_WHEN_DONE:
                        break
                    kinds = [upgrade]
                kind = draw.choices(kinds, [KINDS[one] for one in kinds])[0]
                print(f"{figures.disturbances.total()} {kind.__name__}", file=sys.stderr, flush=True)
                if kind(disturbed):
                    figures.disturbances[kind.__name__] += 1
                disturbed.check()
            disturbed.complete()
            if is_over() and not any(figures.broken.values()):
                noticed = disturbed.control()
        if any(figures.broken.values()):
            shutil.copytree(sweep.results.parent, folder / "broken", dirs_exist_ok=True)
        shutil.rmtree(sweep.results.parent)
    return {
        "disturbances": figures.disturbances.total(),
        "of each kind": dict(figures.disturbances.most_common()),
        "calls": figures.invocations,
        "exit statuses": dict(sorted(figures.statuses.items())),
        "sweeps": figures.rounds,
        "runs a sweep": len(truth),
        "checks": figures.checks,
        "finished runs": figures.finished,
        "of them made stale": figures.stale,
        "disk": f"tmpfs of {DISK_MB} MiB" if has_disk else "none of its own: never filled",
        **figures.broken,
        "breaches noticed": noticed,
        "seconds": round(time.monotonic() - started),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tests/robustness/soak", description=__doc__)
    parser.add_argument("--disturbances", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", default="0,1", help="seeds of the sweep, for more or fewer runs")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no new disturbance after so many")
    names = [kind.__name__ for kind in KINDS]
    parser.add_argument("--kinds", default=",".join(names), help="disturbances that are drawn, separated by commas")
    parser.add_argument("--folder", type=Path, help="where all is kept; a temporary folder unless given")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        figures = soak(folder, asked.disturbances, asked.seed, asked.seeds, asked.seconds, asked.kinds.split(","))
        if figures["disk"].startswith("tmpfs"):
            subprocess.run(["umount", "--lazy", str(folder / "disk")], check=False)
    print(json.dumps(figures, indent=1))
    found = ("lost", "duplicated", "different", "invalid", "unsaid", "litter", "processes")
    return 1 if any(figures[name] for name in found) else 0


if __name__ == "__main__":
    sys.exit(main())
