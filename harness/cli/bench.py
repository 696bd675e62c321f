"""The command ``bench``: timed claims, as ratios. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from smope_bench.harness.cli import options as opt

bench = typer.Typer(name="bench", help="Timed claims, as ratios.", no_args_is_help=True)


@bench.command("step")
def bench_step(
    context: typer.Context,
    methods: opt.Methods = None,
    backbone: opt.BenchBackbone = "random",
    batch: opt.BenchBatch = 4,
    repeats: opt.BenchRepeats = 7,
    finished: opt.BenchFinished = 1,
    compiled: opt.BenchCompile = False,
    threads: opt.Threads = None,
    precision: opt.Precision = opt.PrecisionName.fp32,
    device: opt.Device = opt.DeviceName.cpu,
    record: opt.BenchRecord = False,
    out: opt.BenchOut = None,
    against: opt.BenchAgainst = None,
    results: opt.Results = opt.RESULTS,
    data: opt.Data = opt.DATA,
    as_json: opt.AsJson = False,
    plugin: opt.Plugins = None,
) -> None:
    """Time a training step of methods against the bare frozen backbone with a head, interleaved; ratios are medians."""
    from smope_bench.harness.cost.estimate import Estimator, record_throughput
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.harness.timing import records as bench_store
    from smope_bench.harness.timing.display import make_keeper, print_step
    from smope_bench.harness.timing.step import bench_step as timed
    from smope_bench.harness.timing.step import require_compiler

    registries = open_registries(plugin or ())
    names = list(opt.split_values(methods)) or registries.methods.loadable_names()
    sizes = {"backbone": backbone, "batch": batch, "repeats": repeats}
    place = _pinned(threads, device)
    if compiled:
        require_compiler()
    keeper = make_keeper(context, out, against, place, **sizes, precision=precision.value, finished=finished)
    report = timed(
        registries, names, precision=precision.value, device=place, finished=finished, is_compiled=compiled, **sizes
    )
    kept = record_throughput(report, Estimator(registries, data), results) if record else None

    rows = [bench_store.measured_row(row) for row in [*report.rows, *report.products]]
    keeper.finish(rows, report.as_json(), as_json, lambda: print_step(report, kept and kept.words))


@bench.command("eval")
def bench_eval(
    context: typer.Context,
    methods: opt.Methods = None,
    backbone: opt.BenchBackbone = "random",
    images: opt.BenchTests = 1,
    repeats: opt.BenchRepeats = 2,
    threads: opt.Threads = None,
    device: opt.Device = opt.DeviceName.cpu,
    out: opt.BenchOut = None,
    against: opt.BenchAgainst = None,
    as_json: opt.AsJson = False,
    plugin: opt.Plugins = None,
) -> None:
    """Time all evaluations of a run of ten tasks, with queries kept and without, for methods that ask for them."""
    from smope_bench.harness import console
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.harness.timing import records as bench_store
    from smope_bench.harness.timing.display import EVAL_COLUMNS, make_keeper
    from smope_bench.harness.timing.evaluation import bench_eval as timed

    registries = open_registries(plugin or ())
    names = list(opt.split_values(methods)) or registries.methods.loadable_names()
    place = _pinned(threads, device)
    keeper = make_keeper(context, out, against, place, backbone=backbone, images=images, repeats=repeats)
    report = timed(registries, names, backbone=backbone, images=images, repeats=repeats, device=place)

    def show() -> None:
        console.print_rows([asdict(row) for row in report.rows], EVAL_COLUMNS)
        print(
            f"{report.backbone}, {report.images} test images in {report.tasks} tasks, {report.threads} threads,"
            f" {repeats} repeats, {report.device}"
        )

    rows = [bench_store.measured_row(row) for row in report.rows]
    keeper.finish(rows, report.as_json(), as_json, show)


@bench.command("tap")
def bench_tap(
    context: typer.Context,
    repeats: opt.BenchRepeats = 3,
    threads: opt.Threads = None,
    device: opt.Device = opt.DeviceName.cpu,
    out: opt.BenchOut = None,
    against: opt.BenchAgainst = None,
    as_json: opt.AsJson = False,
) -> None:
    """Time classifier alignment: 200 classes, 768 dimensions, 50 epochs, with diagonal and with full covariances."""
    from smope_bench.harness import console
    from smope_bench.harness.timing import records as bench_store
    from smope_bench.harness.timing.display import TAP_COLUMNS, make_keeper
    from smope_bench.harness.timing.evaluation import bench_tap as timed

    place = _pinned(threads, device)
    keeper = make_keeper(context, out, against, place, repeats=repeats)
    found = timed(repeats=repeats, device=place)
    plain = [asdict(row) for row in found]
    rows = [
        bench_store.named_row(f"{row.covariance} covariances", asdict(row) | {"seconds": row.seconds}) for row in found
    ]
    keeper.finish(rows, plain, as_json, lambda: console.print_rows(plain, TAP_COLUMNS))


@bench.command("attention")
def bench_attention(
    context: typer.Context,
    batch: opt.BenchBatch = 4,
    repeats: opt.BenchRepeats = 7,
    threads: opt.Threads = None,
    precision: opt.Precision = opt.PrecisionName.fp32,
    device: opt.Device = opt.DeviceName.cpu,
    out: opt.BenchOut = None,
    against: opt.BenchAgainst = None,
    as_json: opt.AsJson = False,
) -> None:
    """Time the forms in which a prefix's own logit can reach the attention product, each against the one that is used."""
    from smope_bench.harness import console
    from smope_bench.harness.timing import records as bench_store
    from smope_bench.harness.timing.attention import bench_attention as timed
    from smope_bench.harness.timing.display import ATTENTION_COLUMNS, make_keeper

    place = _pinned(threads, device)
    keeper = make_keeper(context, out, against, place, batch=batch, repeats=repeats, precision=precision.value)
    found = timed(batch=batch, repeats=repeats, precision=precision.value, device=place)
    plain = [asdict(row) for row in found]
    rows = [
        bench_store.named_row(
            f"{row.logit}: {row.form}", {"seconds": row.seconds, "to_used": row.to_used, "saved_mb": row.saved_mb}
        )
        for row in found
    ]
    keeper.finish(rows, plain, as_json, lambda: console.print_rows(plain, ATTENTION_COLUMNS))


@bench.command("data")
def bench_data(
    context: typer.Context,
    images: opt.BenchImages = 512,
    repeats: opt.BenchRepeats = 7,
    threads: opt.Threads = None,
    out: opt.BenchOut = None,
    against: opt.BenchAgainst = None,
    as_json: opt.AsJson = False,
) -> None:
    """Time random batches of stored pictures against decoding the same JPEG files, interleaved; ratios are medians."""
    from smope_bench.harness import console
    from smope_bench.harness.timing.data import COLUMNS
    from smope_bench.harness.timing.data import bench_data as timed
    from smope_bench.harness.timing.display import make_keeper

    _pinned(threads)
    keeper = make_keeper(context, out, against, images=images, repeats=repeats)
    report = timed(images, repeats)

    def show() -> None:
        console.print_rows([asdict(row) for row in report.rows], COLUMNS)
        print(
            f"batches of {report.batch} of {report.images} pictures, files of {report.file_kib} KiB, {report.cores} cores, "
            f"{repeats} repeats; fast mode differs by {report.train_difference} of 255 in training crops"
        )

    keeper.finish([row.stored() for row in report.rows], report.as_json(), as_json, show)


@bench.command("sweep")
def bench_sweep(
    context: typer.Context,
    methods: opt.Methods = None,
    backbone: opt.BenchBackbone = "random",
    runs: opt.BenchRuns = 500,
    workers: opt.BenchWorkers = None,
    repeats: opt.BenchRepeats = 3,
    threads: opt.Threads = 1,
    device: opt.Device = opt.DeviceName.cpu,
    out: opt.BenchOut = None,
    against: opt.BenchAgainst = None,
    data: opt.Data = opt.DATA,
    as_json: opt.AsJson = False,
    plugin: opt.Plugins = None,
) -> None:
    """Time what runs cost beside their arithmetic: dispatch to workers, the engine's own share, small runs side by side."""
    from smope_bench.harness.hardware.device import usable_cores
    from smope_bench.harness.timing.display import make_keeper, print_measures
    from smope_bench.harness.timing.sweep import SweepBench

    place, count = _pinned(threads, device), workers or max(2, usable_cores())
    keeper = make_keeper(
        context, out, against, place, backbone=backbone, runs=runs, workers=count, cores=usable_cores(), repeats=repeats
    )
    measured = SweepBench(data, place, threads or 1, count, repeats, tuple(plugin or ()))
    rows = measured.rows(opt.split_values(methods), backbone, runs)
    keeper.finish(rows, [row.model_dump() for row in rows], as_json, lambda: print_measures(rows))


def _pinned(threads: int | None, device: opt.DeviceName = opt.DeviceName.cpu) -> str:
    """Fix the arithmetic of this process, on all cores unless ``threads`` says fewer; returns the device to time on."""
    from smope_bench.harness.hardware import device as hardware

    hardware.pin_arithmetic(threads or hardware.usable_cores())
    return hardware.resolve_device(device.value)
