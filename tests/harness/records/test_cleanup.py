"""What is left of a run that was killed, or overtaken, about the moment at which its record appeared."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smope_bench.harness.cancellation import Interrupted, LeaseLost
from smope_bench.harness.execution import job as jobs
from smope_bench.harness.execution import lease as claims
from smope_bench.harness.execution.job import Job, run_job
from smope_bench.harness.execution.lease import CANCEL, Lease, acquire, remove_leftovers_of
from smope_bench.harness.execution.lease_files import PROBE, this_machine
from smope_bench.harness.provenance import code_fingerprint
from smope_bench.harness.records.cleanup import remove_temporary_files
from smope_bench.harness.records.record import MODEL, RECORD_SCHEMA
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec

KEPT = ("events.jsonl", "result.json", "spec.json", "predictions.npz", "observations.npz")
LEFT = ("progress.json", ".predictions.npz-a1b2", ".result.json-c3d4")
SPEC = RunSpec(
    method=Component(name="m"),
    benchmark=Component(name="b"),
    backbone=BackboneRef(name="x", sha256="0"),
    schedule={},
    order_seed=0,
    train_seed=0,
)
JOB = Job(SPEC.run_id, SPEC)

pytestmark = pytest.mark.skipif(this_machine() is None, reason="the system does not tell which machine this is")


def killed(folder: Path) -> None:
    """A finished run whose process died before it could clean up."""
    (folder / "checkpoint").mkdir(parents=True)
    for name in (*KEPT, *LEFT, "checkpoint/000001.json", CANCEL, f"{PROBE}x"):
        (folder / name).touch()
    said = claims._content("d" * 32, 3, "held").decode()
    (folder / "claim.4").write_text(said.replace('"process_started": "', '"process_started": "before '))


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_only_what_lasts_is_kept(tmp_path: Path) -> None:
    killed(tmp_path)
    remove_temporary_files(tmp_path)
    assert names(tmp_path) == {*KEPT, "claim.4", CANCEL, f"{PROBE}x"}, "claims are not its own to remove"
    remove_leftovers_of(tmp_path)
    assert names(tmp_path) == set(KEPT)


def test_a_run_that_somebody_holds_is_left_alone(tmp_path: Path) -> None:
    claim = acquire(tmp_path)
    assert isinstance(claim, Lease)
    (tmp_path / "progress.json").touch()
    remove_leftovers_of(tmp_path)
    assert "progress.json" in names(tmp_path) and claim.still_ours()
    claim.release(forget=True)


@pytest.mark.parametrize("silent_s", [600.0, 7200.0])
def test_what_a_machine_that_went_down_left_of_a_finished_run_is_removed_later(
    silent_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(tmp_path)
    then = time.time() - silent_s
    os.utime(tmp_path / "claim.4", (then, then))
    monkeypatch.setattr(claims, "this_machine", lambda: "another boot")
    remove_leftovers_of(tmp_path)
    assert ("checkpoint" in names(tmp_path)) == (silent_s < claims.GONE_S)


def test_where_all_is_tidy_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "result.json").touch()
    monkeypatch.setattr("smope_bench.harness.execution.lease.acquire", lambda folder: pytest.fail("claimed"))
    remove_leftovers_of(tmp_path)
    remove_leftovers_of(tmp_path / "absent")


def record() -> dict[str, Any]:
    return {
        "schema_version": RECORD_SCHEMA,
        "run_id": SPEC.run_id,
        "spec": SPEC.model_dump(mode="json"),
        "accuracy_matrix": [[50.0]],
        "test_counts": [1],
        "costs": {},
        "timings": {},
        "provenance": {"code_fingerprint": code_fingerprint()},
    }


def done(
    results: Path, monkeypatch: pytest.MonkeyPatch, runner: Callable[[Job, RunOptions, RunContext], None]
) -> jobs.JobResult:
    """How ``runner`` ends as somebody's run; claims beat quickly."""
    monkeypatch.setattr(jobs, "acquire", functools.partial(acquire, beat_s=0.02))
    monkeypatch.setattr(jobs, "load_runner", lambda target: runner)
    return run_job(JOB, RunOptions(results, results), lambda run_id, event: None)


def test_a_worker_s_second_try_finds_the_record_and_tidies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(folder := tmp_path / SPEC.run_id)
    Store(tmp_path).write_result(SPEC.run_id, record())
    end = done(tmp_path, monkeypatch, lambda job, options, context: pytest.fail("done again"))
    assert end.state == "skipped" and names(folder) == set(KEPT)


def test_what_another_published_meanwhile_is_not_published_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(job: Job, options: RunOptions, context: RunContext) -> None:
        assert context.may_publish()
        (options.results / job.run_id / "checkpoint").mkdir()
        Store(options.results).write_result(job.run_id, record())
        assert not context.may_publish()
        raise LeaseLost

    assert done(tmp_path, monkeypatch, overtaken).state == "skipped"
    assert names(tmp_path / SPEC.run_id) == {"result.json", "spec.json"}


def test_a_run_that_began_while_its_record_was_out_of_sight_is_not_published_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(tmp_path).write_result(SPEC.run_id, record())
    monkeypatch.setattr(jobs, "_not_to_begin", lambda job, options: None)  # the results folder is away, and returns

    def begun(job: Job, options: RunOptions, context: RunContext) -> None:
        assert not context.may_publish()
        raise LeaseLost

    assert done(tmp_path, monkeypatch, begun).state == "skipped"


def test_a_run_whose_file_was_lost_is_published_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = {**record(), "model": {"sha256": hashlib.sha256(b"learnt").hexdigest()}}
    Store(tmp_path).write_result(SPEC.run_id, sealed)

    def repeated(job: Job, options: RunOptions, context: RunContext) -> None:
        assert context.may_publish()
        (options.results / job.run_id / MODEL).write_bytes(b"learnt")
        assert context.may_publish(), "the old record fits the new file, and was taken for another launcher's"
        Store(options.results).write_result(job.run_id, sealed)
        assert not context.may_publish()

    assert done(tmp_path, monkeypatch, repeated).state == "done"


def test_a_run_whose_claim_was_taken_stops_within_a_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def usurped(job: Job, options: RunOptions, context: RunContext) -> None:
        (options.results / job.run_id / "claim.2").write_bytes(claims._content("h" * 32, 0, "held"))
        until = time.monotonic() + 20
        while not context.stop_request.is_set():
            assert time.monotonic() < until, "it goes on writing into its heir's log"
            time.sleep(0.01)
        raise Interrupted

    assert done(tmp_path, monkeypatch, usurped).state == "held"
    assert (tmp_path / SPEC.run_id / "claim.2").exists()
