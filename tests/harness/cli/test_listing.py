import json
import sys
from pathlib import Path
from typing import Any

import pytest

from smope_bench.harness.cli import listing
from smope_bench.harness.cli.listing import list_backbones, list_methods, plan_summary
from smope_bench.harness.console import print_rows
from smope_bench.harness.cost.estimate import median_seconds
from smope_bench.harness.planning.planner import MISSING, PlannedRun
from smope_bench.harness.records.store import Record, Store
from smope_bench.harness.registry.registry import Registries, Registry, open_registries
from smope_bench.methods.common.api import Method, MethodCard
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]


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
        summary, is_random = "its weights are missing", False

        @property
        def image_size(self) -> int:
            raise ValueError("description cannot be read")

    backbones = Registry("backbone", {})
    backbones.add("bad", "package 'x'", Bad())
    rows = list_backbones(Registries(Registry("method", {}), Registry("benchmark", {}), backbones))
    error = "backbone 'bad' cannot be described: ValueError: description cannot be read"
    assert rows == [{"name": "bad", "owner": "package 'x'", "error": error}]


HOSTILE = "[red]\x1b[31m<script>alert(1)</script>[/nothing]\x9b5m\u202e\ud800\n\\"


def test_no_card_breaks_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    class Loud(Method):
        name = "loud"
        card = MethodCard(title=HOSTILE, summary=HOSTILE, paper=HOSTILE, paper_url=HOSTILE, kind=HOSTILE)

    class Numb(Method):
        name = "numb"
        card = MethodCard(title=None, summary=17, code_url=object())  # type: ignore[arg-type]

    class Exit:
        def __get__(self, *_: object) -> None:
            sys.exit(3)

    class Angry(Method):
        card = Exit()  # type: ignore[assignment]

    methods = Registry("method", {})
    for name, value in (("loud", Loud), ("numb", Numb), ("angry", Angry)):
        methods.add(name, "package '[b]\x1b'", value)
    rows = list_methods(Registries(methods, Registry("benchmark", {}), Registry("backbone", {})))
    json.dumps(rows, ensure_ascii=False).encode("utf-8")
    print_rows(rows, listing.LIST_COLUMNS["methods"])
    shown = capsys.readouterr().out
    assert not {"\x1b", "\x9b", "\u202e", "\ud800"} & set(shown)
    assert "[red" in shown and "17" in shown
    assert [bool(row.get("error")) for row in rows] == [True, False, False]


def test_a_backbone_that_is_not_prepared_is_listed_as_such(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = {row["name"]: row for row in list_backbones(open_registries(), tmp_path)}
    assert rows["sup21k"]["sha256"] is None and rows["sup21k"]["image_size"] == 224
    assert rows["sup21k"]["state"] == "not prepared: data prepare sup21k"
    assert rows["tiny"]["sha256"] and rows["random"]["sha256"].startswith("random-")
    shown = listing.LIST_COLUMNS["backbones"][-1][1]
    assert [shown(rows[name]) for name in ("sup21k", "tiny", "random")] == ["not prepared", "ready", "random"]
    assert shown({"error": "no description"}) == ""
    print_rows([rows["sup21k"]], listing.LIST_COLUMNS["backbones"])
    assert "not prepared" in capsys.readouterr().out


def test_rows_are_data_and_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "[red]x[/]", "owner": "package '[b]'", "summary": "[bold]not bold[/]", "methods": []}]
    print_rows(rows, listing.LIST_COLUMNS["suites"])
    out = capsys.readouterr().out
    assert "[red]x[/]" in out and "[bold]not bold[/]" in out and "package '[b]'" in out


def test_times_come_from_finished_runs_of_the_same_kind() -> None:
    records = []
    for n, (seconds, backbone) in enumerate(((1.0, "v"), (5.0, "v"), (3.0, "v"), (99.0, "w"))):
        spec = {"method": {"name": "m"}, "benchmark": {"name": "b"}, "backbone": {"name": backbone}}
        records.append(Record(f"{n:016x}", {"spec": spec, "timings": {"total_s": seconds}}))
    assert median_seconds(records) == {("m", "b", "v"): 3.0, ("m", "b", "w"): 99.0}


GPU = {"throughput": "10 TFLOP/s (assumed)"}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([row("new", 7200.0) | GPU, row("new", 3600.0) | GPU], "about 3 GPU-hours at 10 TFLOP/s (assumed)."),
        (
            [row("new", 3600.0), row("needs weights", 7200.0) | GPU | {"run_id": None}],
            "about 3 hours of computing are left, those of kinds that never finished here at 10 TFLOP/s (assumed).",
        ),
        (
            [
                row("needs weights", 3600.0) | GPU | {"run_id": None},
                row("needs weights", 3600.0) | GPU | {"run_id": None},
            ],
            "2 runs: 2 needs weights; about 2 GPU-hours at 10 TFLOP/s (assumed).",
        ),
    ],
)
def test_hours_at_a_throughput(rows: list[dict[str, Any]], text: str) -> None:
    assert text in plan_summary(rows)


def test_what_is_missing_is_listed_once_with_its_size() -> None:
    needs = [{"kind": "backbone", "name": "big", "bytes": None}, {"kind": "benchmark", "name": "birds", "bytes": 1.2e9}]
    rows = [row("needs weights", 9.0, "a") | {"needs": needs}, row("new", 9.0, "b") | {"needs": needs[1:]}]
    last = plan_summary(rows).splitlines()[-1]
    assert last.startswith(
        "to fetch first, with run_all.py data prepare NAME: big (size unknown), birds (1.2 GB); 1.2 GB in all"
    )


def test_a_run_without_weights_is_not_looked_up(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lookup(*args: object) -> str:
        raise AssertionError("it has no identity yet")

    monkeypatch.setattr(Store, "state", lookup)
    spec = micro_spec("linear_probe")
    spec = spec.model_copy(update={"backbone": spec.backbone.model_copy(update={"sha256": MISSING})})
    run = PlannedRun("s", "row", "linear_probe", "noise", spec)
    (found,) = listing.list_plan([run], Store(tmp_path), registries, tmp_path)
    assert (found["run_id"], found["state"]) == (None, "needs weights")
    assert [need["name"] for need in found["needs"]] == [spec.backbone.name]
    assert found["train_image_passes"] > 0 and found["flops"] > 0
    print_rows([found], listing.PLAN_COLUMNS)
    (timed,) = listing.list_plan([run], Store(tmp_path), registries, tmp_path, tflops=1e-6)
    assert timed["seconds"] == pytest.approx(timed["flops"] / 1e6)


def test_benchmarks_say_whether_their_images_are_here(tmp_path: Path) -> None:
    states = {found["name"]: found["state"] for found in listing.list_benchmarks(open_registries(), tmp_path)}
    assert states["cifar100"] == "not prepared: data prepare cifar100"
    assert (states["digits"], states["imagefolder"]) == ("made when needed", "the user's own")
