"""The command line: ``run`` and the default command. Every other command registers itself (``harness/cli/command.py``).

Everything heavy is imported by the command that needs it.
"""

from __future__ import annotations

import errno
import importlib.util
import itertools
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

if importlib.util.find_spec("smope_bench") is None:
    install = "python3 -m venv .venv && .venv/bin/pip install -q -e ."
    print(f"error: smope_bench is not installed for {sys.executable}; run: {install}", file=sys.stderr)
    sys.exit(2)

import typer

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.harness.cancellation import Stopped, stop_signals
from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command, make_app
from smope_bench.harness.cli.request import read_request
from smope_bench.harness.console import output_may_fail, replace_what_cannot_be_printed, send_nowhere
from smope_bench.harness.errors import UserError
from smope_bench.harness.run_options import CHECKPOINT_EVERY_S, RunOptions
from smope_bench.harness.text import DATA, INSTALLED, RESULTS, plain, program, shell_command, whole_commands
from smope_bench.methods.common.errors import MethodError
from smope_bench.reports import cli as report_commands

if TYPE_CHECKING:
    from smope_bench.harness.planning.selection import Selection

DEFAULT_SUITE = "smoke"
RUNS_FAILED, USER_MISTAKE = 1, 2


def _print_versions(asked: bool) -> None:
    """Print the versions that results depend on: this project's, Python's, and those of torch and timm; then exit."""
    if asked:
        from importlib.metadata import version

        found = " · ".join(f"{name} {version(name)}" for name in ("torch", "timm"))
        print(f"{INSTALLED} {version(INSTALLED)} · Python {platform.python_version()} · {found}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_print_versions, help="Print versions and exit.")
]


def default(context: typer.Context, version: Version = False) -> None:  # noqa: ARG001
    """Compare methods of prompt-based continual learning.

    Without a command: run the suite 'smoke', report it, and say where the page is.
    """
    if context.invoked_subcommand is None:
        with output_may_fail():
            failed = _launch([DEFAULT_SUITE], opt.read_selection(), RunOptions(opt.RESULTS, opt.DATA, "auto"))
            report_commands.write([DEFAULT_SUITE], opt.RESULTS, opt.REPORT, with_tables=False)
        raise typer.Exit(RUNS_FAILED if failed else 0)


@command("run")
@output_may_fail()
def run(
    suites: opt.Suites,
    tiny: opt.Tiny = False,
    methods: opt.ChosenMethods = None,
    benchmarks: opt.ChosenBenchmarks = None,
    backbone: opt.Backbone = None,
    seeds: opt.Seeds = None,
    settings: opt.Settings = None,
    recipe: opt.Recipe = opt.RecipeName.published,
    recipe_of: opt.RecipeOf = None,
    limit: opt.Limit = None,
    precision: opt.Precision = opt.PrecisionName.fp32,
    plugin: opt.Plugins = None,
    workers: opt.Workers = None,
    threads: opt.Threads = None,
    device: opt.Device = opt.DeviceName.auto,
    executor: opt.Executor = "auto",
    address: opt.Address = None,
    slurm: opt.Slurm = None,
    gpus: opt.Gpus = None,
    gpus_per_run: opt.GpusPerRun = 1.0,
    deterministic: opt.Deterministic = False,
    checkpoint_every: opt.CheckpointEvery = CHECKPOINT_EVERY_S / 60,
    allow_device_change: opt.AllowDeviceChange = False,
    keep: opt.Keep = True,
    extendable: opt.Extendable = False,
    track: opt.Track = None,
    results: opt.Results = opt.RESULTS,
    data: opt.Data = opt.DATA,
    expect: opt.Expect = None,
) -> None:
    """Do the runs of some suites that are not done yet, and print their tables."""
    from smope_bench.harness.cli.expectations import print_expectations, read_all_expected
    from smope_bench.harness.records.store import Store
    from smope_bench.harness.registry.metrics import open_metrics

    if limit is not None and expect is not None:
        raise UserError(
            f"--limit {limit} gives other accuracies than those that --expect {expect} names: leave one out."
        )
    options = RunOptions(
        results,
        data,
        device.value,
        workers,
        threads,
        tuple(plugin or ()),
        executor,
        address,
        tuple(slurm or ()),
        gpus_per_run,
        deterministic,
        checkpoint_every * 60,
        gpu_numbers=opt.read_gpus(gpus),
        allow_device_change=allow_device_change,
        keep=keep,
        extendable=extendable,
    )
    request = read_request(
        suites,
        options,
        tiny=tiny,
        methods=methods,
        benchmarks=benchmarks,
        backbone=backbone,
        seeds=seeds,
        settings=settings,
        recipe=recipe,
        recipe_of=recipe_of,
        limit=limit,
        precision=precision,
    )
    for note in request.notes:
        print(note, file=sys.stderr)
    selection, options = request.selection, request.options
    metrics = open_metrics(options.plugins)
    expected = read_all_expected(request.trained, expect, metrics)
    failed = _launch(request.trained, selection, options, opt.split_values(track)) if request.trained else 0
    report_commands.count(request.counted, selection.methods, options.plugins, results)
    print(f"for the page: {shell_command('report', *suites, plugins=plugin or (), results=results)}")
    outside = print_expectations(Store(results), expected, only_planned=bool(selection.methods), metrics=metrics)
    raise typer.Exit(RUNS_FAILED if failed or outside else 0)


def _launch(suites: Sequence[str], selection: Selection, options: RunOptions, track: Sequence[str] = ()) -> int:
    """Do the runs, print the tables and what failed; returns the number of failed runs."""
    from smope_bench.harness.console import make_console
    from smope_bench.harness.execution.launcher import launch, print_summary

    console = make_console()
    summary = launch(suites, selection, options, console, track)
    report_commands.print_suites(console, suites, options.results, options.plugins)
    print_summary(console, summary)
    return len(summary.failures)


def _at_home(word: str) -> str:
    """``~`` and ``~user`` of a path as the user's folder, also in ``--results=~/r``, where a shell leaves them as they are."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + os.path.expanduser(value) if value.startswith("~") else word  # noqa: PTH111  # never raises


def _with_options(message: str, words: Sequence[str]) -> str:
    """A message whose commands have the folders and the plugins of this one."""
    values: dict[str, list[str]] = {"--data": [str(DATA)], "--results": [str(RESULTS)], "--plugin": []}
    for word, after in itertools.pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        if option in values:
            values[option].append(value if equals else after)
    data, results = (Path(values[option][-1]) for option in ("--data", "--results"))
    return whole_commands(message, map(Path, values["--plugin"]), data, results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command line; returns the exit status."""
    replace_what_cannot_be_printed()
    words = [_at_home(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    try:
        with stop_signals():
            return make_app(default)(args=words, prog_name=program(), standalone_mode=False) or 0
    except Stopped as stop:
        print("stopped: what was finished is kept, and the same command goes on from there.", file=sys.stderr)
        return stop.status
    except (UserError, BenchmarkError, MethodError) as error:
        message = _with_options(str(error), words)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = repr(error.filename) if error.filename else "a file, or what is printed,"
        message = f"{what} cannot be written ({error.strerror}); make room there, then give the same command again"
        try:
            sys.stdout.flush()
        except OSError:
            send_nowhere(sys.stdout)
    except Exception as error:
        if not hasattr(error, "format_message"):  # only the option parser's usage errors have it
            raise
        message = error.format_message().replace("Value error, ", "")  # pyright: ignore[reportAttributeAccessIssue]
    print(f"error: {plain(message)}", file=sys.stderr)
    return USER_MISTAKE


if __name__ == "__main__":
    sys.exit(main())
