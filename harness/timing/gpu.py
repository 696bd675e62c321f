"""Measures a GPU for docs/performance.md, in under six minutes: steps, bytes, images a second, share of the matrix peak.

``python -m smope_bench.harness.timing.gpu --out docs/performance`` writes one measurement a table: the steps of all methods in
bf16 and in fp32, attention in both, how fast the feeder fills the device, and with ``--official DIR`` the steps of the official
repositories cloned there. What the time does not suffice for is named and left out. ``--rehearse`` does all of it on the CPU at
tiny sizes, to see that it works; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware.device import pin_arithmetic, usable_cores
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.harness.timing import records
from smope_bench.harness.timing.claims.attention import bench_attention
from smope_bench.harness.timing.claims.data import BATCH, SIZE, made_files, made_stream
from smope_bench.harness.timing.claims.feed import feeder_epoch, timed_epoch
from smope_bench.harness.timing.claims.step import bench_step
from smope_bench.harness.timing.display import print_measures
from smope_bench.harness.timing.measure import synchronise
from smope_bench.harness.timing.records import Row, Spread, Value, make_row, spread
from smope_bench.harness.training.batches.feeder import Feeder

SECONDS = 330.0
"""Measurements begin no later than this after the start, each only where it is likely to end within it."""
PROGRAM = "python -m smope_bench.harness.timing.gpu"
OFFICIAL_STEPS = Path("tests") / "fidelity" / "step_times.py"
USER_ERROR = 2


@dataclass(frozen=True)
class Sizes:
    """What is measured. ``seconds``: each part's likely duration, by which it is left out where time is short."""

    device: str
    backbone: str
    batch: int
    repeats: int
    pictures: int
    batches: int


ON_GPU = Sizes("cuda", "random", batch=64, repeats=7, pictures=1024, batches=16)
REHEARSED = Sizes("cpu", "tiny", batch=2, repeats=1, pictures=8, batches=2)


@dataclass(frozen=True)
class Part:
    """One measurement: the file's name, the bench that it is a table of, its conditions, and how it is taken."""

    name: str
    bench: str
    conditions: dict[str, Value]
    measure: Callable[[], list[Row]]
    likely_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the measurements; returns the exit status: 2 without a GPU or for a wrong option."""
    started = time.monotonic()
    options = _options(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        print(
            f"torch sees no CUDA device here; run this on a machine with a GPU, or {PROGRAM} --rehearse",
            file=sys.stderr,
        )
        return USER_ERROR
    sizes = REHEARSED if options.rehearse else ON_GPU
    try:
        registries = open_registries(())
        methods = _methods(options.methods, registries)
        pin_arithmetic(1 if options.rehearse else usable_cores())
        options.out.mkdir(parents=True, exist_ok=True)
        for part in _parts(sizes, methods, registries, options.official):
            if time.monotonic() - started + part.likely_s > options.seconds:
                print(f"left out for lack of time: {part.name}", file=sys.stderr)
                continue
            _take(part, sizes, options.out, options.rehearse)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return USER_ERROR
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__.partition("\n\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder of the JSON files; default: gpu")
    parser.add_argument("--methods", default="", help="comma-separated; default: all")
    parser.add_argument("--official", type=Path, help="folder with clones of the official repositories")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"default: {SECONDS:.0f}")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU at tiny sizes; the numbers mean nothing")
    options = parser.parse_args(arguments)
    if options.official is not None and not options.official.is_dir():
        parser.error(f"--official {options.official} is no folder; name the one with the clones of the repositories")
    return options


def _methods(text: str, registries: Registries) -> list[str]:
    """The methods that are asked for, all for ''. Raises UserError for an unknown one."""
    names = [name.strip() for name in text.split(",") if name.strip()] or registries.methods.loadable_names()
    for name in names:
        registries.methods.load(name)
    return names


def _parts(sizes: Sizes, methods: list[str], registries: Registries, official: Path | None) -> list[Part]:
    """The measurements in order of value."""
    parts = []
    for precision in ("bf16", "fp32"):
        chosen: dict[str, Value] = {"batch": sizes.batch, "repeats": sizes.repeats, "precision": precision}
        parts += [
            Part(
                f"gpu-step-{precision}",
                "step",
                {"backbone": sizes.backbone, **chosen, "finished": 1},
                lambda precision=precision: _steps(sizes, methods, registries, precision),
                likely_s=60,
            ),
            Part(
                f"gpu-attention-{precision}",
                "attention",
                chosen,
                lambda precision=precision: bench_attention(
                    batch=sizes.batch, repeats=sizes.repeats, precision=precision, device=sizes.device
                ),
                likely_s=10,
            ),
        ]
    fed: dict[str, Value] = {"images": sizes.pictures, "batches": sizes.batches, "repeats": sizes.repeats}
    parts.insert(1, Part("gpu-feed", "feed", {**fed, "cores": usable_cores()}, lambda: _feed(sizes), likely_s=40))
    if official is not None:
        chosen = {"batch": sizes.batch, "repeats": sizes.repeats, "precision": "bf16"}
        measure = lambda: _official(official, sizes)  # noqa: E731
        parts.append(Part("gpu-official", "official", chosen, measure, likely_s=120))
    return parts


def _take(part: Part, sizes: Sizes, folder: Path, is_rehearsal: bool) -> None:
    """Take one measurement, write and print it."""
    code = records.code_here()
    rows = part.measure()
    command = f"{PROGRAM}{' --rehearse' if is_rehearsal else ''}"
    conditions = records.conditions_here(sizes.device, **part.conditions)
    name = f"{part.name}-rehearsed" if is_rehearsal else part.name
    records.write(folder / f"{name}.json", records.make_measurement(part.bench, command, conditions, rows, code))
    print(f"{name}:")
    print_measures(rows)


def _steps(sizes: Sizes, methods: list[str], registries: Registries, precision: str) -> list[Row]:
    backbone = registries.backbones.load(sizes.backbone).at(Path("data"))
    rows = bench_step(
        registries,
        methods,
        backbone=backbone,
        batch=sizes.batch,
        repeats=sizes.repeats,
        precision=precision,
        device=sizes.device,
    )
    return [_with_rate(row, sizes.batch) for row in rows]


def _with_rate(row: Row, batch: int) -> Row:
    """The row with images a second, from its seconds; the matrix product as it is."""
    seconds = row["seconds"]
    if "tera_per_s" in row.measures:
        return row
    rate = Spread(batch / seconds.median, batch / seconds.most, batch / seconds.least)
    return row.model_copy(update={"measures": {"seconds": seconds, "images_a_second": rate, **row.measures}})


def _feed(sizes: Sizes) -> list[Row]:
    """Training batches a second on the device, decoded and fed by all cores."""
    device, rows = torch.device(sizes.device), []
    with TemporaryDirectory() as folder:
        files = made_files(sizes.pictures)
        for mode in ("exact", "fast"):
            stream = made_stream(files, Path(folder), mode)
            with Feeder(device, ahead=3) as feeder:
                epoch = feeder_epoch(feeder, stream, sizes.batches)
                took = []
                for repeat in range(-1, sizes.repeats):
                    one = timed_epoch(epoch, lambda: None)
                    synchronise(device)
                    took += [one] if repeat >= 0 else []
            rate = spread([sizes.batches * BATCH / one.wall for one in took])
            cpu = spread([1000 * one.cpu / sizes.batches for one in took])
            note = f"batches of {BATCH}, {SIZE} px, {usable_cores()} cores"
            rows.append(make_row(f"feeder: {mode}", note, images_a_second=rate, cpu_ms=cpu))
    return rows


def _official(folder: Path, sizes: Sizes) -> list[Row]:
    """The steps of the official code beside ours, by the script of the tests, which runs each in a process of its own.

    Raises UserError where this is no checkout of the repository or a step fails.
    """
    if not OFFICIAL_STEPS.is_file():
        raise UserError(f"--official: {OFFICIAL_STEPS} is not here; run this in a checkout of the repository")
    with TemporaryDirectory() as place:
        out = Path(place) / "official.json"
        command = [sys.executable, str(OFFICIAL_STEPS), "--official", str(folder), "--out", str(out)]
        chosen = {"precision": "bf16", "batch": sizes.batch, "repeats": sizes.repeats, "device": sizes.device}
        command += [word for key, value in chosen.items() for word in (f"--{key}", str(value))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 and not out.is_file():
            raise UserError(
                f"--official: {done.stderr.strip().splitlines()[-1] if done.stderr else 'no step was timed'}"
            )
        return records.read(out).rows


if __name__ == "__main__":
    raise SystemExit(main())
