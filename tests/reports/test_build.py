"""A report as files: what is written, what an earlier one leaves, equal bytes, and mistakes that are the user's to mend."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from smope_bench.harness.errors import UserError
from smope_bench.reports import build
from smope_bench.reports.build import ReportFiles, make_document, write_report
from smope_bench.reports.document import Document, all_tables
from smope_bench.reports.loading.load import load_suites
from smope_bench.reports.writers.terminal import print_document


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def plain(monkeypatch) -> None:
    """Figures take most of the time; these tests are about everything else."""
    monkeypatch.setattr(build, "plan_figures", lambda *_: ())


@pytest.fixture
def small(factory, plain) -> Document:
    """A report of one suite with one benchmark and no figure."""
    factory.level("A", 90.0)
    factory.level("B", 91.0)
    return make_document(load_suites(factory.write(), ["smoke"], None), factory.store)


def test_every_grid_is_written_in_three_forms_and_told_in_the_joint_files(smoke_report: ReportFiles) -> None:
    out = smoke_report.page.parent
    names = {file.name for file in smoke_report.tables}
    assert {"smoke-1.csv", "smoke-1.tex", "smoke-1.md", "smoke-table.csv", "smoke-costs.tex"} <= names
    assert {Path(name).suffix for name in names} == {".csv", ".tex", ".md"}
    joint = smoke_report.latex.read_text(encoding="utf-8")
    assert all(file.read_text(encoding="utf-8") in joint for file in smoke_report.tables if file.suffix == ".tex")
    joint = smoke_report.markdown.read_text(encoding="utf-8")
    assert all(file.read_text(encoding="utf-8") in joint for file in smoke_report.tables if file.suffix == ".md")
    assert {file.suffix for file in smoke_report.figures} == {".svg", ".pdf", ".png"}
    listed = json.loads((out / build.WRITTEN).read_text(encoding="utf-8"))
    found = contents(out)
    assert listed == {name: hashlib.sha256(found[name]).hexdigest() for name in found if name != build.WRITTEN}


def test_every_run_of_a_suite_is_named_in_every_joint_file(smoke_report: ReportFiles, smoke) -> None:
    ids = {run.run_id for run in load_suites(smoke, ["smoke"], None).suites[0].runs}
    for file in (smoke_report.page, smoke_report.markdown, smoke_report.latex, smoke_report.csv):
        assert ids <= set(re.findall(r"\b[0-9a-f]{16}\b", file.read_text(encoding="utf-8"))), file.name


def test_the_same_store_gives_the_same_bytes(small, factory, tmp_path) -> None:
    again = make_document(load_suites(factory.store, ["smoke"], factory.FRESH), factory.store)
    for document, name in ((small, "a"), (again, "b")):
        write_report(document, tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != {}


def test_writing_a_report_again_over_itself_changes_nothing(small, tmp_path) -> None:
    write_report(small, tmp_path)
    before = contents(tmp_path)
    write_report(small, tmp_path)
    assert contents(tmp_path) == before


def test_files_of_an_earlier_report_go_and_nothing_else_does(small, tmp_path) -> None:
    (section,) = small.sections
    extra = [replace(section.tables[0], key=key) for key in ("gone", "edited")]
    write_report(replace(small, sections=(replace(section, tables=(*section.tables, *extra)),)), tmp_path)
    (tmp_path / "tables" / "edited.md").write_text("notes of my own", encoding="utf-8")
    for own in ("tables/own.csv", "figures/own.png", "own.txt"):
        (tmp_path / own).parent.mkdir(exist_ok=True)
        (tmp_path / own).write_text("mine", encoding="utf-8")
    write_report(small, tmp_path)
    left = contents(tmp_path)
    assert not any("gone" in name for name in left)
    assert {name for name in left if "edited" in name} == {"tables/edited.md"}
    assert {"tables/own.csv", "figures/own.png", "own.txt", "index.html"} <= left.keys()


@pytest.mark.parametrize("name", ["../victim.txt", "tables/../../victim.txt", "victim.txt", "/{root}/victim.txt"])
def test_a_list_of_files_that_was_edited_removes_nothing_elsewhere(small, tmp_path, name: str) -> None:
    out = tmp_path / "out"
    write_report(small, out)
    victims = [tmp_path / "victim.txt", out / "victim.txt"]
    for victim in victims:
        victim.write_text("mine")
    listed = {name.replace("/{root}", str(tmp_path)): hashlib.sha256(b"mine").hexdigest()}
    (out / build.WRITTEN).write_text(json.dumps(listed))
    write_report(small, out)
    assert all(victim.exists() for victim in victims)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", '{"tables/a.md": 7}', "\udcff"])
def test_a_damaged_list_of_files_is_written_anew(small, tmp_path, text: str) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.md").write_text("x")
    (tmp_path / build.WRITTEN).write_bytes(text.encode("utf-8", "surrogateescape"))
    write_report(small, tmp_path)
    assert (tmp_path / "tables" / "a.md").exists()
    assert "index.html" in json.loads((tmp_path / build.WRITTEN).read_text())


def test_no_suite_and_an_unwritable_folder_are_the_users_to_mend(small, factory, tmp_path) -> None:
    with pytest.raises(UserError, match="at least one suite"):
        make_document(load_suites(factory.store, [], None), factory.store)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written to .*--out DIR"):
        write_report(small, tmp_path / "taken")
    write_report(small, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "tables")
    (tmp_path / "out" / "tables").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written to .*--out DIR"):
        write_report(small, tmp_path / "out")


def test_suites_whose_names_are_no_file_names_stay_apart(factory, make_factory, plain, tmp_path) -> None:
    names = ["smoke", "Smoke", "../etc", "etc"]
    for name in names:
        one = make_factory(suite=name) if "/" not in name else make_factory(suite="e.t.c")
        one.level("A", 90.0)
        one.write()
    names[2] = "e.t.c"
    loaded = load_suites(factory.store, names, None)
    document = make_document(loaded, factory.store)
    keys = [table.key for table in all_tables(document)]
    assert len({key.lower() for key in keys}) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9-]+", key) for key in keys)
    assert len({section.key.lower() for section in document.sections}) == 4
    assert len(write_report(document, tmp_path / "out").tables) == 3 * len(keys)


def test_a_counted_suite_has_its_section(factory, plain) -> None:
    report = {
        "rows": [], "geometry": {"num_classes": 100, "num_tasks": 10}, "images": 4,
        "backbone": {"published": 1, "complete": {"forward": 1, "backward": 1}, "own": {"forward": 1, "backward": 1}},
    }  # fmt: skip
    factory.level("A", 90.0)
    document = make_document(load_suites(factory.write(), ["smoke"], None), factory.store, {"table3": report})
    assert [section.key for section in document.sections] == ["smoke", "table3"]
    assert document.sections[1].results is None


def test_left_out_records_and_another_folder_are_told(factory, make_factory, plain, tmp_path) -> None:
    factory.level("A", 90.0)
    spec = factory.spec("b", "digits", 0, 0, 1)
    factory.publish("B", spec, [[91.0]])
    store = factory.write()
    (store.root / spec.run_id / "result.json").write_text("{", encoding="utf-8")
    loaded = load_suites(store, ["smoke"], None)
    document = make_document(loaded, store, against=loaded)
    assert document.left_out is not None and document.left_out.rows[0].label == spec.run_id
    assert any("left out" in warning for warning in document.warnings) and document.comparison
    text = write_report(document, tmp_path / "out").markdown.read_text(encoding="utf-8")
    assert (
        text.index("1 of 3 record") < text.index("## Smoke") < text.index("## Comparison") < text.index("## Left out")
    )
    assert "Missing, stale and failed runs:" in text


def test_the_terminal_shows_all_tables_of_one_suite_and_the_first_of_each_of_several(small) -> None:
    def drawn(document: Document) -> str:
        console = Console(width=80, file=io.StringIO(), color_system=None)
        print_document(console, document)
        return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]

    (section,) = small.sections
    other = replace(section, key="other", title="The other one")
    text = drawn(
        replace(small, warnings=("mind the [bold]gap",), left_out=replace(section.tables[0], title="Left out"))
    )
    assert text.startswith("mind the [bold]gap") and "interval" in text and "Left out" in text
    assert text.count("Tiny suite:") <= 2
    several = drawn(replace(small, sections=(section, other)))
    assert "95 % interval" not in several and several.count(section.tables[0].title) == 2


def test_a_full_disk_leaves_the_earlier_report(small, tmp_path, monkeypatch) -> None:
    write_report(small, tmp_path)
    before, room = contents(tmp_path), [5]
    write = Path.write_bytes

    def until_full(file: Path, data: bytes) -> int:
        room[0] -= 1
        if room[0] < 0:
            write(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(Path, "write_bytes", until_full)
    with pytest.raises(
        UserError, match=r"the report \([\d.]+ [kM]B\) cannot be written to .*No space left on device, .* free"
    ):
        write_report(replace(small, warnings=("another report",)), tmp_path)
    assert contents(tmp_path) == before
