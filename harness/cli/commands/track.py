"""The command ``track``: writes the finished runs of a results folder for a viewer of curves, from their event logs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.console import counted, label
from smope_bench.harness.errors import UserError

if TYPE_CHECKING:
    from smope_bench.harness.records.store import Store
    from smope_bench.harness.tracking.follow import RunFacts

TRACKER_FAILED = 1

Folder = Annotated[Path, typer.Argument(metavar="RESULTS", help="A results folder with finished runs.")]
To = Annotated[
    list[str],
    typer.Option("--to", metavar="tensorboard|wandb|mlflow|csv", help="'list trackers' shows them. Repeatable."),
]
TrackOut = Annotated[
    Path | None, opt.where("--out", metavar="DIR", help="Where they write, each in its own folder; RESULTS/tracked.")
]


@command("track")
def track(results: Folder, to: To, out: TrackOut = None, plugin: opt.Plugins = None) -> None:
    """Write the curves and results of finished runs for TensorBoard and others, as 'run --track' does meanwhile."""
    from smope_bench.benchmarks.durable import make_folder
    from smope_bench.harness.records.store import Store
    from smope_bench.harness.registry.metrics import open_metrics
    from smope_bench.harness.tracking.follow import FOLDER, TrackWriter
    from smope_bench.harness.tracking.tracker import find_trackers

    trackers, store = find_trackers(opt.split_values(to), plugin or ()), Store(results)
    runs = list(finished_runs(store))
    if not runs:
        raise UserError(f"no finished run is in {str(results)!r}; name the folder that 'run' wrote with --results")
    out = out or results / FOLDER
    try:
        make_folder(out)
    except OSError as error:
        raise UserError(
            f"folder {str(out)!r} cannot be written ({error.strerror}); name another with --out DIR"
        ) from error
    writer = TrackWriter(
        trackers, store, out, open_metrics(plugin or ()), lambda text: print(text, file=sys.stderr), plugin or ()
    )
    for run in runs:
        writer.write(run, "done")
    for line in writer.looks():
        print(f"{counted(len(runs), 'run')} {line}")
    raise typer.Exit(0 if len(writer.working) == len(trackers) else TRACKER_FAILED)


def finished_runs(store: Store) -> Iterator[RunFacts]:
    """The usable records, each under the first suite, by name, that planned it; without one under its method's name."""
    from smope_bench.harness.records.record import Record
    from smope_bench.harness.tracking.follow import RunFacts

    planned = dict[str, tuple[str, str]]()
    for file in sorted((store.root / "suites").glob("*.json")):
        for cell in store.read_cells(file.stem):
            words = label(cell["row"], cell["column"], cell["order_seed"], cell["train_seed"])
            planned.setdefault(cell["run_id"], (words, file.stem))
    for record in store.scan():
        if isinstance(record, Record):
            name, suite = planned.get(record.run_id) or (_label_of(record.spec), "without a suite")
            yield RunFacts(record.run_id, name, suite, record.spec)


def _label_of(spec: Mapping[str, Any]) -> str:
    return label(spec["method"]["name"], spec["benchmark"]["name"], spec["order_seed"], spec["train_seed"])
