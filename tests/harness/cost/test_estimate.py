"""Estimates: operations from stored counts that must not be old, seconds from a throughput whose source is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from smope_bench.benchmarks.base import ImageSet, Split
from smope_bench.benchmarks.datasets.glyph_domains import GlyphDomains, GlyphDomainsConfig
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.harness.conformance.fixtures import ColouredNoise
from smope_bench.harness.cost.estimate import Estimator, count_images
from smope_bench.harness.cost.pricing import (
    ASSUMED_FLOPS,
    find_rate,
    finished_cells,
    measured_rate,
    record_throughput,
    recorded_rate,
)
from smope_bench.harness.cost.stored_counts import MethodCounts, StoredCounts, stored_counts
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.record import Record
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec
from smope_bench.methods import BUILTIN
from smope_bench.methods.common.api import Method, MethodCard, TrainingData

FORWARD, BACKWARD = 100, 110
STORED = StoredCounts(FORWARD, BACKWARD, 220, 33_721_790_208, {})


class Absent(ColouredNoise):
    """Known by its owners' numbers alone."""

    name: ClassVar[str] = "absent"
    published_counts: ClassVar[tuple[int, int] | None] = (1000, 200)

    def image_set(self, split: Split) -> ImageSet:
        raise BenchmarkError("not prepared")


@pytest.fixture
def known(registries: Registries) -> Registries:
    registries.benchmarks.add(Absent.name, "tests", Absent)
    return registries


def spec(method: str, *, backbone: str = "random", tasks: int = 4, **changes: Any) -> RunSpec:
    return RunSpec(
        method=Component(name=method, config=changes.pop("config", {})),
        benchmark=Component(name="absent", config={"tasks": tasks, **changes.pop("data", {})}),
        backbone=BackboneRef(name=backbone, sha256="0"),
        schedule={"epochs": 10, **changes.pop("schedule", {})},
        **changes,
    )


def test_the_stored_counts_are_of_vit_b16() -> None:
    stored = stored_counts()
    assert set(stored.methods) == set(BUILTIN)
    assert stored.published_pass == 33_721_790_208
    assert stored.complete == 35_126_120_448 + 36_556_775_424
    assert 0.9 * 35.1e9 < stored.forward < 35.1e9 and stored.forward < stored.backward < 1.1 * stored.forward


def test_passes_follow_the_phases(known: Registries, tmp_path: Path) -> None:
    work = Estimator(known, tmp_path).work
    dense_start = work(spec("smope"))
    two_stages = work(spec("hide_prompt", config={"task_inference": {"epochs": 3}}))
    assert dense_start is not None and two_stages is not None
    assert dense_start.image_passes == 1000 * 10 + 1000 * 5 // 4, "half the epochs more, in the first of four tasks"
    assert two_stages.image_passes == 1000 * (10 + 3)
    held = work(spec("linear_probe", data={"holdout": 0.2}))
    assert held is not None and held.image_passes == 800 * 10
    closed = work(spec("ncm"))
    assert closed is not None and closed.image_passes == 1000


def test_operations_of_a_method_by_hand(known: Registries, tmp_path: Path) -> None:
    counts = {"l2p++": MethodCounts({"train": 310}, 210, queries_at_test=True)}
    stored = StoredCounts(FORWARD, BACKWARD, 220, STORED.published_pass, counts)
    work = Estimator(known, tmp_path, stored).work(spec("l2p++"))
    assert work is not None
    assert work.train_flops == 1000 * 10 * 310
    assert work.test_flops == 200 * 2.5 * 110 + 200 * FORWARD, "2.5 looks at an image in four tasks, one query"
    joint = Estimator(known, tmp_path, STORED).work(spec("joint"))
    assert joint is not None
    assert joint.train_flops == 1000 * (10 * (FORWARD + BACKWARD) + FORWARD), "one more look after the task"
    assert joint.test_flops == 200 * FORWARD, "joint training is tested once"


class Ensemble(Method):
    """A further pass at test with each task."""

    name = "ensemble"
    card = MethodCard("Ensemble", "for tests")

    @property
    def passes_at_test(self) -> int:
        return self.task_index + 1


class Single(Ensemble):
    name = "single"

    @property
    def passes_at_test(self) -> int:
        return 1


def test_passes_of_an_ensemble_grow_with_the_tasks(known: Registries, tmp_path: Path) -> None:
    """Tests after tasks 1 to 4 are of 1 to 4 tasks' images, with 1 to 4 passes: 30 passes where a single one needs 10."""
    for method in (Ensemble, Single):
        known.methods.add(method.name, "a plugin", method)
    work = Estimator(known, tmp_path).work
    many, one = work(spec("ensemble")), work(spec("single"))
    assert many is not None and one is not None and one.train_flops == many.train_flops
    assert many.test_flops == pytest.approx(3 * one.test_flops)


class Reader(Method):
    """Overrides both hooks around the steps."""

    name = "reader"
    card = MethodCard("Reader", "for tests")

    def prepare_task(self, data: TrainingData) -> None:
        """Reads the task's images."""

    def end_task(self, data: TrainingData) -> None:
        """Reads the task's images."""


class Growing(Reader):
    name = "growing"

    @property
    def statistics_passes(self) -> int:
        return self.task_index + 1


def test_passes_for_statistics_are_those_that_a_method_declares(known: Registries, tmp_path: Path) -> None:
    """Of 1,000 images in four equal tasks: two passes each, or 1 to 4; none for SD-LoRA, and one an adapter for EASE."""
    for method in (Reader, Growing, Single):
        known.methods.add(method.name, "a plugin", method)
    work = Estimator(known, tmp_path, STORED).work
    names = ("single", "reader", "growing", "sd_lora", "inflora", "ease")
    flops = {name: found.train_flops for name in names if (found := work(spec(name))) is not None}
    steps = flops["single"]
    passes = {name: (value - steps) / (1000 * FORWARD) for name, value in flops.items()}
    assert passes == {"single": 0, "reader": 2, "growing": 2.5, "sd_lora": 0, "inflora": 2, "ease": 2.5}


def test_a_method_nobody_counted_is_a_guess_from_passes(known: Registries, tmp_path: Path) -> None:
    work = Estimator(known, tmp_path, STORED).work(spec("one_prompt"))
    assert work is not None
    statistics = 1000 * FORWARD
    assert work.train_flops == 1000 * 10 * (FORWARD + BACKWARD) + statistics


def test_counts_on_disk_come_before_published_ones(known: Registries, tmp_path: Path) -> None:
    estimator = Estimator(known, tmp_path)
    absent = estimator.images(Component(name="absent", config={"tasks": 4}))
    noise = estimator.images(Component(name=ColouredNoise.name, config={"tasks": 3, "image_size": 16}))
    assert absent is not None and (absent.train, absent.test, absent.prepared) == (1000, 200, False)
    assert noise is not None and noise.prepared
    digits = estimator.images(Component(name="digits", config={"limit": 3}))
    assert digits is not None and (digits.train, digits.test, digits.prepared) == (30, 30, False)
    folder = Component(name="imagefolder", config={"content": "0" * 64})
    assert estimator.images(folder) is None, "nobody states it, and it is not read yet"
    unknown = spec("ncm").model_copy(update={"benchmark": folder})
    assert estimator.work(unknown) is None


def test_small_backbones_cost_less(known: Registries, tmp_path: Path) -> None:
    estimator = Estimator(known, tmp_path)
    assert estimator.scale(BackboneRef(name="random", sha256="")) == 1
    assert estimator.scale(BackboneRef(name="tiny", sha256="")) < 0.01


def record(seconds: float, device: str, **changes: Any) -> Record:
    found = spec(changes.pop("method", "ncm"), **changes)
    result = {"timings": {"total_s": seconds}, "provenance": {"device_name": device, "code_fingerprint": "f"}}
    return Record(found.run_id, {"spec": found.model_dump(mode="json"), **result})


def test_throughput_is_measured_on_the_same_size_and_precision(known: Registries, tmp_path: Path) -> None:
    estimator = Estimator(known, tmp_path, STORED)
    work = estimator.work(spec("ncm"))
    assert work is not None
    records = [
        record(4.0, "slow"),
        record(1.0, "fast"),
        record(2.0, "fast"),
        record(3.0, "fast"),
        record(0.001, "other", backbone="tiny"),
        record(0.001, "other", precision="bf16"),
        record(0.0, "other"),
    ]
    records.append(Record("x", {**records[0].result, "spec": {"of": "another version"}}))
    rate = measured_rate(finished_cells(records), estimator, spec("ridge"))
    assert rate is not None and (rate.flops_per_s, rate.source) == (work.flops / 2.0, "measured: finished runs on fast")
    assert measured_rate(finished_cells(records[-2:]), estimator, spec("ridge")) is None


def test_closed_form_runs_say_nothing_of_training_by_steps(known: Registries, tmp_path: Path) -> None:
    estimator = Estimator(known, tmp_path, STORED)
    records = [record(0.1, "fast"), record(9.0, "fast", method="linear_probe")]
    work = estimator.work(spec("linear_probe"))
    rate = measured_rate(finished_cells(records), estimator, spec("smope"))
    assert work is not None and rate is not None and rate.flops_per_s == work.flops / 9.0
    assert measured_rate(finished_cells(records[:1]), estimator, spec("smope")) is None
    assert find_rate(finished_cells(records[:1]), estimator, spec("smope", backbone="tiny"), tmp_path, None) is None


CONDITIONS = {"backbone": "random", "batch": 128, "precision": "fp32", "device": "GPU", "torch": "2"}


def test_the_source_of_a_throughput_is_said(known: Registries, tmp_path: Path) -> None:
    estimator = Estimator(known, tmp_path)

    def rate(tflops: float | None = None, records: tuple[Record, ...] = (), backbone: str = "random") -> Any:
        return find_rate(finished_cells(records), estimator, spec("ncm", backbone=backbone), tmp_path, tflops)

    assumed = rate()
    assert assumed.flops_per_s == ASSUMED_FLOPS["fp32"]
    bench = "bench step --device cuda --batch 128 --precision fp32 --record"
    assert "assumed" in assumed.words and "not measured" in assumed.words
    assert f"`smope-bench {bench} --results {tmp_path}`" in assumed.words
    kept = record_throughput(0.5, CONDITIONS, estimator, tmp_path)
    assert kept.flops_per_s == 128 * stored_counts().complete / 0.5
    assert rate() == recorded_rate(tmp_path, "fp32") == kept
    assert recorded_rate(tmp_path, "bf16") is None
    assert "bench step on GPU" in kept.words
    assert rate(records=(record(2.0, "mine"),)).source == "measured: finished runs on mine"
    assert rate(tflops=3.5, records=(record(2.0, "mine"),)).words == "3.5 TFLOP/s (given by --tflops)"
    assert rate(backbone="tiny") is None, "a GPU's figure says nothing of the tiny backbone"


def test_only_vit_b16_is_recorded(known: Registries, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="backbone 'tiny' is not"):
        record_throughput(0.5, CONDITIONS | {"backbone": "tiny"}, Estimator(known, tmp_path), tmp_path)
    (tmp_path / "throughput.json").write_text("{not json")
    assert recorded_rate(tmp_path, "fp32") is None
    (tmp_path / "throughput.json").write_text('{"fp32": {"device": "x"}}')
    assert recorded_rate(tmp_path, "fp32") is None


def test_what_cannot_be_walked_counts_as_one_phase(
    known: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = known.methods.load("linear_probe")

    def broken(self: Any) -> Any:
        raise RuntimeError("needs a real backbone")

    monkeypatch.setattr(probe, "phases", broken)
    work = Estimator(known, tmp_path).work(spec("linear_probe"))
    assert work is not None and work.image_passes == 10_000


def test_phases_are_walked_by_one_thread(known: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe, before, seen = known.methods.load("linear_probe"), torch.get_num_threads(), list[int]()
    phases = probe.phases
    monkeypatch.setattr(probe, "phases", lambda self: seen.append(torch.get_num_threads()) or phases(self))
    torch.set_num_threads(2)
    try:
        Estimator(known, tmp_path).work(spec("linear_probe"))
        assert set(seen) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_stream_that_stops_early_has_the_images_of_its_tasks(registries: Registries, tmp_path: Path) -> None:
    half = {"tasks": 10, "stop_after": 5}
    for config, expected in (
        (half, (719, 180)),
        (half | {"limit": 6}, (30, 30)),
    ):
        counts = count_images(registries, Component(name="digits", config=config), tmp_path)
        assert counts is not None and (counts.train, counts.test) == expected
    absent = count_images(registries, Component(name="emoji_r", config=half), tmp_path)
    assert absent is not None and (absent.train, absent.test, absent.prepared) == (4800, 1200, False)


def test_images_of_domains_are_those_of_the_chosen_ones_limited_in_each(registries: Registries, tmp_path: Path) -> None:
    chosen = {"classes": 3, "domains": ("plain", "outline"), "tasks": 2, "train_per_class": 5, "test_per_class": 4}
    GlyphDomains(GlyphDomainsConfig.model_validate(chosen), tmp_path / "there").prepare()
    for limit, expected in ((None, (30, 24)), (2, (12, 12)), (9, (30, 24))):
        component = Component(name="glyph_domains", config=chosen | ({"limit": limit} if limit else {}))
        for place in ("there", "not prepared"):
            found = Estimator(registries, tmp_path / place).images(component)
            assert found is not None
            assert (found.train, found.test, found.prepared, found.protocol) == (*expected, place == "there", "domain")


def test_every_domain_is_tested_on_after_each(known: Registries, tmp_path: Path) -> None:
    domains = Component(name="glyph_domains", config={"classes": 3, "test_per_class": 4, "tasks": 6})
    for method, times in (("one_prompt", 6), ("joint", 1)):
        work = Estimator(known, tmp_path, STORED).work(spec(method).model_copy(update={"benchmark": domains}))
        assert work is not None
        assert work.test_flops == pytest.approx(3 * 4 * 6 * times * FORWARD), method
