"""An edited plugin makes its records stale: its source is in the fingerprint of its runs, and in nobody else's."""

from __future__ import annotations

import importlib
import linecache
import sys
import zipfile
from pathlib import Path

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.planner import plan
from smope_bench.harness.planning.selection import Selection
from smope_bench.harness.planning.settings import Seeds
from smope_bench.harness.provenance import code_fingerprint, with_sources
from smope_bench.harness.records.record import Record
from smope_bench.harness.registry.plugin_hash import source_of
from smope_bench.harness.registry.registry import open_registries
from smope_bench.harness.run_spec import RunSpec
from smope_bench.methods.baselines.ncm import Ncm

TEXT = "from smope_bench.methods.baselines.ncm import Ncm\nclass Mine(Ncm):\n    name = 'mine'\n    card = Ncm.card\n"


def planned(file: Path, method: str, data: Path) -> RunSpec:
    registries = open_registries([file])
    selection = Selection(methods=(method,), benchmarks=("digits",), seeds=(Seeds(0, 0),))
    (run,) = plan(["smoke"], selection, registries, data)
    return run.spec


def test_an_edit_changes_the_fingerprint_of_the_plugins_runs_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TEXT, encoding="utf-8")
    first, other = planned(file, "mine", tmp_path), planned(file, "ncm", tmp_path)
    file.write_text(TEXT + "    # another thought\n", encoding="utf-8")
    assert planned(file, "mine", tmp_path).fingerprint == first.fingerprint
    file.write_text(TEXT + "    another = 'thought'\n", encoding="utf-8")
    edited = planned(file, "mine", tmp_path)
    assert first.run_id == edited.run_id and first.fingerprint != edited.fingerprint
    assert first.fingerprint != code_fingerprint() == other.fingerprint and not other.sources
    file.write_text(TEXT, encoding="utf-8")
    assert planned(file, "mine", tmp_path).fingerprint == first.fingerprint


def test_the_place_of_a_plugin_file_is_no_part_of_it(tmp_path: Path) -> None:
    found = []
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(TEXT, encoding="utf-8")
        found.append(planned(tmp_path / name, "mine", tmp_path).sources)
    assert found[0] == found[1] and sorted(found[0]) == ["method"]


def test_sources_are_neither_written_nor_identity(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TEXT, encoding="utf-8")
    spec = planned(tmp_path / "mine.py", "mine", tmp_path)
    bare = spec.model_copy(update={"sources": {}})
    assert spec.sources and "sources" not in spec.model_dump() and spec.run_id == bare.run_id


def test_a_record_compares_as_its_spec_does() -> None:
    sources = {"method": "a" * 64}
    made = {"code_fingerprint": "c" * 64}
    assert Record("r", {"provenance": made}).fingerprint == "c" * 64
    assert Record("r", {"provenance": {**made, "plugins": sources}}).fingerprint == with_sources("c" * 64, sources)
    assert Record("r", {"provenance": {**made, "plugins": "damaged"}}).fingerprint == "c" * 64
    swapped = with_sources("c" * 64, {"benchmark": "a" * 64})
    assert len({"c" * 64, with_sources("c" * 64, sources), swapped}) == 3


def test_the_projects_own_code_has_no_source_of_its_own() -> None:
    assert source_of(Ncm) is None


def test_a_class_without_a_source_is_refused() -> None:
    made = type("Typed", (), {"__module__": "no_such_module"})
    with pytest.raises(UserError, match="the source of Typed cannot be found, so that no edit"):
        source_of(made)


def test_of_a_module_in_an_archive_the_text_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for number in range(2):
        archive = tmp_path / f"packed{number}.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("packed_method.py", f"class Packed:\n    number = {number}\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(archive)
            found.append(source_of(importlib.import_module("packed_method").Packed))
            del sys.modules["packed_method"]
            linecache.clearcache()
    assert None not in found and found[0] != found[1]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "outside_package"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "inner" / "__init__.py").write_text("", encoding="utf-8")
    (folder / "inner" / "method.py").write_text("class Theirs: ...\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_of_an_installed_package_every_source_file_counts(package: Path) -> None:
    theirs = importlib.import_module("outside_package.inner.method").Theirs
    first = source_of(theirs)
    (package / "notes.log").write_text("nothing that runs", encoding="utf-8")
    assert source_of(theirs) == first
    (package / "helper.py").write_text("FACTOR = 2\n", encoding="utf-8")
    assert first is not None and source_of(theirs) != first
    for name in [name for name in sys.modules if name.startswith("outside_package")]:
        del sys.modules[name]
