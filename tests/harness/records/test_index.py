"""The index of a results folder: what it saves, and that nothing is taken from it that the folder does not hold."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from smope_bench import run_all
from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.console import make_console
from smope_bench.harness.records import index, store
from smope_bench.harness.records.index import IndexedStore
from smope_bench.harness.records.record import PREDICTIONS, RECORD, Broken, Record, with_checksum
from smope_bench.harness.records.store import Derived, Store
from smope_bench.reports.cli import print_suites
from smope_bench.reports.timing.synthetic_results import make_store

RUNS = 120


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A results folder of more runs than an index is made for, each with a file of predictions."""
    root = tmp_path_factory.mktemp("index") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smope_bench.reports.timing.synthetic_results.SUITES", {"smoke": SUITES["smoke"]})
        made = make_store(root, RUNS)
    for run_id in made.published():
        (root / run_id / PREDICTIONS).write_bytes(run_id.encode())
    yield root


@pytest.fixture
def results(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy with an index, whose files count as settled at once."""
    monkeypatch.setattr(index, "SETTLED_S", -60.0)
    shutil.copytree(template, tmp_path / "results")
    read_all(tmp_path / "results")
    return tmp_path / "results"


def read_all(root: Path) -> dict[str, object]:
    """Everything that a store with an index says of each run."""
    with IndexedStore(root) as found:
        return {run_id: said(found, run_id) for run_id in found.published()}


def plainly(root: Path) -> dict[str, object]:
    """The same, without one."""
    return {run_id: said(Store(root), run_id) for run_id in Store(root).published()}


def said(found: Store, run_id: str) -> object:
    record = found.load(run_id)
    content = record.result if isinstance(record, Record) else record
    made = found.derived(run_id, "test", parts_of)
    outline = found.outline(run_id)
    parts = outline.result if isinstance(outline, Record) else outline
    return content, parts, found.state(run_id, None), found.sha256(run_id, PREDICTIONS), made


def parts_of(record: Record) -> Derived:
    """Something that can be made of a record, of which one part is equal for several."""
    return Derived(record.result["spec"]["method"], [record.run_id, record.result["accuracy_matrix"]])


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the records that are read and checked from here on."""
    found: list[str] = []
    check = store.checked

    def counted(run_id: str, result: object) -> Record | Broken:
        found.append(run_id)
        return check(run_id, result)

    monkeypatch.setattr(store, "checked", counted)
    return found


def the_index(root: Path) -> Path:
    (file,) = root.glob(".index-*")
    return file


def test_unchanged_records_are_not_read_again(results: Path, checked: list[str]) -> None:
    first = read_all(results)
    assert len(first) == RUNS and checked == []
    assert first == plainly(results)
    assert the_index(results).stat().st_mode & 0o777 == 0o600


def test_outlines_share_what_many_records_have_alike(results: Path, checked: list[str]) -> None:
    plain = {one.run_id: one for one in Store(results).outlines()}
    checked.clear()
    with IndexedStore(results) as found:
        outlines = [one for one in found.outlines() if isinstance(one, Record)]
    assert checked == [] and {one.run_id: one for one in outlines} == plain
    specs = [one.spec for one in outlines]
    assert len({id(spec) for spec in specs}) == len({json.dumps(spec) for spec in specs}) < RUNS
    assert not {"order_seed", "train_seed"} & specs[0].keys() and outlines[0].result["timings"] == {"total_s": 900.0}


def test_a_small_folder_gets_no_index(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SETTLED_S", -60.0)
    for run_id in Store(template).published()[: index.LEAST_NEW // 3 - 1]:
        shutil.copytree(template / run_id, tmp_path / run_id)
    read_all(tmp_path)
    assert not list(tmp_path.glob(".index-*"))


def test_what_was_changed_a_moment_ago_is_read_again(
    template: Path, tmp_path: Path, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "SETTLED_S", 600.0)  # the copy may take longer than the moment on a busy machine
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    read_all(tmp_path)
    assert not list(tmp_path.glob(".index-*"))


def test_an_edit_of_the_same_size_and_time_is_seen(results: Path) -> None:
    run_id = Store(results).published()[3]
    file = results / run_id / RECORD
    before, data = file.stat(), file.read_bytes()
    at = data.index(b'"accuracy_matrix"') + data[data.index(b'"accuracy_matrix"') :].index(b".") + 1
    file.write_bytes(data[:at] + bytes([ord("0") + (data[at] - ord("0") + 1) % 10]) + data[at + 1 :])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with IndexedStore(results) as found:
        record = found.load(run_id)
    assert isinstance(record, Broken) and record.fault == "edited"


def test_a_changed_file_of_predictions_is_seen(results: Path) -> None:
    run_id = Store(results).published()[0]
    file = results / run_id / PREDICTIONS
    before = read_all(results)[run_id]
    file.write_bytes(bytes(reversed(file.read_bytes())))
    assert read_all(results)[run_id] != before and read_all(results) == plainly(results)


def test_an_index_that_is_older_than_the_store(results: Path, checked: list[str]) -> None:
    ids = Store(results).published()
    shutil.rmtree(results / ids[0])
    (results / ids[1] / RECORD).unlink()
    (results / ids[2] / RECORD).write_text("{", encoding="utf-8")
    (results / ids[3]).rename(results / ids[0])
    changed = json.loads((results / ids[4] / RECORD).read_bytes())
    changed["timings"]["total_s"] = 1.0
    (results / ids[4] / RECORD).write_text(json.dumps(with_checksum(changed)), encoding="utf-8")
    found = read_all(results)
    assert set(checked) == {ids[0], ids[4]}
    assert found == plainly(results) and ids[1] not in found


def test_a_copied_folder_does_not_trust_its_copied_index(results: Path, tmp_path: Path, checked: list[str]) -> None:
    shutil.copytree(results, tmp_path / "copy")
    found = read_all(tmp_path / "copy")
    assert sorted(set(checked)) == Store(results).published(), "every record was read and checked"
    assert found == plainly(results)
    checked.clear()
    read_all(tmp_path / "copy")
    assert checked == [], "the copy has an index of its own now"


@pytest.mark.parametrize(
    "change",
    ["PRAGMA user_version = 7", "DROP TABLE parts", "DROP TABLE records", "DROP TABLE derived", "DROP TABLE files"],
)
def test_an_index_of_another_form_is_made_anew(results: Path, checked: list[str], change: str) -> None:
    with sqlite3.connect(the_index(results)) as other:
        other.execute(change)
    other.close()
    assert read_all(results) == plainly(results)
    checked.clear()
    with IndexedStore(results) as found:
        assert all(isinstance(found.load(run_id), Record) for run_id in found.published())
    assert checked == [] or "files" in change or "derived" in change


def test_entries_that_were_edited_are_not_believed(results: Path) -> None:
    with sqlite3.connect(the_index(results)) as other:
        other.execute("UPDATE records SET own = replace(own, '.', '1.')")
        other.execute("UPDATE records SET outline = replace(outline, 'predictions', 'prediction')")
        other.execute("UPDATE parts SET text = replace(text, 'class number', 'number')")
        other.execute("UPDATE files SET sha256 = 'ab'")
        other.execute("UPDATE derived SET own = replace(own, '.', '1.')")
    other.close()
    assert read_all(results) == plainly(results)


@pytest.mark.parametrize("column", ["proof", "alike", "own", "digest"])
@pytest.mark.parametrize("value", ["NULL", "7", "'ab'", "x'00'"])
def test_entries_of_another_type_are_not_believed(results: Path, column: str, value: str) -> None:
    with sqlite3.connect(the_index(results)) as other:
        other.execute(f"UPDATE derived SET {column} = {value}")
    other.close()
    ids = Store(results).published()[:3]
    with IndexedStore(results) as found:
        assert [said(found, run_id) for run_id in ids] == [said(Store(results), run_id) for run_id in ids]


def test_what_was_made_of_records_by_something_else_is_made_anew(results: Path) -> None:
    with IndexedStore(results) as found:
        for run_id in found.published():
            assert found.derived(run_id, "another version", lambda _: Derived("other", "parts")) == Derived(
                "other", "parts"
            )
    for _ in range(2):
        with IndexedStore(results) as found:
            made = [found.derived(run_id, "another version", parts_of) for run_id in found.published()]
        assert made == [Derived("other", "parts")] * RUNS, "of this version the index has them"
    assert read_all(results) == plainly(results)


def test_nothing_is_made_of_a_record_that_cannot_be_used(results: Path) -> None:
    first, second = Store(results).published()[:2]
    (results / first / RECORD).write_text("{}", encoding="utf-8")
    with IndexedStore(results) as found:
        assert isinstance(found.derived(first, "test", parts_of), Broken)
        assert found.derived("nowhere", "test", parts_of) is None
        assert isinstance(found.derived(second, "none", lambda _: None), Record)


def test_a_damaged_index_costs_time_and_nothing_else(results: Path) -> None:
    draw, right = random.Random(3), plainly(results)
    file = the_index(results)
    data = file.read_bytes()
    for number in range(40):
        at = draw.randrange(len(data))
        damage = (
            data[:at],
            data[:at] + bytes(4096) + data[at + 4096 :],
            data[:at] + draw.randbytes(9) + data[at + 9 :],
        )
        file.write_bytes(damage[number % 3])
        assert read_all(results) == right
    for content in (b"", b"SQLite format 3\0", b"[" * 1000):
        file.write_bytes(content)
        assert read_all(results) == right
    file.unlink()
    file.symlink_to("/dev/zero")
    assert read_all(results) == right


def test_an_index_that_others_may_write_is_not_read(results: Path, checked: list[str], monkeypatch) -> None:
    the_index(results).chmod(0o660)
    read_all(results)
    assert len(checked) >= RUNS
    checked.clear()
    read_all(results)
    assert checked == [], "it was replaced by an own one"
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        read_all(results)
    assert len(checked) >= RUNS


def test_an_index_that_is_read_only_is_read_and_replaced(results: Path, checked: list[str]) -> None:
    the_index(results).chmod(0o400)
    assert read_all(results) == plainly(results)
    checked.clear()
    read_all(results)
    assert checked == []
    for run_id in Store(results).published():  # the same content, at another time
        (results / run_id / RECORD).touch()
    read_all(results)
    assert sorted(set(checked)) == Store(results).published()
    checked.clear()
    read_all(results)
    assert checked == [], "the new entries are in an index that took the old one's place"


def test_a_folder_in_the_place_of_the_index_costs_time_and_nothing_else(results: Path) -> None:
    file = the_index(results)
    file.unlink()
    (file / "kept").mkdir(parents=True)
    assert read_all(results) == plainly(results)
    assert [one.name for one in results.glob(".index-*")] == [file.name] and (file / "kept").is_dir()


def test_a_record_that_another_user_has_closed_is_not_taken_from_the_index(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = Store(results).published()[5]
    closed = results / run_id / RECORD
    closed.chmod(0o000)
    read = Path.read_bytes

    def refuse(file: Path) -> bytes:  # the superuser of a test may read everything
        if file == closed:
            raise PermissionError(13, "Permission denied", str(file))
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with IndexedStore(results) as found:
        record, other = found.load(run_id), found.load(found.published()[6])
    assert isinstance(record, Broken) and record.fault == "unreadable" and isinstance(other, Record)


def test_two_users_have_an_index_each(results: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert read_all(results) == plainly(results)
    assert len(list(results.glob(".index-*"))) == 2


def test_a_folder_that_cannot_be_written_is_read(template: Path, tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(index, "SETTLED_S", -60.0)
    with monkeypatch.context() as patch:
        patch.setattr(index.tempfile, "mkstemp", refuse)
        patch.setattr(index, "BATCH", 10)
        assert read_all(tmp_path) == plainly(tmp_path)
    assert not list(tmp_path.glob(".index-*"))


def test_an_index_that_cannot_be_put_in_place_leaves_the_old_one(results: Path, monkeypatch) -> None:
    before = the_index(results).read_bytes()
    monkeypatch.setattr(index, "_sync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with IndexedStore(results, afresh=True) as found:
        for run_id in found.published():
            found.load(run_id)
    assert the_index(results).read_bytes() == before


def test_what_a_killed_process_left_is_removed(results: Path) -> None:
    left = Path(f"{the_index(results)}-killed")
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    with IndexedStore(results, afresh=True) as found:
        for run_id in found.published():
            found.load(run_id)
    assert not left.exists() and the_index(results).stat().st_size > 0


def test_reports_have_the_same_bytes_with_and_without_it(results: Path, tmp_path: Path, capsys, checked) -> None:
    def report(name: str) -> dict[str, bytes]:
        out = tmp_path / name
        assert run_all.main(["report", "smoke", "--tables-only", "--results", str(results), "--out", str(out)]) == 0
        return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}

    indexed = report("indexed")
    assert checked == []
    the_index(results).unlink()
    plain = report("plain")
    assert len(checked) == RUNS and indexed == plain and "index.html" not in plain and "table.csv" in plain
    assert report("again") == plain


def test_a_suite_is_printed_alike_with_and_without_it(results: Path, capsys, checked) -> None:
    def printed() -> str:
        print_suites(make_console(), ["smoke"], results)
        return capsys.readouterr().out

    ids = Store(results).published()
    (results / ids[0] / RECORD).write_text("{}", encoding="utf-8")
    shutil.rmtree(results / ids[1])
    first = printed()
    assert checked == [ids[0]], "what tables compare was made of the index"
    (results / ids[2] / RECORD).write_text("{}", encoding="utf-8")
    second = printed()
    the_index(results).unlink()
    assert printed() == second != first


def test_verify_reads_everything_and_makes_the_index_anew(results: Path, capsys, checked: list[str]) -> None:
    ids = Store(results).published()
    places = ["--results", str(results)]
    assert run_all.main(["verify", *places]) == 1
    told = capsys.readouterr()
    assert sorted(checked) == ids and f"{RUNS} records" in told.out
    assert all(f"{run_id}: {Store(results).remedy(run_id)}" in told.out for run_id in ids)
    assert all(f"{PREDICTIONS} of {run_id}" in told.err for run_id in ids), "their records name another hash"
    (results / ids[0] / RECORD).write_text("{}", encoding="utf-8")
    assert run_all.main(["verify", *places]) == 1
    assert f"the record of {ids[0]}" in capsys.readouterr().err
    assert run_all.main(["verify", "--results", str(results / "nowhere")]) == 2
