"""The command ``bench``: timed claims, as ratios. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from harness import command_options as opt

bench = typer.Typer(name="bench", help="Timed claims, as ratios.", no_args_is_help=True)


@bench.command("step")
def bench_step(
    methods: opt.Methods = None,
    backbone: opt.BenchBackbone = "random",
    batch: opt.BenchBatch = 4,
    repeats: opt.BenchRepeats = 7,
    threads: opt.Threads = None,
    precision: opt.Precision = opt.PrecisionName.fp32,
    device: opt.Device = opt.DeviceName.cpu,
    record: opt.BenchRecord = False,
    results: opt.Results = opt.RESULTS,
    data: opt.Data = opt.DATA,
    as_json: opt.AsJson = False,
    plugin: opt.Plugins = None,
) -> None:
    """Time a training step of methods against the bare frozen backbone with a head, interleaved; ratios are medians."""
    from harness import catalogue
    from harness.bench import bench_step as timed
    from harness.estimate import Estimator, record_throughput
    from harness.registry import open_registries

    registries = open_registries(plugin or ())
    names = list(opt.split_values(methods)) or sorted(set(registries.methods.names()))
    place = _pinned(threads, device)
    report = timed(
        registries, names, backbone=backbone, batch=batch, repeats=repeats, precision=precision.value, device=place
    )
    kept = record_throughput(report, Estimator(registries, data), results) if record else None
    if as_json:
        print(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
        return
    catalogue.print_rows([asdict(row) for row in report.rows], catalogue.STEP_COLUMNS)
    print(
        f"{report.backbone}, batch {batch}, {report.precision}, {report.threads} threads, {repeats} repeats, {report.device}"
    )
    if kept is not None:
        print(f"kept for 'plan': {kept.words}")


@bench.command("eval")
def bench_eval(
    methods: opt.Methods = None,
    backbone: opt.BenchBackbone = "random",
    images: opt.BenchTests = 4,
    repeats: opt.BenchRepeats = 3,
    threads: opt.Threads = None,
    device: opt.Device = opt.DeviceName.cpu,
    as_json: opt.AsJson = False,
    plugin: opt.Plugins = None,
) -> None:
    """Time all evaluations of a run of ten tasks, with queries kept and without, for methods that ask for them."""
    from harness import catalogue
    from harness.bench_eval import bench_eval as timed
    from harness.registry import open_registries

    registries = open_registries(plugin or ())
    names = list(opt.split_values(methods)) or sorted(set(registries.methods.names()))
    place = _pinned(threads, device)
    report = timed(registries, names, backbone=backbone, images=images, repeats=repeats, device=place)
    if as_json:
        print(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
        return
    catalogue.print_rows([asdict(row) for row in report.rows], catalogue.EVAL_COLUMNS)
    print(
        f"{report.backbone}, {report.images} test images in {report.tasks} tasks, {report.threads} threads,"
        f" {repeats} repeats, {report.device}"
    )


@bench.command("tap")
def bench_tap(
    repeats: opt.BenchRepeats = 3,
    threads: opt.Threads = None,
    device: opt.Device = opt.DeviceName.cpu,
    as_json: opt.AsJson = False,
) -> None:
    """Time classifier alignment: 200 classes, 768 dimensions, 50 epochs, with diagonal and with full covariances."""
    from harness import catalogue
    from harness.bench_eval import bench_tap as timed

    rows = [asdict(row) for row in timed(repeats=repeats, device=_pinned(threads, device))]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        catalogue.print_rows(rows, catalogue.TAP_COLUMNS)


@bench.command("data")
def bench_data(
    images: opt.BenchImages = 512,
    repeats: opt.BenchRepeats = 7,
    threads: opt.Threads = None,
    as_json: opt.AsJson = False,
) -> None:
    """Time random batches of stored pictures against decoding the same JPEG files, interleaved; ratios are medians."""
    from harness import catalogue
    from harness.bench_data import COLUMNS
    from harness.bench_data import bench_data as timed

    _pinned(threads)
    report = timed(images, repeats)
    if as_json:
        print(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
        return
    catalogue.print_rows([asdict(row) for row in report.rows], COLUMNS)
    print(
        f"batches of {report.batch} of {report.images} pictures, files of {report.file_kib} KiB, {report.cores} cores, "
        f"{repeats} repeats; fast mode differs by {report.train_difference} of 255 in training crops"
    )


def _pinned(threads: int | None, device: opt.DeviceName = opt.DeviceName.cpu) -> str:
    """Fix the arithmetic of this process, on all cores unless ``threads`` says fewer; returns the device to time on."""
    from harness import execute

    execute.pin_arithmetic(threads or execute.usable_cores())
    return execute.resolve_device(device.value)
