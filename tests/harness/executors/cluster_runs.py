"""A stand-in for the engine that workers of any executor import, and jobs for it: real processes, but no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smope_bench.harness.execution.job import Job, JobResult
from smope_bench.harness.provenance import code_fingerprint
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_options import RunOptions
from tests.harness.stand_ins import spec_of, with_runner  # pyright: ignore[reportMissingImports]

RUNNER = """
    import json, os, signal, time
    from smope_bench.harness.cancellation import Interrupted
    from stand_ins import publish

    def run(job, options, context):
        todo, folder = job.spec.method.config, options.results / job.run_id
        with (folder / "attempts").open("a") as stream:
            stream.write(f"{os.getpid()}\\n")
        attempt = len((folder / "attempts").read_text().split())
        log = folder / "events.jsonl"
        kept = log.read_text().splitlines(keepends=True)[:2] if log.exists() else []  # as if saved after task 0
        if kept:
            os.truncate(log, len("".join(kept)))
        with log.open("a") as stream:
            def say(**event):
                stream.write(json.dumps({"t": round(time.monotonic(), 3), **event}) + "\\n")
                stream.flush()
                context.emit(event)
            if kept:  # told and not written, as the engine does
                context.emit({"event": "run_started", "total_tasks": 2, "tasks_done": 1})
            else:
                say(event="run_started", total_tasks=2, tasks_done=0)
                say(event="task_evaluated", task=0)
            if attempt <= todo.get("terminate", 0):
                os.kill(os.getpid(), signal.SIGTERM)
            if attempt <= todo.get("die", 0):
                os.kill(os.getpid(), signal.SIGKILL)
            if todo.get("fail"):
                raise FloatingPointError("loss is nan")
            end = time.monotonic() + (todo.get("sleep", 0) if attempt == 1 else 0)
            while time.monotonic() < end:
                if context.stop_request.is_set():
                    (folder / "saved").touch()
                    raise Interrupted
                time.sleep(0.05)
            say(event="task_evaluated", task=1)
        assert context.may_publish()
        with (folder / "published").open("a") as stream:
            stream.write("once\\n")
        publish(job, options)
"""


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    (tmp_path / "results").mkdir()
    return with_runner(tmp_path, monkeypatch, RUNNER, workers=2)


def job(seed: int = 0, **todo: Any) -> Job:
    """A job for the stand-in: ``die`` and ``terminate`` (so many workers), ``fail``, ``sleep`` (seconds, at first)."""
    spec = spec_of(seed, **todo)
    return Job(spec.run_id, spec)


class Heard:
    """Events as they arrive, by run."""

    def __init__(self) -> None:
        self.events: dict[str, list[dict[str, Any]]] = {}

    def __call__(self, run_id: str, event: dict[str, Any]) -> None:
        self.events.setdefault(run_id, []).append(event)

    def names(self, run_id: str) -> list[str]:
        return [event["event"] for event in self.events.get(run_id, [])]


def assert_done_once(jobs: list[Job], ends: list[JobResult], options: RunOptions) -> None:
    """Every job has one end, its record is there, and it was published once."""
    assert sorted(end.run_id for end in ends) == sorted(job.run_id for job in jobs)
    assert [(end.state, end.error) for end in ends] == [("done", None)] * len(jobs)
    store = Store(options.results)
    assert [store.state(job.run_id, code_fingerprint()) for job in jobs] == ["done"] * len(jobs)
    assert [(store.path(job.run_id) / "published").read_text() for job in jobs] == ["once\n"] * len(jobs)


def attempts(done: Job, options: RunOptions) -> int:
    """How many workers have begun this job."""
    file = options.results / done.run_id / "attempts"
    return len(file.read_text().split()) if file.exists() else 0
