"""Runs in the launcher's own process, which the second of two signals stops at once."""

from __future__ import annotations

import multiprocessing.util
import os
import signal
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

from smope_bench.harness.cancellation import Stopped
from smope_bench.harness.execution import job as jobs
from smope_bench.harness.execution.job import Job
from smope_bench.harness.executors.local import _WorkerProcess, run_serially
from smope_bench.harness.run_options import RunContext, RunOptions
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_second_signal_that_an_extension_makes_an_error_of_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extension(job: Job, options: RunOptions, context: RunContext) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Stopped as stopped:
            raise ValueError(f"an error in a callback: {stopped}") from None

    monkeypatch.setattr(jobs, "load_runner", lambda target: extension)
    spec = micro_spec("linear_probe")
    results = run_serially([Job(spec.run_id, spec)], RunOptions(tmp_path, tmp_path), lambda run_id, event: None)
    with pytest.raises(Stopped):
        pytest.fail(f"taken for a failure of the run: {next(results)}")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_the_first_worker_too_starts_with_blocked_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked, start = list[set[Any]](), multiprocessing.util.spawnv_passfds

    def start_another(path: Any, arguments: list[Any], keep: Any) -> int:
        blocked.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        is_worker = any("spawn_main" in str(word) for word in arguments)
        return start(b"/bin/true", [b"true"], keep) if is_worker else start(path, arguments, keep)

    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", start_another)
    tracker: Any = resource_tracker._resource_tracker  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(tracker, "_fd", None)  # as in a process that has started none
    monkeypatch.setattr(tracker, "_pid", None)
    try:
        _WorkerProcess(RunOptions(tmp_path, tmp_path)).join()
    finally:
        tracker._stop()
    assert len(blocked) == 2 and all({signal.SIGINT, signal.SIGTERM} <= each for each in blocked)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
