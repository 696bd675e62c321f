"""The options of the command line: names, types and help texts. A contract with users: it grows, nothing is renamed."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Kind(StrEnum):
    """What can be listed."""

    methods = "methods"
    benchmarks = "benchmarks"
    backbones = "backbones"
    suites = "suites"


class DeviceName(StrEnum):
    """Where runs compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class PrecisionName(StrEnum):
    """Number format of training."""

    fp32 = "fp32"
    bf16 = "bf16"


class ExecutorName(StrEnum):
    """Where runs are done."""

    auto = "auto"
    serial = "serial"
    local = "local"
    ray = "ray"
    slurm = "slurm"


WHAT, WHERE, HOW = "What to run", "Where things are", "How to run"

KindToList = Annotated[Kind, typer.Argument(help="What to list.")]
Suites = Annotated[list[str], typer.Argument(metavar="SUITE...", help="Suites; 'list suites' shows them.")]
SuitesFound = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SUITE...]", help="Suites; all that the results folder holds, unless given."),
]
CheckTarget = Annotated[str, typer.Argument(metavar="METHOD|FILE.py", help="A method by name, or a plugin file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

Tiny = Annotated[
    bool,
    typer.Option("--tiny", help="Use the data and weights that come with the installation.", rich_help_panel=WHAT),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--methods", metavar="NAME,...", help="These methods only, or others than the suite's.", rich_help_panel=WHAT
    ),
]
Benchmarks = Annotated[
    list[str] | None,
    typer.Option(
        "--benchmarks", metavar="NAME,...", help="These benchmarks instead of the suite's.", rich_help_panel=WHAT
    ),
]
Seeds = Annotated[
    list[str] | None,
    typer.Option(
        "--seeds",
        metavar="0,1|0-4|ORDER:TRAIN",
        help="Seeds of class order and training; one number is both.",
        rich_help_panel=WHAT,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting: FIELD, METHOD.FIELD, schedule.FIELD or benchmark.FIELD. Repeatable.",
        rich_help_panel=WHAT,
    ),
]
Precision = Annotated[
    PrecisionName, typer.Option("--precision", help="Number format of training.", rich_help_panel=WHAT)
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A file with methods, benchmarks, metrics or figures. Repeatable.",
        rich_help_panel=WHAT,
    ),
]
Results = Annotated[
    Path, typer.Option("--results", metavar="DIR", help="Where records are kept.", rich_help_panel=WHERE)
]
Data = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Where prepared images are kept.", rich_help_panel=WHERE)
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the page is written.", rich_help_panel=WHERE)]
Against = Annotated[
    Path | None,
    typer.Option(
        "--against", metavar="DIR", help="Also show what moved from another results folder.", rich_help_panel=WHAT
    ),
]
Mixed = Annotated[
    bool,
    typer.Option(
        "--mixed", help="Report records of several versions of the code together, and say so.", rich_help_panel=WHAT
    ),
]
CostOut = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE.md", help="Also write the tables as Markdown.", rich_help_panel=WHERE),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Runs at a time; as many as there are cores and as memory holds, unless given.",
        rich_help_panel=HOW,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="Threads of each run; 1 for tiny backbones, else cores / workers, unless given.",
        rich_help_panel=HOW,
    ),
]
Device = Annotated[DeviceName, typer.Option("--device", help="Where to compute.", rich_help_panel=HOW)]
Executor = Annotated[
    ExecutorName,
    typer.Option(
        "--executor", help="Where runs are done: here one by one, in processes, on a cluster.", rich_help_panel=HOW
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", help="An existing Ray cluster; a local one unless given.", rich_help_panel=HOW
    ),
]
Slurm = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm", metavar="KEY=VALUE", help="For the batch system, as partition=gpu. Repeatable.", rich_help_panel=HOW
    ),
]
GpusPerRun = Annotated[
    float,
    typer.Option("--gpus-per-run", min=0.0, help="Share of a GPU that a run on a cluster gets.", rich_help_panel=HOW),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Only operations whose bits repeat, on a GPU too, where that is slower.",
        rich_help_panel=HOW,
    ),
]
CheckpointEvery = Annotated[
    float,
    typer.Option(
        "--checkpoint-every",
        min=0.0,
        metavar="MIN",
        help="Minutes between checkpoints inside a task; 0 is after every step.",
        rich_help_panel=HOW,
    ),
]
Watch = Annotated[bool, typer.Option("--watch", help="Show it again and again, until nothing is running.")]
Expect = Annotated[
    str | None,
    typer.Option(
        "--expect",
        metavar="stored|FILE",
        help="Compare with expected accuracies, the suite's own or a file's; exit status 1 outside their tolerance.",
        rich_help_panel=HOW,
    ),
]
Tflops = Annotated[
    float | None,
    typer.Option(
        "--tflops",
        min=0.001,
        metavar="N",
        help="Effective TFLOP/s to reckon times with, instead of what was measured or is assumed.",
        rich_help_panel=HOW,
    ),
]

BenchBackbone = Annotated[str, typer.Option("--backbone", metavar="NAME", help="What to time on.")]
BenchBatch = Annotated[int, typer.Option("--batch", min=1, help="Images a step.")]
BenchImages = Annotated[int, typer.Option("--images", min=2, max=100_000, help="Pictures that are made and timed on.")]
BenchTests = Annotated[int, typer.Option("--images", min=1, max=10_000, help="Test images a task.")]
BenchRepeats = Annotated[int, typer.Option("--repeats", min=1, help="How often each is timed, after a warm-up.")]
BenchFinished = Annotated[
    int, typer.Option("--finished", min=0, max=9, help="Tasks that are finished before the timed step, of ten.")
]
BenchCompile = Annotated[bool, typer.Option("--compile", help="Also time every step with blocks compiled by torch.")]
BenchOut = Annotated[
    Path | None, typer.Option("--out", metavar="FILE.json", help="Keep the measurement.", rich_help_panel=WHERE)
]
BenchAgainst = Annotated[
    Path | None,
    typer.Option("--against", metavar="FILE.json", help="Compare with a kept measurement.", rich_help_panel=WHERE),
]
BenchWorkers = Annotated[
    int | None, typer.Option("--workers", min=2, help="Workers at a time; the cores, at least two, unless given.")
]
BenchRuns = Annotated[int, typer.Option("--runs", min=2, max=100_000, help="Empty runs that are dispatched.")]
BenchRecord = Annotated[
    bool, typer.Option("--record", help="Keep the throughput in the results folder, for 'plan' to go by.")
]

RESULTS, DATA, REPORT = Path("results"), Path("data"), Path("report")


def split_values(values: Iterable[str] | None) -> tuple[str, ...]:
    """``["a,b", "c"]`` -> ``("a", "b", "c")``: an option may be repeated, list values, or both; repeats count once."""
    parts = (part.strip() for value in values or () for part in value.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))
