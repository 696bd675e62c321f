"""What planned runs cost in seconds: medians of finished runs, else operations at a measured or assumed throughput."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from smope_bench.harness.cost.estimate import Estimator, trained_on
from smope_bench.harness.cost.stored_counts import stored_counts
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.assets import image_settings
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.records.atomic_write import write_json_atomically
from smope_bench.harness.records.record import Record, without_seeds
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import BackboneRef, CanonicalTexts, RunSpec
from smope_bench.harness.text import shell_command

ASSUMED_FLOPS: Mapping[str, float] = {"fp32": 10e12, "tf32": 20e12, "bf16": 40e12}
"""Assumed operations a second of a data-centre GPU, about half of an A100's fp32 peak and an eighth of its tf32 and bf16
peaks.
Not measured; plans that use them are labelled so."""
LEAST_SCALE = 0.02
"""Operations of a pass relative to ViT-B/16's, below which a throughput measured on that says nothing."""
THROUGHPUT_FILE = "throughput.json"


@dataclass(frozen=True)
class Rate:
    """Operations a second and where they come from, such as ``given by --tflops`` or ``measured: bench step on ...``."""

    flops_per_s: float
    source: str

    @property
    def words(self) -> str:
        """``10 TFLOP/s (given by --tflops)``."""
        return f"{self.flops_per_s / 1e12:.3g} TFLOP/s ({self.source})"


@dataclass(frozen=True)
class FinishedCell:
    """Finished runs on one device whose specifications differ in their seeds alone: what they share, and all computing times."""

    spec: Mapping[str, Any]
    device: str
    seconds: list[float]

    @property
    def names(self) -> tuple[str, str, str]:
        """Method, benchmark and backbone."""
        method, benchmark, backbone = (self.spec[part]["name"] for part in ("method", "benchmark", "backbone"))
        return method, benchmark, backbone


def finished_cells(records: Iterable[Record]) -> list[FinishedCell]:
    """What plans need of the finished runs. Of many thousands of records, only this is kept."""
    found: dict[tuple[str, str], FinishedCell] = {}
    texts = CanonicalTexts()
    for record in records:
        try:
            one = _Finished.model_validate(record.result)
        except ValidationError:
            continue
        spec, made = without_seeds(record.spec), record.result.get("provenance")
        device = str(made.get("device_name", "")) if isinstance(made, dict) else ""
        cell = found.setdefault((texts.of({"spec": spec}), device), FinishedCell(spec, device, []))
        cell.seconds.append(one.timings.total_s)
    return list(found.values())


def measured_rate(finished: Iterable[FinishedCell], estimator: Estimator, spec: RunSpec) -> Rate | None:
    """Median throughput of finished runs on the fastest device, with the same backbone size and precision.

    They are all trained by steps or all in closed form, as ``spec`` is: these differ in batches and in what is read from caches.
    """
    size, found = estimator.scale(spec.backbone), dict[str, list[float]]()
    in_closed_form = estimator.is_closed_form(spec)
    for cell in finished:
        try:
            other = RunSpec(**cell.spec)
            if other.precision != spec.precision or estimator.scale(other.backbone) != size:
                continue
            work = estimator.work(other) if estimator.is_closed_form(other) == in_closed_form else None
        except (UserError, ValueError):  # runs of a missing plugin, or of another version
            continue
        if work is not None and (rates := [work.flops / seconds for seconds in cell.seconds if seconds > 0]):
            found.setdefault(cell.device, []).extend(rates)
    rates = {device: statistics.median(values) for device, values in found.items()}
    best = max(rates, key=lambda device: rates[device], default=None)
    return None if best is None else Rate(rates[best], f"measured: finished runs on {best}")


def find_rate(
    finished: Sequence[FinishedCell],
    estimator: Estimator,
    spec: RunSpec,
    results: Path,
    tflops: float | None,
) -> Rate | None:
    """Throughput for a run: given by the user, else of finished runs, else of ``bench step --record``, else assumed.

    None for a backbone far smaller than ViT-B/16 without finished runs: its steps are too short for a GPU's throughput.
    """
    if tflops is not None:
        return Rate(tflops * 1e12, "given by --tflops")
    measured = measured_rate(finished, estimator, spec)
    if measured is not None or estimator.scale(spec.backbone) < LEAST_SCALE:
        return measured
    bench = ("bench", "step", "--device", "cuda", "--batch", "128", "--precision", spec.precision, "--record")
    measure = f"measure with `{shell_command(*bench, results=results)}`, or give --tflops"
    assumed = Rate(ASSUMED_FLOPS[spec.precision], f"assumed for a data-centre GPU, not measured; {measure}")
    return recorded_rate(results, spec.precision) or assumed


def record_throughput(bare_seconds: float, conditions: Mapping[str, Any], estimator: Estimator, results: Path) -> Rate:
    """Store the throughput of ``bench step``'s bare step on ViT-B/16: a forward and a backward down to the image.

    ``conditions`` are those of the measurement. Raises UserError for a backbone of another size, which plans cannot use.
    """
    backbone, device = str(conditions["backbone"]), str(conditions["device"])
    if estimator.scale(BackboneRef(name=backbone, sha256="")) != 1:
        raise UserError(f"--record keeps the throughput of ViT-B/16, which backbone {backbone!r} is not")
    flops_per_s = conditions["batch"] * stored_counts().complete / bare_seconds
    entry = {"flops_per_s": flops_per_s, **{key: conditions[key] for key in ("device", "batch", "torch")}}
    write_json_atomically(results / THROUGHPUT_FILE, _recorded(results) | {str(conditions["precision"]): entry})
    return Rate(flops_per_s, f"measured: bench step on {device}")


def recorded_rate(results: Path, precision: str) -> Rate | None:
    """The throughput stored by ``bench step --record`` in the results folder; None if there is none."""
    entry = _recorded(results).get(precision)
    if not isinstance(entry, dict) or not isinstance(entry.get("flops_per_s"), int | float) or "device" not in entry:
        return None
    try:
        return Rate(float(entry["flops_per_s"]), f"measured: bench step on {entry['device']}")
    except OverflowError:
        return None


def _recorded(results: Path) -> dict[str, Any]:
    try:
        found = json.loads((results / THROUGHPUT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class Pricing:
    """Costs of planned runs, from the finished ones in the folder ``results``, of which outlines are enough."""

    def __init__(
        self, finished: Iterable[Record], registries: Registries, data: Path, results: Path, tflops: float | None
    ) -> None:
        self._registries, self._data, self._results, self._tflops = registries, data, results, tflops
        self._finished = finished_cells(finished)
        self._medians = median_seconds(self._finished)
        self._estimator = Estimator(registries, data)
        self._rates: dict[tuple[str, str, bool], Rate | None] = {}
        self._image_settings: dict[str, tuple[str, ...]] = {}

    def price(self, run: PlannedRun) -> dict[str, Any]:
        """A plan's columns of costs, and what must be downloaded first."""
        spec = run.spec
        work = self._estimator.work(spec)
        seconds, rate = self._medians.get((run.method, spec.benchmark.name, spec.backbone.name)), None
        if (seconds is None or self._tflops is not None) and work is not None:
            rate = self._rate(run)
            seconds = work.flops / rate.flops_per_s if rate else seconds
        return {
            "train_image_passes": work and work.image_passes,
            "flops": work and work.flops,
            "seconds": seconds,
            "throughput": rate and rate.words,
            "needs": self._needs(run),
        }

    def train_images(self, run: PlannedRun) -> int | None:
        """Training images of a run, less those that it holds out."""
        images = self._estimator.images(run.spec.benchmark)
        return images and trained_on(images.train, run.spec)

    def _rate(self, run: PlannedRun) -> Rate | None:
        in_closed_form = self._estimator.is_closed_form(run.spec)
        key = (run.spec.backbone.model_dump_json(), run.spec.precision, in_closed_form)
        if key not in self._rates:
            self._rates[key] = find_rate(self._finished, self._estimator, run.spec, self._results, self._tflops)
        return self._rates[key]

    def _needs(self, run: PlannedRun) -> list[dict[str, Any]]:
        needs = []
        if run.lacks_weights:
            name = run.spec.backbone.name
            size = _bytes(self._registries.backbones.load(name))
            needs.append({"kind": "backbone", "name": name, "bytes": size, "settings": ()})
        benchmark = self._registries.benchmarks.load(run.spec.benchmark.name)
        images = self._estimator.images(run.spec.benchmark)
        if getattr(benchmark, "remotes", ()) and not (images and images.prepared):
            name, config, key = benchmark.name, run.spec.benchmark.config, run.spec.benchmark.model_dump_json()
            if key not in self._image_settings:
                self._image_settings[key] = image_settings(name, config, self._registries, self._data)
            settings = self._image_settings[key]
            needs.append({"kind": "benchmark", "name": name, "bytes": _bytes(benchmark), "settings": settings})
        return needs


def _bytes(owner: Any) -> int | None:
    """Approximate bytes of the download; None where the size of a file is not stated."""
    if megabytes := getattr(owner, "megabytes", None):
        return int(megabytes) * 10**6
    sizes = [remote.size for remote in getattr(owner, "remotes", ())]
    return sum(sizes) if sizes and all(sizes) else None


class _Named(BaseModel):
    name: str


class _Spec(BaseModel):
    method: _Named
    benchmark: _Named
    backbone: _Named


class _Timings(BaseModel):
    total_s: float = 0.0


class _Finished(BaseModel):
    """Form of the parts of a record that tell how long its run took; one of another form, though sealed, tells nothing."""

    model_config = ConfigDict(allow_inf_nan=False)
    spec: _Spec
    timings: _Timings


def median_seconds(finished: Iterable[FinishedCell]) -> dict[tuple[str, str, str], float]:
    """Median computing time of finished runs by (method, benchmark, backbone)."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for cell in finished:
        found.setdefault(cell.names, []).extend(cell.seconds)
    return {key: statistics.median(values) for key, values in found.items()}
