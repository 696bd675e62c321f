"""The command ``extend``: a finished run goes on with more tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.console import output_may_fail
from smope_bench.harness.errors import UserError
from smope_bench.harness.run_options import CHECKPOINT_EVERY_S, RunOptions

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="The id of a finished run, or its beginning.", autocompletion=opt.runs_that_begin
    ),
]
From = Annotated[
    Path | None, opt.what("--from", metavar="FOLDER", help="A folder of pictures whose classes are learnt next.")
]
Added = Annotated[
    str | None, opt.what("--benchmark", metavar="NAME", help="A benchmark whose classes are learnt next.")
]
Settings = Annotated[
    list[str] | None,
    opt.what("--set", metavar="KEY=VALUE", help="Of the added tasks: benchmark.FIELD or schedule.FIELD. Repeatable."),
]


@command("extend")
@output_may_fail()
def extend(
    run: Run,
    source: From = None,
    benchmark: Added = None,
    settings: Settings = None,
    plugin: opt.Plugins = None,
    threads: opt.Threads = None,
    device: opt.Device = opt.DeviceName.auto,
    executor: opt.Executor = "auto",
    deterministic: opt.Deterministic = False,
    checkpoint_every: opt.CheckpointEvery = CHECKPOINT_EVERY_S / 60,
    keep: opt.Keep = True,
    extendable: opt.Extendable = False,
    track: opt.Track = None,
    results: opt.Results = opt.RESULTS,
    data: opt.Data = opt.DATA,
) -> None:
    """Go on from a finished run with more tasks, as a run of its own: new classes, or tasks that it left out.

    Without --from and --benchmark, the tasks that benchmark.stop_after left out are learnt.
    """
    from smope_bench.harness.registry.registry import open_registries, uncollected

    with uncollected():
        from smope_bench.harness.console import make_console
        from smope_bench.harness.execution.launcher import launch_runs, print_summary
        from smope_bench.harness.metrics import final_average_accuracy
        from smope_bench.harness.records.record import Record
        from smope_bench.harness.records.store import Store
        from smope_bench.harness.text import shell_command
        from smope_bench.harness.trained.extend import EXTENDED, plan_extension
        from smope_bench.harness.trained.find import located

    run, results = located(run, results)
    console = make_console()
    options = RunOptions(
        results,
        data,
        device.value,
        threads=threads,
        plugins=tuple(plugin or ()),
        executor=executor,
        deterministic=deterministic,
        checkpoint_every_s=checkpoint_every * 60,
        keep=keep,
        extendable=extendable,
    )
    if results.is_dir():  # a missing one is not made: it has no run to extend
        Store(results).require_writable()
    registries = open_registries(options.plugins)
    if source is not None and benchmark is not None and not registries.benchmarks.load(benchmark).takes_user_data:
        raise UserError(f"--from {str(source)!r} and --benchmark {benchmark} contradict each other: leave one out.")
    planned = plan_extension(
        run,
        results,
        data,
        registries,
        benchmark=benchmark,
        folder=source,
        settings=opt.read_settings(settings, None),
        notify=lambda text: console.print(text, markup=False),
    )
    summary = launch_runs([EXTENDED], [planned], registries, options, console, opt.split_values(track))
    print_summary(console, summary)
    record = Store(results).load(planned.run_id)
    if summary.failures or not isinstance(record, Record):
        raise typer.Exit(1)
    matrix = record.result["accuracy_matrix"]
    parent = record.spec["parent"]
    print(
        f"run {record.run_id} extends run {parent['run_id']} from {parent['tasks']} to {len(matrix)} tasks:"
        f" final average accuracy {final_average_accuracy(matrix):.2f} %"
    )
    print(f"by class: {shell_command('predictions', record.run_id, results=results)}")
