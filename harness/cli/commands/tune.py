"""The command ``tune``: a hyper-parameter search on held-out training images, its table and its files."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.console import output_may_fail
from smope_bench.harness.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from smope_bench.harness.planning.planner import PlannedRun
    from smope_bench.harness.tracking.tracker import Tracker
    from smope_bench.harness.tuning.search import Plan, SearchRequest
    from smope_bench.harness.tuning.study import Candidate, TrialResult

SHOWN = 10
NONE_WORKED = 1


class SamplerName(StrEnum):
    """How the next trial is chosen."""

    grid = "grid"
    tpe = "tpe"


MethodName = Annotated[str, typer.Argument(metavar="METHOD", help="What to tune.")]
BenchmarkName = Annotated[str, typer.Argument(metavar="BENCHMARK", help="On whose training images.")]
Trials = Annotated[
    int | None, opt.what("--trials", min=1, help="So many in a seeded order; the whole grid unless given.")
]
SearchSeeds = Annotated[
    list[str] | None,
    opt.what(
        "--seeds",
        metavar="1000|ORDER:TRAIN",
        help="Seeds of class order and training, none of a suite's; scores are means over them.",
    ),
]
Holdout = Annotated[float, opt.what("--holdout", help="Share of each class's training images.")]
GridValues = Annotated[
    list[str] | None,
    typer.Option(
        "--grid", metavar="KEY=V1,V2", help="Values to try instead of, or beside, the method's grid. Repeatable."
    ),
]
Track = Annotated[
    list[str] | None,
    opt.how(
        "--track",
        metavar="tensorboard|wandb|mlflow|csv",
        help="Also write the trials' curves for a viewer, below the search's folder. Repeatable.",
    ),
]
Sampler = Annotated[SamplerName, opt.what("--sampler", help="All combinations, or Optuna's TPE among them.")]


@command("tune")
@output_may_fail()
def tune(
    method: MethodName,
    benchmark: BenchmarkName,
    backbone: opt.Backbone = None,
    tiny: opt.Tiny = False,
    trials: Trials = None,
    seeds: SearchSeeds = None,
    holdout: Holdout = 0.2,
    settings: opt.Settings = None,
    recipe: opt.Recipe = opt.RecipeName.published,
    recipe_of: opt.RecipeOf = None,
    limit: opt.Limit = None,
    grid: GridValues = None,
    sampler: Sampler = SamplerName.grid,
    precision: opt.Precision = opt.PrecisionName.fp32,
    plugin: opt.Plugins = None,
    workers: opt.Workers = None,
    threads: opt.Threads = None,
    device: opt.Device = opt.DeviceName.auto,
    gpus: opt.Gpus = None,
    track: Track = None,
    results: opt.Results = opt.RESULTS,
    data: opt.Data = opt.DATA,
    as_json: opt.AsJson = False,
) -> None:
    """Search a method's settings on held-out training images. Test images are never read; the same command goes on."""
    from smope_bench.harness.execution.launcher import find_executor, placed
    from smope_bench.harness.planning.settings import Seeds, parse_seeds
    from smope_bench.harness.run_options import RunOptions
    from smope_bench.harness.tracking.tracker import find_trackers
    from smope_bench.harness.tuning.search import SEED, SearchRequest

    here = RunOptions(results, data, device.value, gpu_numbers=opt.read_gpus(gpus))
    kind, here = placed(find_executor(here), here)
    request = SearchRequest(
        method,
        benchmark,
        results,
        data,
        backbone,
        tiny,
        trials,
        seeds=tuple(parse_seeds(seeds or ())) or (Seeds(SEED, SEED),),
        holdout=holdout,
        settings=opt.read_settings(settings, limit),
        recipe=opt.read_recipe(recipe, recipe_of),
        grid=dict(parse_grid(text) for text in grid or ()),
        sampler=sampler.value,
        precision=precision.value,
        workers=workers,
        threads=threads,
        device=kind,
        gpus=here.gpus,
    )
    report = _searched(request, plugin or (), find_trackers(opt.split_values(track), plugin or ()), as_json=as_json)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    raise typer.Exit(0 if report["best"] else NONE_WORKED)


def _searched(
    request: SearchRequest, plugins: Sequence[Path], trackers: Sequence[Tracker], *, as_json: bool
) -> dict[str, Any]:
    """Plan, prepare, compute and write the files; progress goes to standard error if the report is printed as JSON."""
    from smope_bench.harness.console import make_console
    from smope_bench.harness.execution.launcher import launch_remarks
    from smope_bench.harness.execution.monitoring.display import make_display
    from smope_bench.harness.hardware.device import precision_remark, unsupported_remark
    from smope_bench.harness.planning.assets import prepare_benchmarks
    from smope_bench.harness.planning.planner import PlannedRun
    from smope_bench.harness.records.store import Store
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.harness.tuning.search import plan_search, search

    console = make_console(stderr=as_json)
    registries = open_registries(plugins)
    plan = plan_search(request, registries)
    for remark in (
        precision_remark(request.precision, request.device),
        unsupported_remark(request.device, request.precision, deterministic=False),
    ):
        if remark:
            console.print(f"note: {remark}", markup=False)
    Store(request.results).require_writable()
    spec = plan.spec({key: values[0] for key, values in plan.space.items()})
    run = PlannedRun("tune", plan.row.label, request.method, plan.column.label, spec, recipe=plan.recipe)
    prepare_benchmarks([run], registries, request.data, lambda text: console.print(text, markup=False))
    _introduce(console, plan)
    for line in launch_remarks([run], registries, request.data):
        console.print(line, markup=False)
    found = search(
        plan,
        lambda total: make_display(console, total),
        *(workers := _workers(plan)),
        lambda text: console.print(text, markup=False, highlight=False),
        _memory(plan, run, workers[0]),
        trackers,
    )
    report = describe(plan, found)
    write_files(plan.folder, report)
    if not as_json:
        _print_report(console, report)
    return report


def parse_grid(text: str) -> tuple[str, tuple[Any, ...]]:
    """Read ``key=v1,v2`` or ``key=[v1,v2]``; values as ``--set`` takes them."""
    from smope_bench.harness.planning.settings import parse_setting

    key, equals, values = text.partition("=")
    listed = parse_setting(f"x={values}").value
    if not isinstance(listed, list):
        listed = [parse_setting(f"x={value}").value for value in values.split(",") if value.strip()]
    if not equals or not key.strip() or not listed:
        raise UserError(f"--grid {text!r} is not of the form key=value,value, for example --grid epsilon=0.2,0.4")
    return key.strip(), tuple(listed)


def describe(plan: Plan, found: Sequence[tuple[Candidate, TrialResult]]) -> dict[str, Any]:
    """The search as JSON: the grid, every trial, best first, and the best settings as arguments."""
    from smope_bench.harness.tuning.search import arguments

    request = plan.request
    ranked = sorted(found, key=lambda item: -item[1].faa if item[1].faa is not None else float("inf"))
    trials = [
        {
            "settings": dict(candidate),
            "set": arguments(candidate),
            "held_out_faa": outcome.faa,
            "held_out_caa": outcome.caa,
            "seconds": outcome.seconds,
            "error": outcome.error,
        }
        for candidate, outcome in ranked
    ]
    best = trials[0] if trials and trials[0]["held_out_faa"] is not None else None
    return {
        "study": plan.folder.name,
        "folder": plan.folder.as_posix(),
        "method": request.method,
        "benchmark": plan.column.label,
        "backbone": plan.column.backbone,
        "holdout": request.holdout,
        "seeds": [{"order": seed.order, "train": seed.train} for seed in request.seeds],
        "sampler": request.sampler,
        "grid": {key: list(values) for key, values in plan.space.items()},
        "grid_source": plan.source,
        "recipe": plan.recipe,
        "combinations": plan.size,
        "best": best and {**best, "arguments": " ".join(f"--set {text}" for text in best["set"])},
        "trials": trials,
    }


def write_files(folder: Path, report: dict[str, Any]) -> None:
    """Write ``study.json`` and ``trials.csv``, each atomically."""
    from smope_bench.harness.records.atomic_write import write_atomically, write_json_atomically
    from smope_bench.harness.tuning.study import kept_in

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = list(report["grid"])
    writer.writerow(["rank", *keys, "held_out_faa", "held_out_caa", "seconds", "error"])
    for rank, trial in enumerate(report["trials"], start=1):
        scores = [_figure(trial["held_out_faa"]), _figure(trial["held_out_caa"]), _figure(trial["seconds"])]
        writer.writerow([rank, *(trial["settings"][key] for key in keys), *scores, trial["error"] or ""])
    with kept_in(folder):
        write_atomically(folder / "trials.csv", text.getvalue().encode())
        write_json_atomically(folder / "study.json", report)


def _introduce(console: Console, plan: Plan) -> None:
    from smope_bench.benchmarks.suites import SUITES

    request = plan.request
    grid = "; ".join(f"{key} {', '.join(map(str, values))}" for key, values in plan.space.items())
    lines = [
        f"{plan.trials} of {plan.size} combinations of {request.method} on {plan.column.label}, backbone {plan.column.backbone}",
        f"grid: {grid} ({plan.source})",
        f"scored on {100 * request.holdout:g} % of each class's training images, held out; kept in {plan.folder}",
    ]
    taken = {seed for suite in SUITES.values() for seed in suite.seeds}
    lines.extend(
        f"warning: seed {seed.order}:{seed.train} is a suite's: what it chooses is not independent of the tables"
        for seed in request.seeds
        if taken & {seed.order, seed.train}
    )
    for line in lines:
        console.print(line, markup=False)


def _workers(plan: Plan) -> tuple[int, int]:
    """(trials at a time, threads of each), by the rule for runs of a suite."""
    from smope_bench.harness.hardware import device

    request = plan.request
    jobs = plan.trials * len(request.seeds)
    weights = plan.registries.backbones.load(plan.column.backbone).at(request.data).weight_count
    threads = request.threads or device.default_threads(weights)
    default = device.default_workers(request.device, jobs, threads, max(1, len(request.gpus)))
    return min(request.workers or default, jobs), threads


def _memory(plan: Plan, run: PlannedRun, workers: int) -> float:
    """MiB that a trial needs by finished runs of its kind, 0 if unknown. Raises UserError where they do not fit on the GPUs."""
    from smope_bench.harness.execution.launcher import expected_memory
    from smope_bench.harness.execution.memory_budget import require_room
    from smope_bench.harness.run_options import RunOptions

    request = plan.request
    options = RunOptions(request.results, request.data, request.device, workers=workers)
    (needed,) = expected_memory(options, request.device, [run], plan.registries).values()
    require_room(workers, request.gpus, [needed] * workers)
    return needed


def _print_report(console: Console, report: dict[str, Any]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("held-out FAA", "CAA"):
        table.add_column(heading, justify="right")
    table.add_column("settings")
    for trial in report["trials"][:SHOWN]:
        words = " ".join(trial["set"]) + ("  failed" if trial["error"] else "")
        table.add_row(_figure(trial["held_out_faa"]), _figure(trial["held_out_caa"]), escape(words))
    console.print(table)
    for error, count in Counter(trial["error"] for trial in report["trials"] if trial["error"]).items():
        console.print(f"{count} of {len(report['trials'])} trials failed: {error}", markup=False)
    if report["best"]:
        console.print(f"best: {report['best']['arguments']}", markup=False)
    console.print(f"all trials: {report['folder']}/trials.csv", markup=False)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
