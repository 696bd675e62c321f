"""The kit passes every built-in method and catches each way of cheating by accident."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smope_bench.benchmarks.base import BenchmarkConfig
from smope_bench.benchmarks.stream import View, build_stream
from smope_bench.harness.conformance.check import check, check_target, failed
from smope_bench.harness.conformance.checks import device as device_checks
from smope_bench.harness.conformance.checks.device import DeviceRun, run_on_pretend_device
from smope_bench.harness.conformance.fixtures import ColouredNoise, kept_test_images, with_other_future
from smope_bench.harness.registry.registry import open_registries
from smope_bench.methods import BUILTIN
from smope_bench.methods.common.api import Batch, Method
from tests.harness.conformance.cheats import (  # pyright: ignore[reportMissingImports]
    LEARNING,
    CannotBeDivided,
    CountsTheStepsOfATask,
    GoesAroundThePasses,
    Honest,
    Prompted,
    verdicts_of,
    verdicts_one_by_one,
)
from tests.harness.conformance.cheats_answering import (  # pyright: ignore[reportMissingImports]
    ANSWERING,
    CalibratesLargeBatches,
    CannotTellTwoClassesApart,
    PeeksAtTheTask,
)

CHEATS: dict[type[Method], str] = ANSWERING | LEARNING


def test_an_honest_plugin_passes() -> None:
    verdicts = verdicts_of(Honest)
    assert failed(verdicts) == []
    assert len(verdicts) == 21
    assert len({verdict.name for verdict in verdicts}) == 21
    assert not any(verdict.remedy for verdict in verdicts)


def test_a_tie_between_classes_may_be_broken_either_way() -> None:
    verdicts = [one for one in verdicts_one_by_one(CannotTellTwoClassesApart) if one.name.startswith("independent of")]
    assert len(verdicts) == 5 and failed(verdicts) == []


def test_what_a_method_costs_is_said() -> None:
    """A head of 200 x 24 weights and 200 biases; a gradient only through it, so little more than a forward pass."""
    cost = verdicts_of(Honest)[-1]
    assert cost.name == "cost" and cost.detail.startswith("5,000 learnable parameters for 10 tasks with 200 classes")
    assert "; 1.0 forward passes a training image, 1.0 a test image" in cost.detail


@pytest.mark.parametrize("method", CHEATS, ids=lambda method: method.__name__)
def test_every_cheat_is_caught(method: type[Method]) -> None:
    caught = (one for one in verdicts_one_by_one(method) if not one.passed and one.name == CHEATS[method])
    assert next(caught).remedy, "without a word on what to do"


@pytest.mark.parametrize("name", BUILTIN)
def test_every_built_in_method_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run under bf16 autocast on the pretend device neither mixes devices nor makes the host wait in a step."""
    pretended: list[DeviceRun] = []

    def kept(*args: Any, **options: Any) -> DeviceRun:
        pretended.append(run_on_pretend_device(*args, **options))
        return pretended[-1]

    monkeypatch.setattr(device_checks, "run_on_pretend_device", kept)
    assert failed(check(name, open_registries())) == []
    assert len(pretended) == (not torch.cuda.is_available())
    for found in pretended:
        assert found.report.mixed == [] and found.report.casts > 0
        assert not {phase for phase in ("training_step", "descend", "predict") if found.waits(phase)}


class Settles(Honest):
    """Trains only the current task's rows, and says so."""

    def training_step(self, batch: Batch) -> Tensor:
        logits = self.predict(batch)[:, self.old_classes :]
        return nn.functional.cross_entropy(logits, batch.targets - self.old_classes)

    def settled(self) -> dict[str, Tensor]:
        return {
            f"rows of task {task}": self.head.weight[2 * task : 2 * task + 2] for task in range(self.task_index + 1)
        }


def test_what_stays_settled_passes() -> None:
    verdicts = verdicts_of(Settles)
    assert failed(verdicts) == []
    assert "3 settled tensors" in next(one.detail for one in verdicts if one.name == "earlier tasks settled")


def test_only_the_large_batch_gives_its_calibration_away() -> None:
    assert [one.name for one in failed(verdicts_of(CalibratesLargeBatches))] == [
        "independent of batch size 128",
        "independent of shuffled order",
    ]


def pixels(view: View) -> np.ndarray:
    return np.asarray(view.take(slice(None))[0])


def test_the_changed_stream_differs_only_where_a_method_may_not_look(tmp_path: Path) -> None:
    stream = build_stream(ColouredNoise(BenchmarkConfig(tasks=3, image_size=16), tmp_path), 0)
    changed = with_other_future(stream)
    for task, other in zip(stream.tasks[:2], changed.tasks[:2], strict=True):
        assert np.array_equal(pixels(task.train), pixels(other.train))
        assert np.array_equal(task.train.labels, other.train.labels)
    last, other = stream.tasks[2].train, changed.tasks[2].train
    assert not np.array_equal(last.labels, other.labels) and sorted(last.labels) == sorted(other.labels)
    assert (pixels(last) != pixels(other)).any(axis=(1, 2, 3)).all()
    kept = kept_test_images(stream, 3)
    same = [
        (pixels(one) == pixels(two)).all(axis=(1, 2, 3)) for one, two in zip(stream.tests, changed.tests, strict=True)
    ]
    assert np.array_equal(np.concatenate(same), kept) and kept.sum() == len(kept) / 2 >= 64


def test_only_the_task_id_gives_who_peeks_at_it_away() -> None:
    """It answers the kit honestly: nothing but the run's own answers can tell."""
    assert [one.name for one in failed(verdicts_of(PeeksAtTheTask))] == ["blind to the task id"]


def test_a_labelled_leak_is_refused() -> None:
    class Leaks(Honest):
        @classmethod
        def leaks(cls, config: Any) -> bool:
            return True

    assert [verdict.name for verdict in verdicts_of(Leaks)] == ["honest"]


def test_a_plugin_file_is_checked_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from smope_bench.methods.baselines.ncm import Ncm\nclass Mine(Ncm):\n    name = 'mine'\n    card = Ncm.card\n",
        encoding="utf-8",
    )
    found = check_target(str(file))
    assert list(found) == ["mine"] and failed(found["mine"]) == []


def test_a_prompt_that_keeps_the_contract_passes() -> None:
    verdicts = verdicts_of(Prompted)
    assert failed(verdicts) == []
    said = next(one.detail for one in verdicts if one.name == "short of memory")
    assert said.startswith("blocks recomputed: same predictions, same state; 3 images at a time: largest relative")


def test_a_plan_without_effect_is_no_pass() -> None:
    (verdict,) = failed(verdicts_of(GoesAroundThePasses))
    assert (
        verdict.detail
        == "blocks recomputed: without effect in blocks 0, 1, 2, 3, 4, 5, whose graph is kept all the same"
    )


def test_where_no_gradient_goes_through_the_blocks_it_is_said() -> None:
    said = next(one.detail for one in verdicts_one_by_one(Honest) if one.name == "short of memory")
    assert said.startswith("blocks recomputed: no gradient goes through them; 3 images at a time: largest relative")


def test_why_a_rule_cannot_be_divided_is_said() -> None:
    (verdict,) = failed(verdicts_of(CannotBeDivided))
    assert "cannot be split by images (RuntimeError: The size of tensor" in verdict.detail
    assert "part(rows)" in verdict.remedy


def test_a_counter_that_begins_with_a_task_is_found_inside_one() -> None:
    (verdict,) = failed(verdicts_of(CountsTheStepsOfATask))
    assert verdict.detail.startswith("stopped every 5 steps and continued: differs in ")
