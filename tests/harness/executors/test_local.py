"""Runs in the launcher's own process, which the second of two signals stops at once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from smope_bench.harness.cancellation import Stopped
from smope_bench.harness.execution import job as jobs
from smope_bench.harness.execution.job import Job
from smope_bench.harness.executors.local import run_serially
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
