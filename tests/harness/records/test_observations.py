"""What may be observed and how it is read: mistakes are refused when planned or started, files are read only as published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smope_bench.benchmarks.suites import Column, Row, Suite
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.planner import Planner
from smope_bench.harness.planning.selection import Selection
from smope_bench.harness.planning.settings import parse_setting
from smope_bench.harness.records.observations import read_observations
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.observed import SMOPE, Moody, held_out, run  # pyright: ignore[reportMissingImports]


@pytest.fixture(autouse=True)
def _moody(registries: Registries) -> None:
    registries.methods.add("moody", "tests", Moody)


@pytest.mark.parametrize(
    ("method", "name", "says"),
    [
        ("smope", "activation_count", "did you mean 'activation_counts'"),
        ("ncm", "prefix_keys", "method 'ncm' does not offer; leave that method out"),
        ("smope", "validation_loss", r"held out .* --set benchmark\.holdout=0\.2"),
        ("moody", "mood", "lists 'mood' in observes but never gives it"),
        (
            "linear_probe",
            "prompt_mass",
            "'linear_probe' adds no prompts .*'prompt_mass' to observe; leave that method out",
        ),
    ],
)
def test_what_cannot_be_observed_is_refused(
    registries: Registries, tmp_path: Path, method: str, name: str, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        run(micro_spec(method), registries, tmp_path, name)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("ncm", "method 'ncm' does not train in epochs"),
        ("moody", "method 'moody' cannot be observed by 'validation_loss'.*no centroids yet"),
    ],
)
def test_a_loss_that_a_method_cannot_show_is_refused(
    registries: Registries, tmp_path: Path, method: str, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        run(held_out(method), registries, tmp_path, "validation_loss")


@pytest.mark.parametrize(
    ("method", "names", "says"),
    [
        ("smope", ("prefix_key",), "suite 'fig' observes 'prefix_key'.*did you mean 'prefix_keys'"),
        ("one_prompt", ("prefix_keys",), "method 'one_prompt' does not offer"),
        ("smope", ("validation_loss",), r"use --set benchmark\.holdout=0\.2"),
    ],
)
def test_a_suite_that_asks_too_much_is_refused_when_it_is_planned(
    registries: Registries, tmp_path: Path, method: str, names: tuple[str, ...], says: str
) -> None:
    columns = (Column("digits", "digits", {"tasks": 2}),)
    suite = Suite("fig", "t", "s", (Row("R", method),), columns, seeds=(0,), is_tiny_only=True, observe=names)
    with pytest.raises(UserError, match=says):
        Planner(Selection(), registries, tmp_path).runs(suite)
    if names == ("validation_loss",):
        selection = Selection(settings=(parse_setting("benchmark.holdout=0.2"),))
        assert [one.observe for one in Planner(selection, registries, tmp_path).runs(suite)] == [names]


def test_observations_are_read_only_as_they_were_published(registries: Registries, tmp_path: Path) -> None:
    store, spec = Store(tmp_path), micro_spec("smope", SMOPE)
    with pytest.raises(UserError, match="has no record"):
        read_observations(store, spec.run_id)
    run(spec, registries, tmp_path)
    with pytest.raises(UserError, match="was not asked to observe"):
        read_observations(store, spec.run_id)
    run(spec, registries, tmp_path, "activation_counts")
    file = tmp_path / spec.run_id / "observations.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="not the file that its record names; run its suite again"):
        read_observations(store, spec.run_id)
    file.unlink()
    with pytest.raises(UserError, match="is missing"):
        read_observations(store, spec.run_id)
    run(spec, registries, tmp_path, "activation_counts")
    assert set(read_observations(store, spec.run_id)) == {"activation_counts"}
    record = json.loads((tmp_path / spec.run_id / "result.json").read_text())
    (tmp_path / spec.run_id / "result.json").write_text(json.dumps({**record, "schema_version": 0}))
    with pytest.raises(UserError, match="cannot be used"):
        read_observations(store, spec.run_id)
