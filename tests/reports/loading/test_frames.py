"""Results as data frames: the same numbers as the tables, a row for every planned run, and lazy imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pandas.testing import assert_frame_equal

import smope_bench
from smope_bench.harness.errors import UserError
from smope_bench.harness.metrics import METRICS
from smope_bench.harness.records import index, store
from smope_bench.reports.loading import frames
from smope_bench.reports.loading.load import load_suite


@pytest.fixture(autouse=True)
def fresh(factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "code_fingerprint", lambda: factory.FRESH)


def test_runs_and_cells_have_the_numbers_of_the_tables(factory: Any) -> None:
    factory.level("A", 90.0, seeds=(0, 1))
    factory.level("B", 80.0, seeds=(0, 1))
    store = factory.write()
    found = smope_bench.results(store.root)
    results = load_suite(store, "smoke", factory.FRESH)
    assert len(found.runs) == 4 and len(found.cells) == 2
    for run in results.runs:
        row = found.runs.set_index("run_id").loc[run.run_id]
        assert run.outcome is not None
        values = {name: None if row[name] != row[name] else row[name] for name in run.outcome.metrics}
        assert values == run.outcome.metrics
        assert (row["order_seed"], row["state"], row["is_stale"]) == (run.order_seed, "ok", False)
        assert row["code_version"] == factory.FRESH and row["schedule.lr"] == 0.005 and row["method.prompts"] == 20
    cell = found.cells.set_index("row").loc["A"]
    summary = results.cell(results.rows[0], results.columns[0]).summary("faa")
    assert summary is not None
    assert (cell["faa"], cell["faa_std"], cell["faa_low"], cell["faa_high"]) == (
        summary.mean, summary.std, summary.low, summary.high,
    )  # fmt: skip
    assert {metric.name for metric in METRICS} <= {*found.cells.columns}
    assert cell["seeds"] == [(0, 0), (1, 1)] and len(cell["run_ids"]) == 2


def test_frames_are_the_same_from_an_index_of_the_folder(factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SETTLED_S", -60.0)
    factory.level("A", 90.0, seeds=(0, 1))
    factory.level("B", 80.0, seeds=(0,), fingerprint=factory.OLD)
    root = factory.write().root
    plain = smope_bench.results(root)
    assert not list(root.glob(".index-*")) and plain.runs.started.notna().all() and plain.runs.finished.notna().all()
    monkeypatch.setattr(index, "LEAST_NEW", 1)
    smope_bench.results(root)
    assert list(root.glob(".index-*"))
    monkeypatch.setattr(store, "checked", lambda *_: pytest.fail("a record was read again"))
    found = smope_bench.results(root)
    assert_frame_equal(found.runs, plain.runs)
    assert_frame_equal(found.cells, plain.cells)


def test_stale_missing_and_mixed_runs_are_rows_with_their_state(factory: Any) -> None:
    factory.level("A", 90.0, seeds=(0,))
    factory.level("B", 80.0, seeds=(0,), fingerprint=factory.OLD)
    factory.plan("C", factory.spec("c", "digits", 0, 0, 1))
    root = factory.write().root
    found = smope_bench.results(root, ["smoke"])
    assert list(found.runs.state) == ["ok", "stale", "missing"]
    assert list(found.runs.is_stale) == [False, True, False]
    assert found.runs.faa.isna().tolist() == [False, False, True]
    assert list(found.cells.is_stale) == [False, True, False] and list(found.cells.used) == [1, 1, 0]
    assert list(smope_bench.results(root, mixed=True).cells.state) == ["ok", "stale", "missing"]


@pytest.mark.parametrize(("folder", "suites"), [("nowhere", None), (".", ["smoke"])])
def test_what_cannot_be_read_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, suites: list[str] | None
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"is not a folder|nothing was run for suite"):
        smope_bench.results(folder, suites)


def test_neither_the_package_nor_its_frames_import_torch() -> None:
    code = (
        "import sys, smope_bench; assert 'pandas' not in sys.modules;"
        "import smope_bench.reports.loading.frames; assert 'pandas' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
