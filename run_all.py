"""The command line: parse, plan, execute, report. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.errors import BenchmarkError
from harness.errors import UserError
from methods.common.errors import MethodError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.execute import RunStatus
    from harness.plan import PlannedRun, Selection
    from harness.registry import Registries

DEFAULT_SUITE = "smoke"
RUNS_FAILED, USER_MISTAKE, INTERRUPTED, TERMINATED = 1, 2, 130, 143

app = typer.Typer(
    name="run_all.py",
    help="Compare methods of prompt-based continual learning. Without a command: run and report the suite 'smoke'.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Kind(str, Enum):
    """What can be listed."""

    methods = "methods"
    benchmarks = "benchmarks"
    backbones = "backbones"
    suites = "suites"


class Device(str, Enum):
    """Where runs compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class PrecisionName(str, Enum):
    """Number format of training."""

    fp32 = "fp32"
    bf16 = "bf16"


def _list_option(flag: str, text: str) -> Any:
    return typer.Option(flag, help=f"{text} Comma-separated or repeated.", show_default=False, metavar="NAME,...")


Suites = Annotated[list[str], typer.Argument(metavar="SUITE...", help="Suites; `list suites` shows them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Tiny = Annotated[bool, typer.Option("--tiny", help="Data and weights that come with the installation; offline.")]
Methods = Annotated[list[str], _list_option("--methods", "Only these methods, or others than the suite's.")]
Benchmarks = Annotated[list[str], _list_option("--benchmarks", "Only these benchmarks, or others than the suite's.")]
SeedTexts = Annotated[
    list[str],
    typer.Option(
        "--seeds",
        metavar="0,1|0-4|ORDER:TRAIN",
        help="Seeds of class order and training; one number is both.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting: FIELD, METHOD.FIELD, schedule.FIELD or benchmark.FIELD. Repeatable.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Runs at a time. [default: the cores; 1 on cuda]", show_default=False)
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads of each run. [default: 1 if tiny, else cores/workers]", show_default=False),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute.")]
Precision = Annotated[PrecisionName, typer.Option("--precision", help="Number format of training.")]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Where records are kept.")]
Data = Annotated[Path, typer.Option("--data", metavar="DIR", help="Where prepared images are kept.")]
Plugins = Annotated[
    list[Path],
    typer.Option("--plugin", metavar="FILE.py", help="A file with methods or benchmarks of your own. Repeatable.", show_default=False),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the page is written.")]

RESULTS, DATA, REPORT = Path("results"), Path("data"), Path("report")


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Compare methods of prompt-based continual learning. Without a command: run and report the suite 'smoke'."""
    if context.invoked_subcommand is not None:
        return
    failed = _run([DEFAULT_SUITE], Path(RESULTS), Path(DATA))
    _report([DEFAULT_SUITE], RESULTS, REPORT)
    raise typer.Exit(RUNS_FAILED if failed else 0)


@app.command("list")
def list_command(kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: AsJson = False, plugin: Plugins = []) -> None:  # noqa: B006
    """Show what there is: methods, benchmarks, backbones or suites."""
    from harness import catalogue
    from harness.registry import open_registries

    rows = catalogue.list_suites() if kind is Kind.suites else getattr(catalogue, f"list_{kind.value}")(open_registries(plugin))
    if as_json:
        _print_json(rows)
        return
    _print_table([("name", None), ("summary", lambda row: row.get("error") or row["summary"]), *_EXTRA[kind]], rows)
