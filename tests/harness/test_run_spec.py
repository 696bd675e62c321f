"""Run identity: what is in it, what is not, and that it does not move."""

from __future__ import annotations

import json
import math

import pytest
from pydantic import ValidationError

from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec, canonical_json, derive_seed


def spec(**changes: object) -> RunSpec:
    values = {
        "method": Component(name="m", config={"b": 1.0, "a": [1, 2]}),
        "benchmark": Component(name="d", config={"tasks": 5}),
        "backbone": BackboneRef(name="tiny", sha256="ab" * 32),
        "schedule": {"lr": 0.01},
    }
    return RunSpec(**(values | changes))  # type: ignore[arg-type]


def test_identity_is_pinned() -> None:
    """A change of this value orphans every stored record: bump the schema version when it must change."""
    assert spec().run_id == "acf0876237e9d55f"


def test_key_order_does_not_matter() -> None:
    assert spec(method=Component(name="m", config={"a": [1, 2], "b": 1.0})).run_id == spec().run_id


@pytest.mark.parametrize(
    "changes",
    [
        {"method": Component(name="m", config={"b": 2.0, "a": [1, 2]})},
        {"benchmark": Component(name="e", config={"tasks": 5})},
        {"backbone": BackboneRef(name="tiny", sha256="cd" * 32)},
        {"schedule": {"lr": 0.02}},
        {"precision": "bf16"},
        {"order_seed": 1},
        {"train_seed": 1},
    ],
)
def test_everything_that_decides_a_result_is_in_it(changes: dict[str, object]) -> None:
    assert spec(**changes).run_id != spec().run_id


def test_nothing_else_is() -> None:
    assert set(json.loads(canonical_json(spec().model_dump(mode="json")))) == {
        "schema_version",
        "method",
        "benchmark",
        "backbone",
        "schedule",
        "precision",
        "order_seed",
        "train_seed",
    }
    with pytest.raises(ValidationError, match="Extra inputs"):
        spec(device="cuda")


def test_round_trip() -> None:
    assert RunSpec.model_validate_json(canonical_json(spec().model_dump(mode="json"))) == spec()


def test_not_a_number_has_no_identity() -> None:
    with pytest.raises(ValueError, match=r"Out of range|not JSON compliant"):
        canonical_json({"lr": math.nan})


def test_derived_seeds_are_stable_and_apart() -> None:
    seeds = {derive_seed(seed, "task", task) for seed in range(20) for task in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "task", 1) == derive_seed(0, "task", 1) != derive_seed(0, "task1")
