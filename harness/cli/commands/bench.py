"""The commands ``bench``: timing, as ratios. Each command imports what it needs, as torch takes long to import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from smope_bench.harness.cli import options as opt

if TYPE_CHECKING:
    from smope_bench.harness.registry.registry import Registries
    from smope_bench.methods.common.backbone.backbones import Backbone

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
    plans: opt.BenchPlans = False,
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
    from smope_bench.harness.cost.estimate import Estimator
    from smope_bench.harness.cost.pricing import record_throughput
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.harness.timing.claims import step
    from smope_bench.harness.timing.display import MeasurementWriter

    registries = open_registries(plugin or ())
    found = _backbone(backbone, registries, data)
    names = list(opt.split_values(methods)) or registries.methods.loadable_names()
    place = _pinned(threads, device, precision)
    if compiled:
        step.require_compiler()
    sizes = {"backbone": backbone, "batch": batch, "repeats": repeats, "precision": precision.value}
    writer = MeasurementWriter.open(context, out, against, as_json, place, **sizes, finished=finished)
    rows = step.bench_step(
        registries,
        names,
        backbone=found,
        batch=batch,
        repeats=repeats,
        precision=precision.value,
        device=place,
        finished=finished,
        is_compiled=compiled,
        with_plans=plans,
    )
    remark = None
    if record:
        bare = next(row for row in rows if row.name == step.BARE)["seconds"].median
        rate = record_throughput(bare, writer.conditions, Estimator(registries, data), results)
        remark = f"kept for 'plan': {rate.words}"
    writer.finish(rows, remark)


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
    data: opt.Data = opt.DATA,
    as_json: opt.AsJson = False,
    plugin: opt.Plugins = None,
) -> None:
    """Time all evaluations of a run of ten tasks, with queries kept and without, for methods that ask for them."""
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.harness.timing.claims import evaluation
    from smope_bench.harness.timing.display import MeasurementWriter

    registries = open_registries(plugin or ())
    found = _backbone(backbone, registries, data)
    names = list(opt.split_values(methods)) or registries.methods.loadable_names()
    place = _pinned(threads, device)
    writer = MeasurementWriter.open(
        context, out, against, as_json, place, backbone=backbone, images=images, repeats=repeats
    )
    rows = evaluation.bench_eval(registries, names, backbone=found, images=images, repeats=repeats, device=place)
    writer.finish(rows)


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
    from smope_bench.harness.timing.claims import evaluation
    from smope_bench.harness.timing.display import MeasurementWriter

    place = _pinned(threads, device)
    writer = MeasurementWriter.open(context, out, against, as_json, place, repeats=repeats)
    writer.finish(evaluation.bench_tap(repeats=repeats, device=place))


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
    from smope_bench.harness.timing.claims import attention
    from smope_bench.harness.timing.display import MeasurementWriter

    place = _pinned(threads, device, precision)
    writer = MeasurementWriter.open(
        context, out, against, as_json, place, batch=batch, repeats=repeats, precision=precision.value
    )
    writer.finish(attention.bench_attention(batch=batch, repeats=repeats, precision=precision.value, device=place))


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
    from smope_bench.harness.timing.claims import data
    from smope_bench.harness.timing.display import MeasurementWriter

    writer = MeasurementWriter.open(context, out, against, as_json, _pinned(threads), images=images, repeats=repeats)
    writer.finish(data.bench_data(images, repeats))


@bench.command("feed")
def bench_feed(
    context: typer.Context,
    images: opt.BenchImages = 512,
    batches: opt.BenchBatches = 32,
    repeats: opt.BenchRepeats = 5,
    out: opt.BenchOut = None,
    against: opt.BenchAgainst = None,
    as_json: opt.AsJson = False,
) -> None:
    """Time training batches of JPEG files against torch's DataLoader on two cores, and epochs of a simulated accelerator."""
    from smope_bench.harness.timing.claims import feed
    from smope_bench.harness.timing.display import MeasurementWriter

    sizes = {"images": images, "batches": batches, "repeats": repeats}
    writer = MeasurementWriter.open(context, out, against, as_json, _pinned(1), **sizes)
    writer.finish(feed.bench_feed(images, batches, repeats))


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
    """Time what runs cost beside their arithmetic: dispatch to workers, the trainer's own share, small runs side by side."""
    from smope_bench.harness.hardware.device import usable_cores
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.harness.timing.claims.sweep import SweepBench
    from smope_bench.harness.timing.display import MeasurementWriter

    found = _backbone(backbone, open_registries(plugin or ()), data)
    place, count = _pinned(threads, device), workers or max(2, usable_cores())
    sizes = {"backbone": backbone, "runs": runs, "workers": count, "cores": usable_cores(), "repeats": repeats}
    writer = MeasurementWriter.open(context, out, against, as_json, place, **sizes)
    measured = SweepBench(data, place, threads or 1, count, repeats, tuple(plugin or ()))
    writer.finish(measured.rows(opt.split_values(methods), found, runs))


def _backbone(text: str, registries: Registries, data: Path) -> Backbone:
    """What ``--backbone`` gives, verified. Raises UserError and MethodError."""
    from smope_bench.harness.planning.own_backbones import find_backbone

    found = registries.backbones.load(str(find_backbone(text, registries, data))).at(data)
    found.verify()
    return found


def _pinned(
    threads: int | None,
    device: opt.DeviceName = opt.DeviceName.cpu,
    precision: opt.PrecisionName = opt.PrecisionName.fp32,
) -> str:
    """Pin threads and arithmetic of this process, by default on all cores; returns the device to time on.

    Raises UserError where there is no such device, or the device has no such precision.
    """
    from smope_bench.harness.hardware import device as hardware

    hardware.pin_arithmetic(threads or hardware.usable_cores())
    place = hardware.resolve_device(device.value)
    hardware.precision_remark(precision.value, place)
    return place
