"""The executor seam, driven by a stand-in for the engine: no torch is imported, so that real processes stay quick."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.harness.execution import job as job_module
from smope_bench.harness.execution.job import Job, describe_error
from smope_bench.harness.execution.scheduler import RunStatus, execute, partition_finished
from smope_bench.harness.executors import local as workers_module
from smope_bench.harness.executors.local import WorkerPool
from smope_bench.harness.hardware import device
from smope_bench.harness.hardware.device import resolve_device
from smope_bench.harness.planning.assets import prepare_benchmarks
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.provenance import PROJECT_ROOT, code_fingerprint
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries, Registry
from smope_bench.harness.run_options import RunOptions
from smope_bench.harness.run_spec import Component
from tests.forked import forked_workers  # pyright: ignore[reportMissingImports]
from tests.harness.stand_ins import planned, wait_for, with_runner  # pyright: ignore[reportMissingImports]

RUNNER = """
    import hashlib, os, signal, time
    from smope_bench.harness.errors import UserError
    from smope_bench.harness.records.atomic_write import write_atomically
    from smope_bench.harness.records.record import OBSERVATIONS
    from stand_ins import publish

    def run(job, options, context):
        todo = job.spec.method.config
        broken = options.results / "broken"
        if broken.exists():
            raise (UserError if broken.read_text() == "outer" else FloatingPointError)("no")
        context.emit({"event": "run_started", "total_steps": 2})
        for task in range(2):
            if todo.get("fail_at") == task:
                raise FloatingPointError(f"loss is nan\\nin task {task}")
            if todo.get("die_at") == task:
                os.kill(os.getpid(), signal.SIGKILL)
            if todo.get("exit_at") == task:
                os._exit(7)
            if todo.get("quit_at") == task:
                raise SystemExit("bye")
            context.emit({"event": "task_evaluated", "task": task})
        if todo.get("sleep"):
            (options.results / f"pid-{os.getpid()}").touch()
            time.sleep(todo["sleep"])
        observations = {}
        if job.observe:
            write_atomically(options.results / job.run_id / OBSERVATIONS, b"seen")
            digest = hashlib.sha256(b"seen").hexdigest()
            observations = {"observations": {"names": list(job.observe), "sha256": digest}}
        publish(job, options, timings={"pid": os.getpid()}, **observations)
"""


@pytest.fixture(autouse=True)
def _forked() -> Iterator[None]:
    """Workers start at once. Processes that tests start by command are new ones, and so are their workers."""
    with forked_workers():
        yield


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    return with_runner(tmp_path, monkeypatch, RUNNER)


def run_all(runs: list[PlannedRun], options: RunOptions) -> dict[str, RunStatus]:
    return {status.planned.run_id: status for status in execute(runs, options, lambda run, event: None)}


@pytest.fixture(params=[1, 2], ids=["serial", "two workers"])
def workers(request: pytest.FixtureRequest, options: RunOptions) -> RunOptions:
    return replace(options, workers=request.param)


def test_every_run_ends_in_a_record(workers: RunOptions) -> None:
    runs = [planned(seed) for seed in range(4)]
    assert {status.state for status in run_all(runs, workers).values()} == {"done"}
    assert [Store(workers.results).state(run.run_id, code_fingerprint()) for run in runs] == ["done"] * 4


def test_events_arrive_with_their_run(workers: RunOptions) -> None:
    runs = [planned(seed) for seed in range(3)]
    events: dict[str, list[str]] = {}
    list(execute(runs, workers, lambda run, event: events.setdefault(run.run_id, []).append(event["event"])))
    assert events == {run.run_id: ["run_started", "task_evaluated", "task_evaluated"] for run in runs}


def test_a_failed_run_is_recorded_and_the_others_go_on(workers: RunOptions) -> None:
    bad, good = planned(0, fail_at=1), [planned(seed) for seed in (1, 2, 3)]
    statuses = run_all([bad, *good], workers)
    assert statuses[bad.run_id].state == "failed"
    assert [statuses[run.run_id].state for run in good] == ["done"] * 3
    failure = Store(workers.results).failure(bad.run_id)
    assert failure is not None
    assert failure["kind"] == "FloatingPointError" and failure["error"] == "loss is nan in task 1"
    assert failure["last_good_task"] == 0
    assert "FloatingPointError" in failure["traceback"]
    assert failure["spec"] == bad.spec.model_dump(mode="json") and failure["run_id"] == bad.run_id


def test_a_run_that_quits_has_failed_like_any_other(workers: RunOptions) -> None:
    bad, good = planned(0, quit_at=0), planned(1)
    statuses = run_all([bad, good], workers)
    assert statuses[bad.run_id].error == "bye" and statuses[good.run_id].state == "done"
    assert Store(workers.results).failure(bad.run_id)["last_good_task"] is None  # type: ignore[index]


def test_what_is_done_is_skipped_and_what_failed_is_tried_again(workers: RunOptions) -> None:
    good, bad = planned(0), planned(1, fail_at=0)
    run_all([good, bad], workers)
    before = (workers.results / good.run_id / "result.json").stat().st_mtime_ns
    again = run_all([good, bad], workers)
    assert again[good.run_id].state == "skipped" and again[bad.run_id].state == "failed"
    assert (workers.results / good.run_id / "result.json").stat().st_mtime_ns == before


def test_a_record_of_other_code_is_made_anew(options: RunOptions) -> None:
    run = planned(0)
    run_all([run], options)
    store = Store(options.results)
    record = json.loads((store.path(run.run_id) / "result.json").read_text())
    record["provenance"]["code_fingerprint"] = "older"
    store.write_result(run.run_id, record)
    assert run_all([run], options)[run.run_id].state == "done"
    assert store.state(run.run_id, code_fingerprint()) == "done"


@pytest.mark.parametrize(
    ("fingerprint", "how", "state"),
    [(None, "inner", "done"), ("older", "outer", "stale"), ("older", "inner", "failed")],
    ids=["more is asked to be observed", "the machine is at fault", "the run is at fault"],
)
def test_a_failure_leaves_the_record_that_it_does_not_disprove(
    options: RunOptions, fingerprint: str | None, how: str, state: str
) -> None:
    run, store = planned(0), Store(options.results)
    run_all([run], options)
    if fingerprint:
        record = json.loads((store.path(run.run_id) / "result.json").read_text())
        record["provenance"]["code_fingerprint"] = fingerprint
        store.write_result(run.run_id, record)
    (options.results / "broken").write_text(how)
    assert run_all([replace(run, observe=("a",))], options)[run.run_id].state == "failed"
    assert store.state(run.run_id, code_fingerprint()) == state


def test_what_a_killed_process_left_of_a_finished_run_is_removed(options: RunOptions) -> None:
    run = planned(0)
    run_all([run], options)
    folder = options.results / run.run_id
    whole = {file.name for file in folder.iterdir()}
    (folder / "checkpoint").mkdir()
    (folder / ".spec.json-x").touch()
    assert run_all([run], options)[run.run_id].state == "skipped"
    assert {file.name for file in folder.iterdir()} == whole


def test_a_worker_that_hangs_at_its_exit_is_ended() -> None:
    class Hanging:
        exitcode: int | None = None

        def join(self, timeout: float) -> None:
            pass

        def is_alive(self) -> bool:
            return self.exitcode is None

        def kill(self) -> None:
            self.exitcode = -signal.SIGKILL

    slot: Any = workers_module._WorkerProcess.__new__(workers_module._WorkerProcess)
    slot.pipe, theirs = multiprocessing.Pipe()
    theirs.close()
    slot.process, slot.job, run = Hanging(), Job(planned().run_id, planned().spec), planned()
    end = slot.receive()
    assert end.state == "failed" and end.run_id == run.run_id and slot.exit_code == -signal.SIGKILL


def test_a_run_of_two_suites_is_done_once(options: RunOptions) -> None:
    first = planned(0)
    to_do, done = partition_finished([first, replace(first, suite="other")], Store(options.results))
    assert len(to_do) == 1 and done == []


def test_a_run_of_two_suites_observes_what_either_asks(workers: RunOptions) -> None:
    first, other = planned(0), planned(1)
    asked = [replace(first, observe=("b",)), other, replace(first, suite="t", observe=("a", "b")), replace(first)]
    assert {status.state for status in run_all(asked, workers).values()} == {"done"}
    store = Store(workers.results)
    record, plain = store.load(first.run_id), store.load(other.run_id)
    assert isinstance(record, Record) and record.observes == {"a", "b"}
    assert isinstance(plain, Record) and plain.observes == frozenset()
    assert {status.state for status in run_all(asked, workers).values()} == {"skipped"}
    again = run_all([first, replace(other, observe=("a",))], workers)
    assert [again[run.run_id].state for run in (first, other)] == ["skipped", "done"]


@pytest.mark.parametrize(
    ("how", "words"),
    [("die_at", "the worker process was ended by SIGKILL"), ("exit_at", "the worker process ended with status 7")],
)
def test_a_worker_that_dies_costs_its_own_run_only(options: RunOptions, how: str, words: str) -> None:
    bad, good = planned(0, **{how: 1}), [planned(seed) for seed in range(1, 5)]
    statuses = run_all([bad, *good], replace(options, workers=2))
    assert words in str(statuses[bad.run_id].error)
    assert [statuses[run.run_id].state for run in good] == ["done"] * 4
    failure = Store(options.results).failure(bad.run_id)
    assert failure is not None and failure["kind"] == "WorkerDied" and failure["last_good_task"] == 0


@pytest.mark.parametrize(
    ("counts", "words"),
    [([0, 2, 4, 6], "the system ran out of memory: the run held"), ([None] * 4, "may have run out of memory")],
    ids=["counted", "unknown"],
)
def test_a_run_that_was_killed_for_memory_is_tried_alone_and_told_with_numbers(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch, counts: list[int | None], words: str
) -> None:
    told = iter(counts)
    monkeypatch.setattr(workers_module, "oom_kills", lambda: next(told))
    bad, good = planned(0, die_at=1), [planned(seed) for seed in range(1, 4)]
    events: list[tuple[str, str]] = []

    def note(run: PlannedRun, word: str) -> None:
        events.append((run.run_id, word))

    shared, memory = replace(options, workers=2), {bad.run_id: 123.0}
    for status in execute([bad, *good], shared, lambda run, event: note(run, event["event"]), memory):
        note(status.planned, status.state)
    assert events[-1] == (bad.run_id, "failed") and events.count((bad.run_id, "run_started")) == 2
    again = len(events) - 1 - events[::-1].index((bad.run_id, "run_started"))
    assert all(events.index((run.run_id, "done")) < again for run in good), "the second time it has the machine alone"
    error = str((Store(options.results).failure(bad.run_id) or {})["error"])
    assert words in error and "123 MiB were expected" in error and error.endswith("MiB; try fewer --workers")


def test_a_shortage_of_memory_is_no_later_death_s_cause(options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    told, clock = iter([3, 4, 4, 4, 5]), iter([0.0, 0.5, 60.0, 61.0])
    monkeypatch.setattr(workers_module, "oom_kills", lambda: next(told))
    monkeypatch.setattr(workers_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    killed, left = SimpleNamespace(exit_code=-signal.SIGKILL), SimpleNamespace(exit_code=1)
    pool: Any = WorkerPool(0, options)
    assert [pool._lacked_memory(slot) for slot in (killed, left, killed, killed, killed)] == [
        True, False, True, False, True
    ], "two workers that one shortage cost, one that somebody ended an hour later, and another shortage"  # fmt: skip


def test_workers_outlive_their_runs(options: RunOptions) -> None:
    runs = [planned(seed) for seed in range(6)]
    run_all(runs, replace(options, workers=2))
    pids = set()
    for run in runs:
        pids.add(json.loads((options.results / run.run_id / "result.json").read_text())["timings"]["pid"])
    assert len(pids) <= 2 and os.getpid() not in pids


def worker_pids(results: Path) -> list[int]:
    return [int(file.name.removeprefix("pid-")) for file in results.glob("pid-*")]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_interrupt_in_the_parent_leaves_no_worker_behind(options: RunOptions) -> None:
    options.results.mkdir()
    runs = [planned(0, sleep=60), planned(1, sleep=60)]
    pool = WorkerPool(2, options)
    with pytest.raises(KeyboardInterrupt), pool:
        for slot, run in zip(pool._workers, runs, strict=False):
            slot.give(Job(run.run_id, run.spec))
        wait_for(lambda: len(worker_pids(options.results)) == 2)
        raise KeyboardInterrupt
    wait_for(lambda: not any(alive(pid) for pid in worker_pids(options.results)))
    assert list(options.results.glob("*/result.json")) == []


def test_workers_end_when_their_parent_is_killed(options: RunOptions) -> None:
    options.results.mkdir()
    code = f"""
        from pathlib import Path
        from smope_bench.harness.run_spec import RunSpec
        from smope_bench.harness.executors.local import Job, WorkerPool
        from smope_bench.harness.run_options import RunOptions
        spec = RunSpec.model_validate_json({planned(0, sleep=1.0).spec.model_dump_json()!r})
        if __name__ == "__main__":
            options = RunOptions(Path({str(options.results)!r}), Path("."), runner={options.runner!r})
            list(WorkerPool(1, options).run([Job(spec.run_id, spec)], lambda run_id, event: None))
    """
    file = options.results / "parent.py"
    file.write_text(textwrap.dedent(code), encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(file)])
    try:
        wait_for(lambda: len(worker_pids(options.results)) == 1)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(lambda: not any(alive(pid) for pid in worker_pids(options.results)))


def test_an_error_is_one_sentence_and_does_not_tell_whose_home_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/somebody"))
    try:
        raise OSError("cannot read\n  /home/somebody/data/x.png")
    except OSError as error:
        told = describe_error(error)
    assert told["error"] == "cannot read ~/data/x.png" and told["kind"] == "OSError"
    assert "somebody" not in told["traceback"]


def test_data_is_prepared_once_a_benchmark(tmp_path: Path) -> None:
    prepared: list[tuple[object, Path]] = []
    checked: list[object] = []

    class Config:
        def __init__(self, **values: Any) -> None:
            self.values = values

    class Fake:
        def __init__(self, config: Config, root: Path) -> None:
            self.config, self.root = config, root

        def images_key(self) -> str:
            return str(self.config.values.get("side"))

        def prepare(self, progress: Any) -> None:
            prepared.append((self.config.values, self.root))

        def learnt_sizes(self) -> None:
            checked.append(self.config.values)

    Fake.Config = Config  # type: ignore[attr-defined]
    registries = Registries(Registry("method", {}), Registry("benchmark", {}), Registry("backbone", {}))
    registries.benchmarks.add("b", "test", Fake)

    def other(seed: int, **config: Any) -> PlannedRun:
        run = planned(seed)
        spec = run.spec.model_copy(update={"benchmark": Component(name="b", config=config)})
        return replace(run, spec=spec)

    runs = [planned(0), planned(1), other(2, tasks=5), other(2, side=8)]
    prepare_benchmarks(runs, registries, tmp_path, lambda message: None)
    assert prepared == [({}, tmp_path), ({"side": 8}, tmp_path)]
    assert checked == [{}, {"tasks": 5}, {"side": 8}]


def test_float32_is_float32_whatever_the_environment_says() -> None:
    code = (
        "import torch; from smope_bench.harness.hardware.device import pin_arithmetic;"
        " before = torch.get_float32_matmul_precision();"
        "pin_arithmetic(1); print(before, torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)"
    )
    environment = os.environ | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["high", "highest", "False"], done.stderr


def test_an_absent_accelerator_is_said_and_not_worked_around() -> None:
    import torch

    assert resolve_device("cpu") == "cpu"
    if torch.cuda.is_available():
        assert resolve_device("auto") == resolve_device("cuda") == "cuda"
    else:
        assert resolve_device("auto") == "cpu"
        with pytest.raises(UserError, match="--device cuda: torch sees no CUDA device"):
            resolve_device("cuda")


def test_worker_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: 4)
    assert device.default_workers("cpu", 10) == 4
    assert device.default_workers("cpu", 3) == 3
    assert device.default_workers("cuda", 10) == 1
    assert device.default_workers("cpu", 0) == 1


def test_options_reach_a_runner_whole(options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    told = replace(
        options, device="cuda", threads=3, plugins=(Path("p.py"),), deterministic=True, checkpoint_every_s=7.0
    )
    received: list[RunOptions] = []
    monkeypatch.setattr(job_module, "load_runner", lambda target: lambda job, given, context: received.append(given))
    for executor in ("serial", "auto"):
        asked = replace(told, executor=executor, plugins=())
        list(execute([planned()], asked, lambda run, event: None))
        assert received.pop() == asked
    assert pickle.loads(pickle.dumps(told)) == told, "as it is sent to a worker process"
