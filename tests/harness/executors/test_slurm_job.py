"""What happens inside a Slurm job when Slurm gives notice, without Slurm: signals to this very process."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from smope_bench.harness.execution.job import JobResult
from smope_bench.harness.executors import slurm_job
from smope_bench.harness.executors.slurm_job import SlurmRun, read_result, result_file
from smope_bench.harness.provenance import code_fingerprint
from smope_bench.harness.run_options import RunOptions
from tests.harness.executors.cluster_runs import (  # noqa: F401  # pyright: ignore[reportMissingImports]
    attempts,
    job,
    options,
)
from tests.harness.stand_ins import wait_for  # pyright: ignore[reportMissingImports]


@pytest.fixture
def requeued() -> Iterator[list[int]]:
    """Stands where submitit's handler is: notes the signal and ends the process, as that does."""
    seen: list[int] = []

    def put_back(number: int, frame: Any) -> None:
        seen.append(number)
        raise SystemExit(-1)

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    signal.signal(signal.SIGUSR2, put_back)
    yield seen
    for number, handler in before.items():
        signal.signal(number, handler)


def slurm_run(options: RunOptions) -> SlurmRun:  # noqa: F811
    return SlurmRun(options, options.results, code_fingerprint())


@contextlib.contextmanager
def notice_once_it_runs(number: int, options: RunOptions) -> Iterator[None]:  # noqa: F811
    def send() -> None:
        wait_for(lambda: attempts(job(sleep=60), options) == 1)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join()


def test_near_the_time_limit_a_run_is_saved_before_it_is_put_back(
    options: RunOptions,  # noqa: F811
    requeued: list[int],
) -> None:
    pytest.importorskip("submitit")
    long, handler = job(sleep=60), signal.getsignal(signal.SIGUSR2)
    with notice_once_it_runs(signal.SIGUSR2, options), pytest.raises(SystemExit):
        slurm_run(options)(long)
    assert requeued == [signal.SIGUSR2] and (options.results / long.run_id / "saved").exists()
    assert read_result(options.results, long.run_id) is None  # the launcher goes on waiting
    assert signal.getsignal(signal.SIGUSR2) is handler
    slurm_run(options).checkpoint(long).result()  # what submitit submits in its place
    assert read_result(options.results, long.run_id) == JobResult(long.run_id)
    assert attempts(long, options) == 2


@pytest.mark.parametrize(
    ("answer", "by_us", "by_slurm"),
    [
        ("RUNNING 0", True, False),
        ("SIGNALING 0", True, False),  # for the moment in which Slurm sends another signal
        ("COMPLETING 0", False, False),  # somebody cancels it
        ("PENDING 1", False, True),
        ("COMPLETING 1", False, True),
        (None, False, False),
    ],
)
def test_after_a_termination_only_a_run_that_loses_its_node_is_put_back(
    options: RunOptions,  # noqa: F811
    requeued: list[int],
    monkeypatch: pytest.MonkeyPatch,
    answer: str | None,
    by_us: bool,
    by_slurm: bool,
) -> None:
    long = job(sleep=60)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm_job, "query", lambda *_: answer)
    expected = pytest.raises(SystemExit) if by_us or by_slurm else contextlib.nullcontext()
    with notice_once_it_runs(signal.SIGTERM, options), expected:
        slurm_run(options)(long)
    end = read_result(options.results, long.run_id)
    assert (end and end.state) == (None if by_us or by_slurm else "interrupted")
    assert bool(requeued) == by_us and (options.results / long.run_id / "saved").exists()


def test_the_last_job_of_an_array_asks_for_itself_and_not_for_the_array(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"--jobs=7": "PENDING 0\nRUNNING 0\n", "--jobs=7_3": "RUNNING 2\n"}
    monkeypatch.setattr(slurm_job, "query", lambda *words: next(answers[word] for word in words if word in answers))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm_job._job_now() == ("RUNNING", 2)


def test_a_job_that_was_put_back_waits_for_its_own_earlier_claim(
    options: RunOptions,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, tries = job(), iter([JobResult(job().run_id, "held"), JobResult(job().run_id)])
    monkeypatch.setattr(slurm_job, "LOOK_S", 0.0)
    monkeypatch.setattr(slurm_job, "run_remotely", lambda *_: next(tries))
    slurm_run(options)(run)
    assert read_result(options.results, run.run_id) == JobResult(run.run_id, "held")  # the launcher's to wait for
    tries = iter([JobResult(run.run_id, "held"), JobResult(run.run_id)])
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    started = time.monotonic()
    slurm_run(options)(run)
    assert read_result(options.results, run.run_id) == JobResult(run.run_id) and time.monotonic() - started < 30


def test_words_of_another_run_or_none_are_no_end(options: RunOptions) -> None:  # noqa: F811
    for text in ("", "{", "[]", "null", '{"run_id": "other"}', '{"run_id": "r", "surprise": 1}', '{"error": null}'):
        result_file(options.results, "r").write_text(text)
        assert read_result(options.results, "r") is None
    result_file(options.results, "r").write_text('{"run_id": "r"}')
    assert read_result(options.results, "r") == JobResult("r")
