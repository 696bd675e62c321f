"""The switch that promises bits on a GPU: on the CPU it changes none, and the record says that it was on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smope_bench.harness.cancellation import StopRequest
from smope_bench.harness.execution import job
from smope_bench.harness.execution.job import Job, run_job
from smope_bench.harness.execution.lease import newest
from smope_bench.harness.hardware import device
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_options import RunContext, RunOptions
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]

METHODS: dict[str, dict[str, Any]] = {
    "smope": {"tap": {"epochs": 1, "samples": 4}},
    "vq_prompt": {},
    "ranpac": {},
}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.parametrize("method", METHODS)
def test_the_switch_changes_no_bit_on_the_cpu(
    method: str, registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "open_registries", lambda plugins: registries)
    spec = micro_spec(method, METHODS[method])
    found = []
    for switch in (False, True):
        options = RunOptions(tmp_path / str(switch), tmp_path, deterministic=switch)
        end = run_job(Job(spec.run_id, spec), options, lambda run_id, event: None)
        record = Store(options.results).load(spec.run_id)
        assert end.state == "done" and isinstance(record, Record), end.error
        assert record.result["provenance"].get("deterministic", False) is switch
        with np.load(options.results / spec.run_id / "predictions.npz") as arrays:
            found.append((record.result["accuracy_matrix"], {name: arrays[name].tolist() for name in arrays}))
    assert found[0] == found[1]


def test_an_operation_without_repeatable_bits_is_refused_only_when_asked() -> None:
    device.pin_arithmetic(1, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    device.pin_arithmetic(1)
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic


def test_the_engine_is_told_how_to_stop_and_what_is_its_to_publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smope_bench.harness.training import trainer as engine

    given: list[Any] = []
    monkeypatch.setattr(engine, "run", lambda spec, *rest, observe: given.extend(rest))
    stop_request = StopRequest()
    spec = micro_spec("ncm")
    context = RunContext(stop_request, lambda: False)
    options = RunOptions(tmp_path, tmp_path, checkpoint_every_s=7.0)
    job.train(Job(spec.run_id, spec), options, context)
    assert given[:2] == [options, context] and given[1].stop_request is stop_request and not given[1].may_publish()
    assert given[0].checkpoint_every_s == 7.0


def test_a_run_is_told_of_an_interruption_and_keeps_what_it_has(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop after the first step, a start, and the same predictions as without."""
    monkeypatch.setattr(job, "open_registries", lambda plugins: registries)
    spec = micro_spec("smope", METHODS["smope"])
    wanted, stop_request = Job(spec.run_id, spec), StopRequest()

    def stop(run_id: str, event: dict[str, Any]) -> None:
        if event["event"] == "task_started" and event["task"] == 1:
            stop_request.set()

    cut = RunOptions(tmp_path / "cut", tmp_path)
    assert run_job(wanted, cut, stop, stop_request).state == "interrupted"
    assert not (cut.results / spec.run_id / "result.json").exists()
    claim = newest(cut.results / spec.run_id)
    assert claim is not None and claim.is_released
    whole = RunOptions(tmp_path / "whole", tmp_path)
    for options in (cut, whole):
        assert run_job(wanted, options, lambda run_id, event: None).state == "done"
    first, second = ((options.results / spec.run_id / "predictions.npz").read_bytes() for options in (cut, whole))
    assert first == second
