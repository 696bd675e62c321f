"""The command ``bench store``: what commands need on a made-up results folder of very many finished runs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.errors import UserError

if TYPE_CHECKING:
    from smope_bench.harness.timing.records import Row

SUITE = "table1"
START = (
    "import atexit, sys; from pathlib import Path; from smope_bench.harness.hardware.memory import peak_mb;"
    "peak = Path(sys.argv.pop(1)); atexit.register(lambda: peak.write_text(str(peak_mb())));"
    "from smope_bench.run_all import main; sys.exit(main())"
)
"""A command that writes its peak memory to a file: the system's ``ru_maxrss`` of a child begins with the memory of its parent."""

Runs = Annotated[int, typer.Option("--runs", min=1, help="Runs of the made-up folder, rounded up to whole seeds.")]
At = Annotated[
    Path | None, typer.Option("--at", help="Folder in which the made-up one is kept and found again; none keeps none.")
]


@dataclass(frozen=True)
class Need:
    """What one call of a command needed: wall and CPU seconds, and peak memory in MiB."""

    seconds: float
    cpu_s: float
    peak_mb: float


@command("bench store")
def bench_store(runs: Runs = 100_000, at: At = None, as_json: opt.AsJson = False) -> None:
    """Time plan, status, run and report on a folder of very many finished runs, without an index of it and with one."""
    from smope_bench.harness.timing.display import print_measures

    with _folder(at) as folder:
        count, commands = make_planned(folder, runs)
        rows = [row for name, words in commands.items() for row in _measured(name, words, folder / "results")]
    if as_json:
        print(json.dumps({"runs": count, "rows": [row.model_dump(mode="json") for row in rows]}, indent=2))
        return
    print_measures(rows)
    print(f"{count} finished runs of suite {SUITE}")


def make_planned(folder: Path, runs: int) -> tuple[int, dict[str, list[str]]]:
    """Make a results folder of at least ``runs`` finished runs in ``folder``, unless one of this size is there.

    Returns their number, and the commands that are timed.
    """
    from smope_bench.harness.execution.launcher import plan_suites
    from smope_bench.harness.planning.selection import Selection
    from smope_bench.harness.planning.settings import Seeds
    from smope_bench.harness.planning.summary.manifest import manifest
    from smope_bench.harness.records.store import Store
    from smope_bench.harness.run_options import RunOptions
    from smope_bench.reports.timing.synthetic_results import finish_all

    options = RunOptions(folder / "results", folder / "data", device="cpu")
    cells = len(plan_suites([SUITE], Selection(tiny=True, seeds=(Seeds(0, 0),)), options)[0])
    last = -(-runs // cells) - 1
    planned, registries = plan_suites(
        [SUITE], Selection(tiny=True, seeds=tuple(Seeds(seed, seed) for seed in range(last + 1))), options
    )
    store = Store(options.results)
    if not store.path(planned[-1].run_id).is_dir():
        finish_all(store, planned)
        store.write_manifest(SUITE, manifest(SUITE, planned, registries))
    places = ["--results", str(options.results)]
    chosen = [SUITE, "--tiny", "--seeds", f"0-{last}", "--data", str(options.data), *places]
    return len(planned), {
        "run, nothing to do": ["run", *chosen, "--device", "cpu"],
        "plan": ["plan", *chosen],
        "status": ["status", *places],
        "report --tables-only": ["report", SUITE, "--tables-only", "--out", str(folder / "report"), *places],
    }


def _measured(name: str, words: Sequence[str], results: Path) -> list[Row]:
    from smope_bench.harness.timing.records import make_row, spread

    rows = []
    for said in ("no index", "index"):
        if said == "no index":
            for file in results.glob(".index-*"):
                file.unlink()
        need = timed_call(words)
        measures = {"seconds": need.seconds, "cpu_s": need.cpu_s, "peak_mb": need.peak_mb}
        rows.append(make_row(f"{name}, {said}", **{key: spread([value]) for key, value in measures.items()}))
    return rows


def timed_call(words: Sequence[str]) -> Need:
    """Call a command in a process of its own. Raises UserError where it fails."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said, tempfile.NamedTemporaryFile("r") as peak:
        process = subprocess.Popen([sys.executable, "-c", START, peak.name, *words], stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode:
            said.seek(0)
            raise UserError(f"{' '.join(words)!r} failed: {said.read()[-300:].decode(errors='replace')}")
        return Need(seconds, used.ru_utime + used.ru_stime, float(peak.read()))


@contextlib.contextmanager
def _folder(at: Path | None) -> Iterator[Path]:
    if at is not None:
        yield at
        return
    with tempfile.TemporaryDirectory(prefix="bench-store-") as folder:
        yield Path(folder)
