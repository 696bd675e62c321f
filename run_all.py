"""The command line: parse, plan, execute, report. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.harness.cancellation import Stopped, stop_signals
from smope_bench.harness.cli import data as data_commands
from smope_bench.harness.cli import methods as method_commands
from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli import status as status_commands
from smope_bench.harness.cli import tune as tune_commands
from smope_bench.harness.cli.bench import bench
from smope_bench.harness.errors import UserError
from smope_bench.harness.text import plain
from smope_bench.methods.common.errors import MethodError
from smope_bench.reports import cli as report_commands
from smope_bench.reports.report_timing import bench_report

if TYPE_CHECKING:
    from smope_bench.harness.execution.launcher import RunRequest
    from smope_bench.harness.planning.planner import Selection
    from smope_bench.harness.records.store import Store

DEFAULT_SUITE = "smoke"
RUNS_FAILED, USER_MISTAKE = 1, 2

app = typer.Typer(
    name="run_all.py",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench)
app.add_typer(data_commands.data)
app.command()(tune_commands.tune)
app.command("new-method")(method_commands.new_method)
app.command()(method_commands.check)
app.command()(report_commands.report)
app.command()(status_commands.status)
app.command()(status_commands.cancel)
bench.command("report")(bench_report)


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Compare methods of prompt-based continual learning.

    Without a command: run the suite 'smoke', report it, and say where the page is.
    """
    if context.invoked_subcommand is None:
        from smope_bench.harness.execution.launcher import RunRequest

        failed = _sweep(RunRequest([DEFAULT_SUITE], opt.RESULTS, opt.DATA))
        report_commands.write([DEFAULT_SUITE], opt.RESULTS, opt.REPORT, with_tables=False)
        raise typer.Exit(RUNS_FAILED if failed else 0)


@app.command("list")
def list_(
    kind: opt.KindToList, as_json: opt.AsJson = False, data: opt.Data = opt.DATA, plugin: opt.Plugins = None
) -> None:
    """Show what there is: methods, benchmarks, backbones, suites."""
    from smope_bench.harness.cli import listing
    from smope_bench.harness.console import print_rows
    from smope_bench.harness.registry.registry import open_registries

    if kind is opt.Kind.suites:
        rows = listing.list_suites()
    elif kind is opt.Kind.backbones:
        rows = listing.list_backbones(open_registries(plugin or ()), data)
    else:
        rows = getattr(listing, f"list_{kind.value}")(open_registries(plugin or ()))
    if as_json:
        _print_json(rows)
    else:
        print_rows(rows, listing.LIST_COLUMNS[kind.value])


@app.command()
def plan(
    suites: opt.Suites,
    as_json: opt.AsJson = False,
    tiny: opt.Tiny = False,
    methods: opt.Methods = None,
    benchmarks: opt.Benchmarks = None,
    seeds: opt.Seeds = None,
    settings: opt.Settings = None,
    precision: opt.Precision = opt.PrecisionName.fp32,
    tflops: opt.Tflops = None,
    results: opt.Results = opt.RESULTS,
    data: opt.Data = opt.DATA,
    plugin: opt.Plugins = None,
) -> None:
    """Show each run with its id, its state and what it would cost. Trains nothing."""
    from smope_bench.harness.cli import listing
    from smope_bench.harness.console import print_rows
    from smope_bench.harness.cost.cost_suites import split_counted
    from smope_bench.harness.execution.launcher import RunRequest, plan_asked
    from smope_bench.harness.records.store import Store

    selection = _selection(tiny, methods, benchmarks, seeds, settings, precision)
    trained, counted = split_counted(suites)
    for name in counted if not as_json else ():
        print(f"{name} trains nothing: it counts parameters and operations, without data or weights.")
    if counted and not (trained or as_json):
        return
    runs, registries = plan_asked(RunRequest(trained, results, data, selection, tuple(plugin or ())))
    rows = listing.list_plan(runs, Store(results), registries, data, tflops)
    if as_json:
        _print_json(rows)
        return
    print_rows(rows, listing.PLAN_COLUMNS)
    print(listing.plan_summary(rows))


@app.command()
def run(
    suites: opt.Suites,
    tiny: opt.Tiny = False,
    methods: opt.Methods = None,
    benchmarks: opt.Benchmarks = None,
    seeds: opt.Seeds = None,
    settings: opt.Settings = None,
    precision: opt.Precision = opt.PrecisionName.fp32,
    plugin: opt.Plugins = None,
    workers: opt.Workers = None,
    threads: opt.Threads = None,
    device: opt.Device = opt.DeviceName.auto,
    executor: opt.Executor = opt.ExecutorName.auto,
    address: opt.Address = None,
    slurm: opt.Slurm = None,
    gpus_per_run: opt.GpusPerRun = 1.0,
    deterministic: opt.Deterministic = False,
    checkpoint_every: opt.CheckpointEvery = 5.0,
    results: opt.Results = opt.RESULTS,
    data: opt.Data = opt.DATA,
    expect: opt.Expect = None,
) -> None:
    """Do the runs of some suites that are not done yet, and print their tables."""
    from smope_bench.harness.cli.expectations import print_verdicts, read_all_expected
    from smope_bench.harness.cost.cost_suites import split_counted
    from smope_bench.harness.execution.launcher import ExecutorOptions, RunRequest
    from smope_bench.harness.records.store import Store
    from smope_bench.harness.registry.metrics import open_metrics

    selection = _selection(tiny, methods, benchmarks, seeds, settings, precision)
    trained, counted = split_counted(suites)
    metrics = open_metrics(plugin or ())
    expected = read_all_expected(trained, expect, metrics)
    failed = 0
    if trained:
        how = ExecutorOptions(
            executor.value, address, tuple(slurm or ()), gpus_per_run, deterministic, checkpoint_every * 60
        )
        plugins = tuple(plugin or ())
        failed = _sweep(RunRequest(trained, results, data, selection, plugins, workers, threads, device.value, how))
    _count(counted, selection, plugin or (), Store(results))
    given = f" --results {results}" if results != opt.RESULTS else ""
    print(f"for the page: run_all.py report {' '.join(suites)}{given}")
    outside = print_verdicts(Store(results), expected, only_planned=bool(selection.methods), metrics=metrics)
    raise typer.Exit(RUNS_FAILED if failed or outside else 0)


@app.command()
def migrate(results: opt.Results = opt.RESULTS) -> None:
    """Bring records of older schemas up to date; the originals are kept, and what cannot be trusted is left alone."""
    from smope_bench.harness.cli.data import migrate_command

    migrate_command(results)


@app.command()
def cost(
    methods: opt.Methods = None,
    as_json: opt.AsJson = False,
    out: opt.CostOut = None,
    plugin: opt.Plugins = None,
) -> None:
    """Count parameters and operations an image on ViT-B/16, beside the paper's Table 3. Needs no weights, trains nothing."""
    from smope_bench.harness.console import make_console
    from smope_bench.harness.cost.report import count_costs
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.reports.tables import costs as cost_table

    registries = open_registries(plugin or ())
    report = count_costs(registries, opt.split_values(methods) or registries.methods.loadable_names()).as_json()
    if out is not None:
        _write_text(out, cost_table.markdown(report))
    if as_json:
        _print_json(cost_table.with_printed(report))
    else:
        make_console().print(cost_table.terminal_table(report))


def _selection(
    tiny: bool,
    methods: Sequence[str] | None,
    benchmarks: Sequence[str] | None,
    seeds: Sequence[str] | None,
    settings: Sequence[str] | None,
    precision: opt.PrecisionName,
) -> Selection:
    from smope_bench.harness.planning.planner import Selection
    from smope_bench.harness.planning.settings import parse_seeds, parse_setting

    pairs = tuple(parse_seeds(seeds)) if seeds else ()
    if seeds and not pairs:
        raise UserError(f"--seeds {','.join(seeds)} names no seed: give numbers such as 0,1,2 or a range such as 0-4.")
    return Selection(
        tiny=tiny,
        methods=opt.split_values(methods),
        benchmarks=opt.split_values(benchmarks),
        seeds=pairs,
        settings=tuple(parse_setting(text) for text in settings or ()),
        precision=precision.value,
    )


def _sweep(asked: RunRequest) -> int:
    """Do what is asked, print the tables and what failed; returns the number of failed runs."""
    from smope_bench.harness.console import make_console
    from smope_bench.harness.execution.launcher import print_summary, sweep

    console = make_console()
    outcome = sweep(asked, console)
    report_commands.print_suites(console, asked.suites, asked.results, asked.plugins)
    print_summary(console, outcome)
    return len(outcome.failures)


def _count(suites: Sequence[str], selection: Selection, plugins: Sequence[Path], store: Store) -> None:
    """Do the suites that only count, and print their tables."""
    from smope_bench.harness.console import make_console
    from smope_bench.harness.cost.cost_suites import count_suite
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.reports.tables import costs as cost_table

    for name in suites:
        store.require_writable()
        report = count_suite(name, selection.methods, open_registries(plugins), store)
        make_console().print(cost_table.terminal_table(report))


def _write_text(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {str(file)!r} cannot be written: {error.strerror or error}") from error


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command line; returns the exit status."""
    try:
        with stop_signals():
            return app(args=arguments, standalone_mode=False) or 0
    except Stopped as stop:
        print("stopped: what was finished is kept, and the same command goes on from there.", file=sys.stderr)
        return stop.status
    except (UserError, BenchmarkError, MethodError) as error:
        message = str(error)
    except Exception as error:
        if not hasattr(error, "format_message"):  # only the option parser's usage errors have it
            raise
        message = error.format_message().replace("Value error, ", "")  # pyright: ignore[reportAttributeAccessIssue]
    print(f"error: {plain(message)}", file=sys.stderr)
    return USER_MISTAKE


if __name__ == "__main__":
    sys.exit(main())
