import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from smope_bench import run_all
from smope_bench.harness.cli.commands import listing
from smope_bench.harness.cli.commands.listing import plan_summary
from smope_bench.harness.console import print_rows
from smope_bench.harness.cost.pricing import finished_cells, median_seconds
from smope_bench.harness.facts import lists
from smope_bench.harness.facts.lists import list_backbones, list_benchmarks, list_methods
from smope_bench.harness.planning.planner import MISSING, PlannedRun
from smope_bench.harness.records import store
from smope_bench.harness.records.index import IndexedStore
from smope_bench.harness.records.record import RECORD, Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries, Registry, open_registries
from smope_bench.methods.common.api import Method, MethodCard
from smope_bench.reports.timing.synthetic_results import finish_all
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]


def row(state: str, seconds: float | None, run_id: str = "") -> dict[str, Any]:
    return {"state": state, "seconds": seconds, "run_id": run_id or f"{state}-{seconds}"}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([row("done", 9.0)], "1 run: 1 done; nothing is left to do."),
        ([row("new", None)], "1 run: 1 new; times are known once runs of the same kind have finished."),
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
    assert plan_summary(rows, open_registries()) == text


def test_what_cannot_be_described_is_listed_with_its_error(tmp_path: Path) -> None:
    class Bad:
        summary, is_random = "its weights are missing", False

        @property
        def image_size(self) -> int:
            raise ValueError("description cannot be read")

    backbones = Registry("backbone", {})
    backbones.add("bad", "package 'x'", Bad())
    rows = list_backbones(Registries(Registry("method", {}), Registry("benchmark", {}), backbones), tmp_path)
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
    assert rows["sup21k"]["state"] == f"not prepared: smope-bench data prepare sup21k --data {tmp_path}"
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
    assert median_seconds(finished_cells(records)) == {("m", "b", "v"): 3.0, ("m", "b", "w"): 99.0}


GPU = {"throughput": "10 TFLOP/s (assumed)"}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([row("new", 7200.0) | GPU, row("new", 3600.0) | GPU], "about 3 hours of computing at 10 TFLOP/s (assumed)."),
        ([row("new", 65.0) | GPU], "about 1:05 min of computing at 10 TFLOP/s (assumed)."),
        (
            [row("new", 3600.0), row("needs weights", 7200.0) | GPU | {"run_id": None}],
            "about 3 hours of computing is left; kinds of runs that never finished here are reckoned at 10 TFLOP/s (assumed).",
        ),
        (
            [
                row("needs weights", 3600.0) | GPU | {"run_id": None},
                row("needs weights", 3600.0) | GPU | {"run_id": None},
            ],
            "2 runs: 2 needs weights; about 2 hours of computing at 10 TFLOP/s (assumed).",
        ),
    ],
)
def test_hours_at_a_throughput(rows: list[dict[str, Any]], text: str) -> None:
    assert text in plan_summary(rows, open_registries())


def test_what_is_missing_is_listed_once_with_its_size() -> None:
    needs = [
        {"kind": "backbone", "name": "big", "bytes": None, "settings": ()},
        {"kind": "benchmark", "name": "birds", "bytes": 1.2e9, "settings": ()},
    ]
    rows = [row("needs weights", 9.0, "a") | {"needs": needs}, row("new", 9.0, "b") | {"needs": needs[1:]}]
    last = plan_summary(rows, open_registries()).splitlines()[-1]
    assert last.startswith("to fetch first: big (size unknown), birds (1.2 GB); 1.2 GB in all")
    assert last.endswith("smope-bench data prepare big birds")
    place = Path("my data")
    assert plan_summary(rows, open_registries(), place).endswith("smope-bench data prepare big birds --data 'my data'")
    rows[1]["needs"] = [needs[1] | {"settings": ("benchmark.image_size=64",)}]
    last = plan_summary(rows, open_registries()).splitlines()[-1]
    assert "birds (1.2 GB); 1.2 GB in all" in last
    assert last.endswith("prepare big birds && smope-bench data prepare birds --set benchmark.image_size=64")


PLANNED = {
    "run_id": "0123456789abcdef",
    "state": "new",
    "suite": "mine",
    "row": "[Mine]",
    "benchmark": "digits, 5 tasks",
    "order_seed": 0,
    "train_seed": 0,
    "recipe": "inferred: as before; My card, section 3",
    "schedule": {"lr": 0.0025, "epochs": 20, "batch_size": 64},
    "settings": ["epsilon=0.5"],
    "train_image_passes": 12_345,
    "flops": 2e15,
    "seconds": 60.0,
}


def shown_plan(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], width: int | None) -> str:
    """A plan as printed to a terminal of a width, or to a pipe."""
    file = io.StringIO()
    console = Console(
        file=file, highlight=False, force_terminal=width is not None, color_system=None, width=width or 120
    )
    monkeypatch.setattr(listing, "make_console", lambda: console)
    listing.print_plan(rows, ["1 run: 1 new."])
    return file.getvalue()


def test_a_plan_shows_recipes_whatever_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    out = shown_plan(monkeypatch, [PLANNED], None)
    line = next(line for line in out.splitlines() if "[Mine]" in line)
    for text in ("0123456789abcdef", "inferred", "0.0025", " 20 ", " 64 ", "epsilon=0.5", "12,345", "1:00 min"):
        assert text in line, text
    assert "recipe inferred: as before; My card, section 3 (1 run)" in out.splitlines()
    assert "Too narrow" not in out


@pytest.mark.parametrize(("width", "kept"), [(130, "lr"), (100, "recipe"), (80, "seeds"), (60, "benchmark")])
def test_a_narrow_terminal_loses_columns_and_no_line_is_broken(
    monkeypatch: pytest.MonkeyPatch, width: int, kept: str
) -> None:
    out = shown_plan(monkeypatch, [PLANNED, PLANNED | {"row": "[Mine]."}], width)
    assert max(len(line) for line in out.splitlines()) <= width
    assert kept in out and sum("[Mine]" in line and "digits, 5 tasks" in line for line in out.splitlines()) == 2
    assert "Too narrow for the columns image passes" in out


def test_runs_that_differ_in_their_seeds_alone_are_one_line_with_their_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = [(0, 0), (1, 1), (2, 2), (4, 4), (5, 0)]
    runs = [PLANNED | {"run_id": f"{i}" * 16, "order_seed": a, "train_seed": b} for i, (a, b) in enumerate(seeds)]
    out = shown_plan(monkeypatch, [*runs, PLANNED | {"state": "done"}], None)
    lines = [line for line in out.splitlines() if "[Mine]" in line]
    assert len(lines) == 2
    for text in ("0000000000000000 +4", " 0-2,4,5:0 ", "61,725", "5:00 min"):
        assert text in lines[0], text


def test_columns_without_anything_to_show_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    out = shown_plan(monkeypatch, [PLANNED | {"run_id": None, "settings": []}], None)
    assert "set by hand" not in out and " run " not in out


@pytest.mark.parametrize(
    ("source", "short"),
    [
        ("SMoPE card, section 7 (the command names nothing)", "SMoPE card"),
        ("inferred: as in 10 tasks; SMoPE card, section 7", "inferred"),
        ("generic: not tuned for this combination", "generic"),
        ("docs/tiny-recipes.md", "docs/tiny-recipes.md"),
    ],
)
def test_sources_are_short_in_a_table(source: str, short: str) -> None:
    assert listing.short_source(source) == short


def test_a_run_without_weights_is_not_looked_up(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lookup(*args: object) -> str:
        raise AssertionError("it has no identity yet")

    monkeypatch.setattr(Store, "state_of", lookup)
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


def test_a_plan_reads_each_record_once(registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = micro_spec("linear_probe")
    runs = [
        PlannedRun("s", "row", "linear_probe", "noise", spec.model_copy(update={"train_seed": seed}))
        for seed in range(4)
    ]
    other = replace(runs[0], spec=spec.model_copy(update={"train_seed": 9}))
    finish_all(Store(tmp_path), [*runs[:3], other])
    (tmp_path / runs[2].run_id / RECORD).write_text("{}", encoding="utf-8")
    read: list[str] = []
    check = store.checked
    monkeypatch.setattr(store, "checked", lambda run_id, result: read.append(run_id) or check(run_id, result))
    for made in (Store, IndexedStore):
        read.clear()
        rows = listing.list_plan(runs, made(tmp_path), registries, tmp_path)
        assert [row["state"] for row in rows] == ["done", "done", "new", "new"]
        assert {row["seconds"] for row in rows} == {900.0}, "the runs' own records tell, and others of the kind"
        assert read == Store(tmp_path).published() and len(read) == 4


def test_benchmarks_say_whether_their_images_are_here(tmp_path: Path) -> None:
    states = {found["name"]: found["state"] for found in list_benchmarks(open_registries(), tmp_path)}
    assert states["cifar100"] == f"not prepared: smope-bench data prepare cifar100 --data {tmp_path}"
    assert (states["digits"], states["imagefolder"]) == ("made when needed", "the user's own")


@pytest.mark.parametrize(
    "option", [("--set", "smope.epsilon=0.3"), ("--limit", "3"), ("--recipe", "nearest"), ("--benchmarks", "digits")]
)
def test_what_has_no_effect_on_counts_is_refused(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["plan", "table3", *option]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("error: table3 counts methods with their default settings")
        and f": {option[0]} would have" in said
    )
    assert run_all.main(["plan", "table3", "--tiny", "--seeds", "0"]) == 0


def test_two_limits_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["plan", "smoke", "--limit", "5", "--set", "benchmark.limit=6"]) == 2
    assert "--limit 5 and --set benchmark.limit=6 contradict each other" in capsys.readouterr().err


def test_the_data_folder_that_was_named_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    for kind in ("benchmarks", "backbones"):
        monkeypatch.setattr(lists, f"list_{kind}", lambda _, data: asked.append(data) or [])
        assert run_all.main(["list", kind, "--json", "--data", str(tmp_path)]) == 0
    assert asked == [tmp_path, tmp_path]
