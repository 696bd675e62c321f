"""What is timed of evaluation is what the evaluator does, and kept queries are what makes the difference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.timing.claims.evaluation import TASKS, bench_eval, bench_tap, noise_stream
from smope_bench.harness.timing.records import Spread
from smope_bench.harness.training.batches import feature_cache as queries
from smope_bench.methods.common.backbone.backbones import MICRO


def test_queries_are_computed_once_when_cold_never_when_warm_and_always_without(
    registries: Registries, counted: list[int]
) -> None:
    (row,) = bench_eval(registries, ["dualprompt"], backbone=MICRO, images=3, repeats=1, device="cpu")
    assert row["uncached_s"].median > 0 and row["warm"].median > 0
    # Always as many at a time as a task has test images. The warm-up fills the folder that the later run finds.
    uncached, once = [3] * sum(range(1, TASKS + 1)), [3] * TASKS
    assert counted == [*once, *uncached, *once]


def test_a_first_run_writes_its_queries_and_a_later_one_finds_them(
    registries: Registries, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    original = queries._write  # pyright: ignore[reportPrivateUsage]

    def noted(file: Path, values: torch.Tensor) -> None:
        written.append(str(file.parent.parent))
        original(file, values)

    monkeypatch.setattr(queries, "_write", noted)
    bench_eval(registries, ["dualprompt"], backbone=MICRO, images=1, repeats=2, device="cpu")
    assert len(written) == len(set(written)) == 3, "the warm-up, and each first run in a fresh folder"


def test_methods_that_ask_for_nothing_or_train_nothing_are_left_out(registries: Registries) -> None:
    names = ["smope", "ncm", "joint_head"]
    assert bench_eval(registries, names, backbone=MICRO, images=1, repeats=1, device="cpu") == []


def test_the_stream_of_noise_has_a_class_a_task() -> None:
    stream = noise_stream(16, 4)
    assert stream.num_classes == stream.num_tasks == TASKS and [len(view) for view in stream.tests] == [4] * TASKS
    assert torch.equal(torch.tensor(stream.tests[2].labels.tolist()), torch.full((4,), 2))


def test_alignment_is_timed_for_both_covariances() -> None:
    rows = bench_tap(classes=20, dim=8, epochs=1, repeats=2, device="cpu")
    assert [row.name for row in rows] == ["diag covariances", "full covariances"]
    assert all(row["seconds"].least > 0 and row["classes"] == Spread(20, 20, 20, is_count=True) for row in rows)
