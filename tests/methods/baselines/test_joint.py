"""The ceiling of the head alone: it differs from its floor only in what it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from smope_bench.harness.metrics import final_average_accuracy
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.training import trainer as engine
from smope_bench.methods.baselines.joint import JointHead
from smope_bench.methods.baselines.linear_probe import LinearProbe
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.stand_ins import given  # pyright: ignore[reportMissingImports]


def test_it_is_the_linear_probe_on_a_merged_stream() -> None:
    assert JointHead.trains_jointly and not LinearProbe.trains_jointly
    for hook in ("training_step", "parameter_groups", "predict", "phases", "end_task"):
        assert getattr(JointHead, hook) is getattr(LinearProbe, hook)
    assert JointHead.card.kind == "ceiling"


@pytest.fixture
def both(registries: Registries) -> Registries:
    for method in (JointHead, LinearProbe):
        if method.name not in registries.methods.names():
            registries.methods.add(method.name, "tests", method)
    return registries


def test_it_beats_its_floor_and_measures_the_last_stage(both: Registries, tmp_path: Path) -> None:
    accuracy = {}
    for name in ("joint_head", "linear_probe"):
        spec = micro_spec(name)
        spec = spec.model_copy(update={"schedule": spec.schedule | {"epochs": 20, "lr": 0.05}})
        engine.run(spec, *given(tmp_path), registries=both)
        record = Store(tmp_path).load(spec.run_id)
        assert isinstance(record, Record)
        matrix = record.result["accuracy_matrix"]
        accuracy[name] = final_average_accuracy(matrix)
        assert len(matrix) == 3 and all(value is not None for value in matrix[-1])
        if name == "joint_head":
            assert all(value is None for row in matrix[:-1] for value in row)
    assert accuracy["joint_head"] > accuracy["linear_probe"] + 10
