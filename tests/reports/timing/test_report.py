"""The made-up folder is whole, the same every time and of the asked size; what is measured of it is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smope_bench import run_all
from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.records.observations import read_observations
from smope_bench.harness.timing.records import Spread, make_row
from smope_bench.reports.loading.load import load_suites, suites_in
from smope_bench.reports.timing import report as bench
from smope_bench.reports.timing.report import (
    TablesMeasured,
    bench_report,
    measure_report,
    measure_tables,
    suite_grids,
    table_rows,
)
from smope_bench.reports.timing.synthetic_results import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    return make_store(tmp_path_factory.mktemp("bench") / "results", 30)


def test_the_folder_holds_every_suite_and_as_many_sound_records_as_asked(store) -> None:
    trained = sorted(suite.name for suite in SUITES.values() if not suite.counts_only)
    assert suites_in(store) == trained
    loaded = load_suites(store, trained, None)
    assert (loaded.integrity.records, loaded.integrity.is_sound, loaded.is_mixed) == (30, True, False)


def test_suites_that_plan_one_run_share_its_record(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        "smope_bench.reports.timing.synthetic_results.SUITES", {name: SUITES[name] for name in ("fig2", "fig6")}
    )
    suites = load_suites(make_store(tmp_path, 3), ["fig2", "fig6"], None).suites
    first, second = ([outcome.run_id for outcome in results.outcomes] for results in suites)
    assert first == second and len(first) == 3


def test_suites_that_draw_observations_have_them(store) -> None:
    loaded = load_suites(store, suites_in(store), None)
    asked = {results.suite: SUITES[results.suite].observe for results in loaded.suites}
    for results in loaded.suites:
        for run in results.runs:
            if asked[results.suite]:
                assert set(asked[results.suite]) <= {
                    name.split(".")[0] for name in read_observations(store, run.run_id)
                }


def test_more_runs_than_cells_are_more_seeds(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("smope_bench.reports.timing.synthetic_results.SUITES", {"smoke": SUITES["smoke"]})
    rows = len(SUITES["smoke"].rows)
    made = make_store(tmp_path, 2 * rows + 1)
    (results,) = load_suites(made, ["smoke"], None).suites
    counts = sorted(len(cell.runs) for cell in results.cells.values())
    assert counts == [2] * (rows - 1) + [3]
    assert {row.kind for row in results.rows} == {"floor", "method", "ceiling"}


def test_the_same_folder_is_made_every_time(store, tmp_path: Path) -> None:
    again = make_store(tmp_path, 30)
    for file in sorted(store.root.rglob("*.json")):
        assert (again.root / file.relative_to(store.root)).read_bytes() == file.read_bytes()


def test_a_report_of_it_is_measured(tmp_path: Path, monkeypatch) -> None:
    # The command of a run is searched in all plans: for each run of a report that would take hours.
    monkeypatch.delattr("smope_bench.harness.records.store.Store.remedy")
    monkeypatch.setattr("smope_bench.reports.timing.synthetic_results.SUITES", {"ci": SUITES["ci"]})
    monkeypatch.setattr(
        "smope_bench.reports.build.plan_figures", lambda *_: ()
    )  # they take seconds and are tested elsewhere
    made = make_store(tmp_path / "results", 4)
    tables, whole = measure_tables(made), measure_report(made, tmp_path / "report")
    assert (tables.runs, tables.suites) == (4, 1)
    making, writing = whole
    grids = int(making.note.split(" tables, ")[0])
    assert grids >= tables.grids == len(list(suite_grids(load_suites(made, ["ci"], None), made))) >= 2
    page = (tmp_path / "report" / "index.html").stat().st_size / 1e6
    assert writing["page_mb"].median == pytest.approx(page) and writing["page_mb"].is_count
    assert min(*tables.scan, *tables.tables, tables.peak_mb, writing["peak_mb"].median) > 0
    assert min(row["seconds"].median for row in whole) > 0


def measured(seconds: float) -> TablesMeasured:
    return TablesMeasured(30, 2, 9, (seconds, 0.5), (2 * seconds, 0.25), 100.0)


WHOLE = [make_row("tables, statistics and figures", "9 tables, 4 figures", seconds=Spread(5, 5, 5))]


def test_the_tables_are_measured_as_median_and_extremes() -> None:
    scan, tables, both = table_rows([measured(seconds) for seconds in (3.0, 1.0, 2.0)])
    assert (scan.name, scan["seconds"]) == ("reading and checking every record", Spread(2, 1, 3))
    assert (tables.name, tables["cpu_s"].median) == ("every table as Markdown, LaTeX and CSV", 0.25)
    assert both["seconds"] == Spread(6, 3, 9) and both["cpu_s"].median == 0.75 and both["peak_mb"].median == 100


def test_both_are_commands(capsys) -> None:
    for name in ("report", "store"):
        assert run_all.main(["bench", name, "--help"]) == 0
        assert "--runs" in capsys.readouterr().out


def test_the_command_prints_a_table_or_json(monkeypatch, capsys) -> None:
    suites = {name: SUITES[name] for name in ("fig2", "fig6")}
    monkeypatch.setattr("smope_bench.reports.timing.synthetic_results.SUITES", suites)
    monkeypatch.setattr(bench, "measure_tables", lambda store: measured(float(len(suites_in(store)))))
    monkeypatch.setattr(bench, "measure_report", lambda store, out: WHOLE)
    bench_report(runs=2, repeats=2, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["rows"][0]["measures"]["seconds"]["median"] == 2.0 and found["tables"] == 9
    assert found["rows"][-1]["note"] == "9 tables, 4 figures"
    bench_report(runs=2, repeats=1, tables_only=True)
    said = capsys.readouterr().out
    assert "30 runs of 2 suites, 9 tables, 1 repeats" in said and "figures" not in said
