"""The command ``doctor``: what this machine has, and what training on it would be like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.run_options import RunOptions

PRICED = "table1"


@command("doctor")
def doctor(
    device: opt.Device = opt.DeviceName.auto,
    data: opt.Data = opt.DATA,
    results: opt.Results = opt.RESULTS,
    as_json: opt.AsJson = False,
) -> None:
    """Show the devices here, their precisions, how fast they are fed against a step, and how long table1 would take."""
    import torch

    from smope_bench.harness.hardware import device as hardware
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.harness.timing import doctor as measured

    kind = hardware.resolve_device(device.value)
    hardware.pin_arithmetic(hardware.default_threads(hardware.MOST_WEIGHTS_FOR_ONE_THREAD + 1))
    registries, place = open_registries(()), torch.device(kind)
    speeds = measured.speeds(registries, place)
    found: dict[str, Any] = {
        "devices": measured.devices(),
        "device": kind,
        "precisions": measured.precisions(),
        "waits": measured.waits(registries, registries.methods.loadable_names(), place),
        "speeds": {**asdict(speeds), "fed": speeds.fed},
        "plan": _priced(RunOptions(results, data), speeds.flops_per_s / 1e12),
    }
    if found["waits"] is None:
        found["waits_omitted"] = measured.OMITTED
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(_lines(found)))


def _priced(options: RunOptions, tflops: float) -> dict[str, Any]:
    """What the runs of table 1 would take at this rate, from the estimate of ``plan``."""
    from smope_bench.harness.cli.commands.listing import planned
    from smope_bench.harness.cli.request import read_request

    _, rows, _ = planned(read_request([PRICED], options), tflops)
    left = [row for row in rows if row["state"] != "done"]
    known = [row["seconds"] for row in left if row["seconds"] is not None]
    hours = sum(known) * len(left) / len(known) / 3600 if known else None
    return {"suite": PRICED, "runs": len(rows), "left": len(left), "hours": hours, "tflops": tflops}


def _lines(found: dict[str, Any]) -> Iterator[str]:
    from smope_bench.harness.timing.display import number

    devices, speeds, plan = found["devices"], found["speeds"], found["plan"]
    quota = "" if devices["cpu_quota"] is None else f", a quota of {devices['cpu_quota']:g} CPUs"
    memory = f"{devices['free_mb'] / 1024:.1f} of {devices['memory_mb'] / 1024:.1f} GiB free"
    yield f"CPU: {devices['cpu']}, {devices['cores']} cores{quota}; memory: {memory}"
    for index, gpu in enumerate(devices["gpus"]):
        free = "" if gpu["free_mb"] is None else f", {gpu['free_mb'] / 1024:.1f} GiB free"
        capability = f", compute capability {gpu['capability']}" if gpu["capability"] else ""
        yield f"GPU {index}: {gpu['words']}{free}{capability}"
    if not devices["gpus"]:
        yield "GPUs: none that torch or nvidia-smi shows"
    for name, carried in found["precisions"].items():
        yield f"precision on {name}: {', '.join(f'{kind} {how}' for kind, how in carried.items())}"
    if found["waits"] is None:
        yield f"host synchronisations of a training step: {found['waits_omitted']}"
    else:
        counts = ", ".join(f"{name} {count}" for name, count in found["waits"].items())
        yield f"host synchronisations of a training step: {counts}"
    yield (
        f"feed: {number(speeds['exact'])} pictures/s decoded (exact), {number(speeds['fast'])} stored (fast);"
        f" a step of ViT-B/16 in fp32 on {found['device']} uses {number(speeds['step'])}/s"
        f" (batches of {speeds['step_batch']}): fed {number(speeds['fed'])} times as fast as it trains"
    )
    hours = "unknown" if plan["hours"] is None else f"about {number(plan['hours'])} hours of computing in fp32"
    yield f"{plan['suite']}: {plan['left']} of {plan['runs']} runs left, {hours} at {plan['tflops']:.3g} TFLOP/s, just measured"
