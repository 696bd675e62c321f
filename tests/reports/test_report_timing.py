"""The made-up folder is whole, the same every time and of the asked size; what is measured of it is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.records.observations import read_observations
from smope_bench.reports import report_timing as bench
from smope_bench.reports.loading.load import load_suites, suites_in
from smope_bench.reports.report_timing import (
    ReportMeasured,
    TablesMeasured,
    bench_report,
    measure_report,
    measure_tables,
    sentences,
    suite_grids,
)
from smope_bench.reports.synthetic_results import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    return make_store(tmp_path_factory.mktemp("bench") / "results", 30)


def test_the_folder_holds_every_suite_and_as_many_sound_records_as_asked(store) -> None:
    trained = sorted(suite.name for suite in SUITES.values() if not suite.counts_only)
    assert suites_in(store) == trained
    loaded = load_suites(store, trained, None)
    assert (loaded.health.records, loaded.health.is_sound, loaded.is_mixed) == (30, True, False)


def test_suites_that_plan_one_run_share_its_record(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        "smope_bench.reports.synthetic_results.SUITES", {name: SUITES[name] for name in ("fig2", "fig6")}
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
    monkeypatch.setattr("smope_bench.reports.synthetic_results.SUITES", {"smoke": SUITES["smoke"]})
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
    monkeypatch.setattr("smope_bench.reports.synthetic_results.SUITES", {"ci": SUITES["ci"]})
    monkeypatch.setattr(
        "smope_bench.reports.build.figure_groups", lambda *_: ()
    )  # they take seconds and are tested elsewhere
    made = make_store(tmp_path / "results", 4)
    tables, whole = measure_tables(made), measure_report(made, tmp_path / "report")
    assert (tables.runs, tables.suites) == (4, 1)
    assert whole.grids >= tables.grids == len(list(suite_grids(load_suites(made, ["ci"], None)))) >= 2
    assert whole.page_mb == pytest.approx((tmp_path / "report" / "index.html").stat().st_size / 1e6)
    assert min(tables.scan_s, tables.tables_s, whole.document_s, whole.write_s, tables.peak_mb, whole.peak_mb) > 0


def measured(seconds: float) -> TablesMeasured:
    return TablesMeasured(30, 2, 9, seconds, 0.5, 2 * seconds, 0.5, 100.0)


WHOLE = ReportMeasured(9, 4, 5.0, 4.0, 3.0, 2.0, 200.0, 1.5)


def test_the_measurements_are_said_as_best_and_median() -> None:
    said = sentences([measured(seconds) for seconds in (3.0, 1.0, 2.0)], WHOLE)
    assert said[0] == "30 runs of 2 suites, 9 tables, 3 repeats"
    assert said[1] == "reading and checking every record: 1.00 s at best, 2.00 s in the median"
    assert said[3] == "both: 3.00 s at best, 6.00 s in the median"
    assert said[-3] == "tables, statistics and 4 figures: 5.00 s (4.00 s CPU)"
    assert said[-1] == "peak memory of the whole report: 200.00 MiB; the page: 1.50 MB"


def test_the_command_prints_words_or_json(monkeypatch, capsys) -> None:
    suites = {name: SUITES[name] for name in ("fig2", "fig6")}
    monkeypatch.setattr("smope_bench.reports.synthetic_results.SUITES", suites)
    monkeypatch.setattr(bench, "measure_tables", lambda store: measured(float(len(suites_in(store)))))
    monkeypatch.setattr(bench, "measure_report", lambda store, out: WHOLE)
    bench_report(runs=2, repeats=2, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [one["scan_s"] for one in found["tables"]] == [2.0, 2.0] and found["report"]["figures"] == 4
    bench_report(runs=2, repeats=1, tables_only=True)
    said = capsys.readouterr().out
    assert said.startswith("30 runs of 2 suites") and "figures" not in said
