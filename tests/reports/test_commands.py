"""What the command ``report`` refuses before it computes anything."""

from __future__ import annotations

import pytest

from harness.errors import UserError
from reports import build, commands


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
    monkeypatch.setattr(build, "make_document", lambda *_: pytest.fail("tables were made first"))


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
    refused(folder, tmp_path / "out", "nested too deeply to be read; write them anew", suites=("table3",))


def test_a_suite_that_only_counts_is_not_held_against_another_folder(folder, tmp_path) -> None:
    (folder / "suites" / "table3.cost.json").write_text('{"cost": {}}')
    refused(folder, tmp_path / "out", "--against compares runs", suites=("table3",), against=folder)
