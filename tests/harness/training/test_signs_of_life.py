"""Work without training steps reports what it does and how much of it is done."""

import json
from pathlib import Path
from typing import Any

import pytest

from smope_bench.harness.records import event_log
from smope_bench.harness.records.event_log import RunLog
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.training import trainer as engine
from smope_bench.methods.common.progress import listening, report_progress
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.stand_ins import given  # pyright: ignore[reportMissingImports]

TAP = {"epochs": 2, "samples": 4, "enabled": True}
METHODS: dict[str, tuple[dict[str, Any], set[tuple[str, str]]]] = {
    "ncm": ({}, {("fit", "images"), ("evaluation", "images")}),
    "ridge": ({}, {("fit", "images"), ("evaluation", "images")}),
    "linear_probe": ({"tap": TAP}, {("statistics", "images"), ("alignment", "steps"), ("evaluation", "images")}),
    "hide_prompt": ({"statistics": "centroids"}, {("k-means", "classes"), ("features", "parts of 256 images")}),
}


@pytest.mark.parametrize("method", METHODS)
def test_each_phase_is_reported_to_its_end(
    method: str, registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "EVENT_INTERVAL_S", 0.0)
    config, phases = METHODS[method]
    said: list[dict[str, Any]] = []
    spec = micro_spec(method, config)
    options, context = given(tmp_path, on_event=said.append)
    engine.run(spec, options, context, registries)
    work = [event for event in said if event["event"] == "work"]
    assert phases <= {(event["phase"], event["unit"]) for event in work}
    for phase, _ in phases:
        mine = [event for event in work if event["phase"] == phase]
        assert all(0 < event["done"] <= event["total"] for event in mine)
        assert any(event["done"] == event["total"] for event in mine)
    evaluated = [event for event in work if event["phase"] == "evaluation"]
    assert evaluated[-1]["task"] > 0 and evaluated[-1]["total"] > evaluated[0]["total"], "all tasks so far"
    logged = (tmp_path / spec.run_id / "events.jsonl").read_text(encoding="utf-8")
    assert '"work"' not in logged, "the log stays short"


def test_reports_are_passed_on_seldom_and_kept_for_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    said: list[dict[str, Any]] = []
    log = RunLog(tmp_path, said.append)
    report_progress("fit", 1, 2)  # nobody listens
    with listening(lambda *facts: log.work(3, 10, *facts)):
        for done in range(1, 10_001):
            now[0] += 0.01
            report_progress("fit", done, 10_000)
    assert len(said) <= 100 / event_log.EVENT_INTERVAL_S + 1
    assert said[-1] == {"event": "work", "task": 3, "phase": "fit", "done": 10_000, "total": 10_000, "unit": "images"}
    kept = json.loads((tmp_path / "progress.json").read_text(encoding="utf-8"))
    assert kept["tasks"] == 10 and kept["phase"] == "fit" and 9_700 < kept["done"] <= 10_000
