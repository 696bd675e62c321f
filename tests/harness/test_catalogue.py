from pathlib import Path
from typing import Any

import pytest

from harness import catalogue
from harness.catalogue import list_backbones, plan_summary
from harness.registry import Registries, Registry
from harness.store import Store


def row(state: str, seconds: float | None, run_id: str = "") -> dict[str, Any]:
    return {"state": state, "seconds": seconds, "run_id": run_id or f"{state}-{seconds}"}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([row("done", 9.0)], "1 runs: 1 done; nothing is left to do."),
        ([row("new", None)], "1 runs: 1 new; times are known once runs of the same kind have finished."),
        (
            [row("done", 9.0), row("new", 30.0), row("stale", 60.0), row("failed", None)],
            "4 runs: 1 done, 1 failed, 1 stale, 1 new; about 2:15 min of computing, divided by the workers, is left.",
        ),
        (
            [row("new", 30.0, "same"), row("new", 30.0, "same")],
            "2 runs: 2 new; about 30 s of computing, divided by the workers, is left.",
        ),
    ],
)
def test_a_plan_in_one_line(rows: list[dict[str, Any]], text: str) -> None:
    assert plan_summary(rows) == text


def test_what_cannot_be_described_is_listed_with_its_error() -> None:
    class Bad:
        summary = "its weights are missing"

        @property
        def image_size(self) -> int:
            raise ValueError("description cannot be read")

    backbones = Registry("backbone", {})
    backbones.add("bad", "package 'x'", Bad())
    rows = list_backbones(Registries(Registry("method", {}), Registry("benchmark", {}), backbones))
    error = "backbone 'bad' cannot be described: description cannot be read"
    assert rows == [{"name": "bad", "owner": "package 'x'", "error": error}]


def test_rows_are_data_and_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "[red]x[/]", "owner": "package '[b]'", "summary": "[bold]not bold[/]", "methods": []}]
    catalogue.print_rows(rows, catalogue.LIST_COLUMNS["suites"])
    out = capsys.readouterr().out
    assert "[red]x[/]" in out and "[bold]not bold[/]" in out and "package '[b]'" in out


def test_times_come_from_finished_runs_of_the_same_kind(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for n, seconds in enumerate((1.0, 5.0, 3.0)):
        run_id = f"{n:016x}"
        spec = {"method": {"name": "m"}, "benchmark": {"name": "b"}}
        record = {"schema_version": 1, "run_id": run_id, "spec": spec, "accuracy_matrix": [], "test_counts": []}
        more = {"provenance": {"code_fingerprint": "f"}, "costs": {}, "timings": {"total_s": seconds}}
        store.write_result(run_id, record | more)
    assert catalogue._median_seconds(store) == {("m", "b"): 3.0}
