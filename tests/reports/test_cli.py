"""What the command ``report`` refuses before it computes anything."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from smope_bench import run_all
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.atomic_write import write_json_atomically
from smope_bench.harness.records.record import RECORD_SCHEMA, with_checksum
from smope_bench.harness.records.store import Store
from smope_bench.reports import build
from smope_bench.reports import cli as commands
from smope_bench.reports.build import make_document
from smope_bench.reports.cli import Comparisons
from smope_bench.reports.document import Document
from smope_bench.reports.loading.load import load_suites


@pytest.fixture
def folder(factory):
    """A results folder with one suite of one run."""
    factory.publish("A", factory.spec("a", "digits", 0, 0, 2), [[90.0, None], [80.0, 70.0]])
    return factory.write().root


def refused(results, out, said: str, suites=("smoke",), **options) -> None:
    with pytest.raises(UserError, match=said):
        commands.write(suites, results, out, with_tables=False, **options)


@pytest.fixture(autouse=True)
def no_work(monkeypatch) -> None:
    """Whatever is refused here is refused before any table is made."""
    monkeypatch.setattr(build, "make_document", lambda *_, **__: pytest.fail("tables were made first"))


def test_an_out_that_is_a_file_is_refused_before_anything_is_computed(folder, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(folder, tmp_path / "file", "is a file; name another --out")
    refused(folder, tmp_path / "file" / "below", "is a file; name another --out")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    refused(folder, tmp_path / "link", "name another --out")


def test_a_page_is_not_written_among_the_manifests(folder) -> None:
    refused(folder, folder / "suites", "keeps its manifests")
    refused(folder, folder / "suites" / "below", "keeps its manifests")
    assert [file.name for file in (folder / "suites").iterdir()] == ["smoke.json"]


def test_results_that_are_a_file_are_called_so(tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file", tmp_path / "out", "--results .* is not a folder", suites=())


def test_a_damaged_manifest_is_not_in_the_way_of_another_suite(folder, tmp_path) -> None:
    (folder / "suites" / "smoke.json").write_text("{")
    refused(folder, tmp_path / "out", "'table3' was not counted yet", suites=("table3",))


def test_damaged_counts_are_refused_in_one_sentence(folder, tmp_path) -> None:
    (folder / "suites" / "table3.cost.json").write_text("[" * 100_000)
    refused(
        folder, tmp_path / "out", "cannot be used .*; write it anew with: smope-bench run table3", suites=("table3",)
    )


def test_a_suite_that_only_counts_is_not_held_against_another_folder(folder, tmp_path) -> None:
    write_json_atomically(
        folder / "suites" / "table3.cost.json", with_checksum({"schema_version": RECORD_SCHEMA, "cost": {"rows": []}})
    )
    refused(folder, tmp_path / "out", "--against compares runs", suites=("table3",), against=folder)


def test_counts_that_were_edited_are_refused_and_said_where_nobody_asked_for_them(
    folder, tmp_path, monkeypatch
) -> None:
    file = folder / "suites" / "table3.cost.json"
    write_json_atomically(file, with_checksum({"schema_version": RECORD_SCHEMA, "cost": {"rows": [5]}}))
    file.write_text(file.read_text().replace("5", "6"))
    refused(folder, tmp_path / "out", "its seal does not fit", suites=("table3",))
    seen = []
    monkeypatch.setattr(build, "make_document", lambda loaded, *_, **__: Document((), loaded.warnings))
    monkeypatch.setattr(
        build, "write_report", lambda document, out, **_options: seen.append(document) or SimpleNamespace(page=out)
    )
    commands.write((), folder, tmp_path / "out", with_tables=False)
    assert "Suite 'table3' is not shown" in seen[0].warnings[0] and "seal" in seen[0].warnings[0]


def test_what_the_other_side_of_a_comparison_left_out_is_said(folder, factory, tmp_path, monkeypatch) -> None:
    other = tmp_path / "before"
    shutil.copytree(folder, other)
    file = next(other.glob("*/result.json"))
    file.write_text(file.read_text().replace("80.0", "81.0"))
    seen = []
    monkeypatch.setattr(build, "make_document", lambda loaded, *_, **__: Document((), loaded.warnings))
    monkeypatch.setattr(
        build, "write_report", lambda document, out, **_options: seen.append(document) or SimpleNamespace(page=out)
    )
    commands.write(("smoke",), folder, tmp_path / "out", with_tables=False, against=other)
    assert seen[0].warnings == (f"In {other}: 1 of 1 record was left out: 1 edited by hand.",)


def test_the_reference_row_is_chosen_by_label_or_method(
    smoke: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["report", "smoke", "--results", str(smoke.root), "--out", str(tmp_path / "page"), "--mixed"]
    loaded = load_suites(smoke, ["smoke"], None)
    row = next(row for row in loaded.suites[0].rows if row.kind == "method")
    for name in (row.label, row.method):
        assert Comparisons(name).applied(loaded).suites[0].reference == row.label
    assert run_all.main([*asked, "--reference", "nobody"]) == 2
    assert "--reference 'nobody': no row is called so" in capsys.readouterr().err
    (section,) = make_document(Comparisons(row.label).applied(loaded), smoke, all_pairs=True).sections
    titles = [table.title for table in section.statistics]
    assert f"Every row against {row.label}" in titles and "Every pair of rows" in titles
