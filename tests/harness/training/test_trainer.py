"""The loop: records, determinism, resume, divergence, and what is kept out of a method's reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smope_bench.harness.cancellation import LeaseLost
from smope_bench.harness.conformance.fixtures import TEST_IMAGES
from smope_bench.harness.errors import RunDivergedError, UserError
from smope_bench.harness.metrics import final_average_accuracy
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_spec import BackboneRef, RunSpec
from smope_bench.harness.training import trainer as engine
from smope_bench.methods.common.api import Batch, Method, MethodCard, ParameterGroup, TaskInfo, TrainingData
from tests.conftest import MICRO, micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.stand_ins import given  # pyright: ignore[reportMissingImports]

TAP = {"epochs": 2, "samples": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "smope": {"tap": TAP},
    "one_prompt": {"tap": TAP | {"enabled": True}},
    "linear_probe": {"tap": TAP | {"enabled": True}},
    "ncm": {},
    "ridge": {},
    "joint": {},
}


class Probe(Method):
    """A plugin that notes all it is given."""

    name: ClassVar[str] = "probe"
    card = MethodCard("Probe", "notes what it is given")
    seen: ClassVar[list[Any]] = []
    fails_in_task: ClassVar[int | None] = None

    def __init__(self, config: Any, backbone: Any, setup: Any) -> None:
        super().__init__(config, backbone, setup)
        self.head = nn.Linear(backbone.feature_dim, setup.num_classes)
        self.undeclared = nn.Parameter(torch.ones(1))

    def begin_task(self, task: TaskInfo) -> None:
        self.seen.append(("begin", task))

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("head", list(self.head.parameters()))]

    def training_step(self, batch: Batch) -> Tensor:
        self.seen.append(("step", sorted(set(batch.targets.tolist()))))
        assert self.undeclared.grad is None and not self.undeclared.requires_grad
        loss = nn.functional.cross_entropy(self.head(self.backbone(batch.images)), batch.targets) * self.undeclared
        return loss * float("inf") if self.task_index == self.fails_in_task else loss.squeeze()

    def end_task(self, data: TrainingData) -> None:
        self.seen.append(("end", sorted({int(y) for batch in data.batches() for y in batch.targets})))

    def predict(self, batch: Batch) -> Tensor:
        assert batch.labels is None
        return self.head(self.backbone(batch.images))[:, : self.seen_classes]


def run(spec: RunSpec, registries: Registries, folder: Path, **options: Any) -> Record:
    engine.run(spec, *given(folder, folder / "data", **options), registries=registries)
    record = Store(folder).load(spec.run_id)
    assert isinstance(record, Record)
    return record


@pytest.mark.parametrize("method", CONFIGS)
def test_every_method_runs_and_repeats_bit_for_bit(method: str, registries: Registries, tmp_path: Path) -> None:
    spec = micro_spec(method, CONFIGS[method])
    torch.manual_seed(123)
    first = run(spec, registries, tmp_path / "a")
    torch.manual_seed(321)
    second = run(spec, registries, tmp_path / "b")
    assert first.result["accuracy_matrix"] == second.result["accuracy_matrix"]
    predictions = [np.load(tmp_path / side / spec.run_id / "predictions.npz") for side in "ab"]
    assert set(predictions[0]) == {"labels", "stage_0", "stage_1", "stage_2"}
    assert all((predictions[0][name] == predictions[1][name]).all() for name in predictions[0])


def test_the_record_says_what_it_must(registries: Registries, tmp_path: Path) -> None:
    record = run(micro_spec("smope", CONFIGS["smope"], order_seed=3), registries, tmp_path)
    result = record.result
    matrix = result["accuracy_matrix"]
    assert [[value is None for value in row] for row in matrix] == [[i > t for i in range(3)] for t in range(3)]
    assert all(0 <= value <= 100 for row in matrix for value in row if value is not None)
    assert result["test_counts"] == [2 * TEST_IMAGES] * 3
    assert sorted(result["class_order"]) == list(range(6))
    assert result["class_names"] == [f"noise {i}" for i in result["class_order"]]
    assert result["costs"]["learnable_parameters"] == 2 * 6 * 2 * 25 * 12 + 24 * 6 + 6
    assert result["provenance"]["weights_sha256"] == record.spec["backbone"]["sha256"]
    assert result["flags"] == {"tiny": False, "random_backbone": True, "unverified_weights": False, "leaking": False}
    assert len(result["timings"]["tasks"]) == 3
    events = [json.loads(line) for line in (tmp_path / record.run_id / "events.jsonl").read_text().splitlines()]
    assert [event["task"] for event in events if event["event"] == "task_evaluated"] == [0, 1, 2]
    assert sum(event["event"] == "epoch" for event in events) == (1 + 2) + 2 + 2


def test_predictions_and_matrix_agree(registries: Registries, tmp_path: Path) -> None:
    record = run(micro_spec("ridge"), registries, tmp_path)
    stored = np.load(tmp_path / record.run_id / "predictions.npz")
    for stage, row in enumerate(record.result["accuracy_matrix"]):
        for task in range(stage + 1):
            part = slice(2 * TEST_IMAGES * task, 2 * TEST_IMAGES * (task + 1))
            accuracy = 100 * float((stored[f"stage_{stage}"][part] == stored["labels"][part]).mean())
            assert accuracy == row[task]


def test_a_method_sees_only_the_current_task(registries: Registries, tmp_path: Path) -> None:
    registries.methods.add("probe", "tests", Probe)
    Probe.seen.clear()
    run(micro_spec("probe"), registries, tmp_path)
    tasks = [entry for kind, entry in Probe.seen if kind == "begin"]
    assert [(task.index, task.new_classes, task.class_counts) for task in tasks] == [
        (t, range(2 * t, 2 * t + 2), (12, 12)) for t in range(3)
    ]
    stages, current = [], -1
    for kind, entry in Probe.seen:
        current += kind == "begin"
        if kind != "begin":
            stages.append(set(entry) <= {2 * current, 2 * current + 1})
    assert len(stages) == 3 * (2 * 3 + 1) and all(stages)


def test_joint_trains_once_on_everything(registries: Registries, tmp_path: Path) -> None:
    record = run(micro_spec("joint"), registries, tmp_path)
    matrix = record.result["accuracy_matrix"]
    assert matrix[:2] == [[None] * 3] * 2 and None not in matrix[2]
    assert record.result["costs"]["train_images"] == 2 * 72


class Killed(BaseException):
    """Stands for the power failing."""


def cut_off(spec: RunSpec, registries: Registries, folder: Path) -> None:
    """Run until the last task begins."""

    def pull_the_plug(event: dict[str, Any]) -> None:
        if event["event"] == "task_started" and event["task"] == 2:
            raise Killed

    with pytest.raises(Killed):
        run(spec, registries, folder, on_event=pull_the_plug)


def tasks_started(spec: RunSpec, registries: Registries, folder: Path) -> tuple[list[int], Record]:
    """Run to the end; which tasks were trained, and the record."""
    started: list[int] = []

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "task_started":
            started.append(event["task"])

    record = run(spec, registries, folder, on_event=note)
    return started, record


def test_a_killed_run_continues_to_the_same_bits(registries: Registries, tmp_path: Path) -> None:
    spec = micro_spec("smope", CONFIGS["smope"])
    whole = run(spec, registries, tmp_path / "whole")
    cut_off(spec, registries, tmp_path / "cut")
    assert Store(tmp_path / "cut").load(spec.run_id) is None
    started, resumed = tasks_started(spec, registries, tmp_path / "cut")
    assert started == [2]
    assert resumed.result["accuracy_matrix"] == whole.result["accuracy_matrix"]
    assert resumed.result["costs"]["train_images"] == whole.result["costs"]["train_images"]
    cut, full = (np.load(tmp_path / side / spec.run_id / "predictions.npz") for side in ("cut", "whole"))
    assert all((cut[name] == full[name]).all() for name in full)
    events = (tmp_path / "cut" / spec.run_id / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["task"] for line in events if "task_evaluated" in line] == [0, 1, 2]


def test_a_run_is_not_continued_on_other_images(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = micro_spec("ncm")
    cut_off(spec, registries, tmp_path)
    images = registries.benchmarks.load(spec.benchmark.name)
    monkeypatch.setattr(images, "content_hash", lambda self: "other")
    started, record = tasks_started(spec, registries, tmp_path)
    assert started == [0, 1, 2] and record.result["split_hash"]


def test_a_published_run_keeps_no_checkpoint(registries: Registries, tmp_path: Path) -> None:
    record = run(micro_spec("ncm"), registries, tmp_path)
    kept = {path.name for path in (tmp_path / record.run_id).iterdir()}
    assert kept == {"events.jsonl", "model.safetensors", "predictions.npz", "result.json", "spec.json"}


def test_whoever_looks_before_another_publishes_does_not_publish_after_it(
    registries: Registries, tmp_path: Path
) -> None:
    """A process is stopped, for as long as it may be, between its last look at its lease and its last write."""
    spec = micro_spec("ncm")
    other = run(spec, registries, tmp_path / "other")
    folder, published = tmp_path / spec.run_id, (tmp_path / "other" / spec.run_id / "result.json").read_bytes()

    def may_publish() -> bool:
        if (folder / "predictions.npz").exists():
            (folder / "result.json").write_bytes(published)
        return True

    options, context = given(tmp_path, may_publish=may_publish)
    with pytest.raises(LeaseLost):
        engine.run(spec, options, context, registries)
    assert (folder / "result.json").read_bytes() == published
    assert Store(tmp_path).state(spec.run_id, other.fingerprint) == "done"


def test_divergence_names_the_step_and_the_last_good_task(registries: Registries, tmp_path: Path) -> None:
    registries.methods.add("probe", "tests", Probe)
    Probe.fails_in_task = 1
    try:
        with pytest.raises(RunDivergedError, match=r"inf at step 0 of phase 'train' of task 1 \(last good task: 0\)"):
            run(micro_spec("probe"), registries, tmp_path)
    finally:
        Probe.fails_in_task = None


def test_divergence_in_the_middle_of_an_epoch_names_its_own_step(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is read one step late; what the next step makes of the damage is not what is reported."""
    steps = iter(range(100))

    def training_step(self: Probe, batch: Batch) -> Tensor:
        step, loss = next(steps), nn.functional.cross_entropy(self.head(self.backbone(batch.images)), batch.targets)
        if step == 5:
            raise RuntimeError("not a number in, no decomposition out")
        return loss * (float("nan") if step == 4 else 1)

    registries.methods.add("probe", "tests", Probe)
    monkeypatch.setattr(Probe, "training_step", training_step)
    with pytest.raises(RunDivergedError, match=r"nan at step 4 of phase 'train' of task 0 \(no task was finished\)"):
        run(micro_spec("probe"), registries, tmp_path)


def test_other_weights_than_planned_are_refused(registries: Registries, tmp_path: Path) -> None:
    spec = micro_spec("ncm").model_copy(update={"backbone": BackboneRef(name=MICRO.name, sha256="0" * 64)})
    with pytest.raises(UserError, match="planned with 0000"):
        run(spec, registries, tmp_path)


def test_bf16_runs(registries: Registries, tmp_path: Path) -> None:
    record = run(micro_spec("smope", CONFIGS["smope"], precision="bf16"), registries, tmp_path)
    assert final_average_accuracy(record.result["accuracy_matrix"]) is not None


def test_half_precision_follows_the_weights(registries: Registries, tmp_path: Path) -> None:
    """A cast weight that is remembered from step to step would be the weight before training."""

    class Caster(Probe):
        name: ClassVar[str] = "caster"

        def training_step(self, batch: Batch) -> Tensor:
            logits = self.head(self.backbone(batch.images))
            fresh = self.head.weight.detach().bfloat16()
            features = self.backbone(batch.images).bfloat16()
            assert torch.equal(logits, torch.nn.functional.linear(features, fresh, self.head.bias.detach().bfloat16()))
            return nn.functional.cross_entropy(logits.float(), batch.targets)

    registries.methods.add("caster", "tests", Caster)
    run(micro_spec("caster", precision="bf16"), registries, tmp_path)
