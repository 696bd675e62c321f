"""What stand-ins for the engine share: runs without content, their records, and waiting. Workers import it, so no torch here."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smope_bench.harness.execution.job import Job
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.provenance import IMPORT_ROOT, code_fingerprint
from smope_bench.harness.records.record import RECORD_SCHEMA
from smope_bench.harness.records.store import Store
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec

HERE = Path(__file__).parent
"""Where workers find this module as ``stand_ins``: another package in their environment may be called ``tests``."""


def spec_of(seed: int = 0, **todo: Any) -> RunSpec:
    """A run whose method's settings tell the stand-in what to do."""
    return RunSpec(
        method=Component(name="m", config=todo),
        benchmark=Component(name="b"),
        backbone=BackboneRef(name="x", sha256="0"),
        schedule={},
        order_seed=seed,
        train_seed=seed,
    )


def planned(seed: int = 0, **todo: Any) -> PlannedRun:
    """The same as a suite plans it."""
    return PlannedRun(suite="s", row="M", method="m", benchmark="b", spec=spec_of(seed, **todo))


def publish(job: Job, options: RunOptions, *, replace: bool = True, **more: Any) -> None:
    """A whole record of this code. ``replace`` False: FileExistsError where there is one."""
    record = {
        "schema_version": RECORD_SCHEMA,
        "run_id": job.run_id,
        "spec": job.spec.model_dump(mode="json"),
        "accuracy_matrix": [[50.0]],
        "test_counts": [1],
        "costs": {},
        "timings": {},
        "provenance": {"code_fingerprint": code_fingerprint()},
    }
    Store(options.results).write_result(job.run_id, record | more, replace=replace)


def with_runner(folder: Path, monkeypatch: pytest.MonkeyPatch, runner: str, **options: Any) -> RunOptions:
    """Options for workers that do ``runner``, the text of a module with a function ``run``."""
    name = f"stand_in_{folder.name.replace('-', '_')}_{os.getpid()}"
    (folder / f"{name}.py").write_text(textwrap.dedent(runner), encoding="utf-8")
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", python_path(folder))
    return RunOptions(folder / "results", folder / "data", runner=f"{name}:run", **options)


def python_path(folder: Path) -> str:
    """For processes that import what lies in ``folder``, this module and the project."""
    return os.pathsep.join(str(place) for place in (folder, HERE, IMPORT_ROOT))


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Until something is so; fails where it takes longer."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def given(folder: Path, data: Path | None = None, **more: Any) -> tuple[RunOptions, RunContext]:
    """Options and context of a run in ``folder``: ``on_event``, ``stop_request`` and ``may_publish`` belong to the context."""
    context = {key: more.pop(key) for key in ("stop_request", "may_publish") if key in more}
    if "on_event" in more:
        context["emit"] = more.pop("on_event")
    return RunOptions(folder, data or folder, **more), RunContext(**context)
