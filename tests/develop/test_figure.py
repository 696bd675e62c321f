"""The recipe "A figure" of docs/develop.md: its file is written, its commands are run, and the figure is in the report."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry import plugins
from smope_bench.harness.registry.plugins import run_file
from smope_bench.reports.figures.kinds import figure_groups, find_kinds, kinds_in
from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.loading.model import Cell
from tests.develop.pages import blocks  # pyright: ignore[reportMissingImports]
from tests.page_blocks import run_shell  # pyright: ignore[reportMissingImports]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after the recipe."""
    place = tmp_path_factory.mktemp("figure")
    [source] = blocks("A figure")
    (place / "spread.py").write_text(source, encoding="utf-8")
    [text] = blocks("A figure", "bash")
    run_shell(text, place, 0)
    return place


def metric_values(cell: Cell) -> list[float]:
    """FAA of the cell's runs."""
    return [value for outcome in cell.outcomes if (value := outcome.metrics["faa"]) is not None]


def kinds_of(folder: Path, more: str = ""):
    """The built-in kinds and those of the recipe's file, with text added to it."""
    file = folder / "changed.py"
    file.write_text((folder / "spread.py").read_text(encoding="utf-8") + more, encoding="utf-8")
    return find_kinds([run_file(file)])[0]


def test_the_figure_is_written_and_shown_with_its_numbers(folder: Path) -> None:
    for end in ("svg", "pdf", "png"):
        assert (folder / "report" / "figures" / f"smoke-1-spread.{end}").stat().st_size > 1000
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "Spread of FAA over seeds on digits" in page
    said = re.findall(r"Spread of FAA: ([^\"<]*)\.", page)[0]
    results = load_suite(Store(folder / "results"), "smoke", None)
    for cell in results.cells.values():
        values = metric_values(cell)
        if values:
            assert f"{cell.row.label} {max(values) - min(values):.2f}" in said


def test_a_figure_that_fails_costs_no_other(folder: Path) -> None:
    results = load_suite(Store(folder / "results"), "smoke", None)
    kinds = kinds_of(
        folder, "\n\n@figure('broken', 'Broken')\ndef broken(data):\n    raise SystemExit('no such thing')\n"
    )
    kept = [kinds[name] for name in ("final", "spread", "broken")]
    (group,) = figure_groups(results, "x", lambda _: {}, kept)
    assert [file.name for file in group.figures] == ["x-1-final", "x-1-spread"]
    (note,) = group.notes
    assert "figure 'broken' of plugin" in note and "changed.py" in note and "no such thing" in note


def test_a_name_that_is_taken_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="names a figure 'final', as does smope-bench itself; give it another name"):
        kinds_of(folder, "\n\n@figure('final', 'Mine')\ndef mine(data):\n    return None\n")


def test_packages_offer_figures_and_broken_ones_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = run_file(folder / "spread.py")
    good = EntryPoint("spread", f"{module.__name__}:spread", "smope_bench.figures")
    bad = EntryPoint("gone", "no_such_module:gone", "smope_bench.figures")
    other = EntryPoint("text", f"{module.__name__}:__name__", "smope_bench.figures")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [good, bad, other])
    kinds, wrong = find_kinds()
    assert kinds["spread"].draw is next(kinds_in(module)).draw and kinds["spread"].owner.startswith("entry point")
    assert "figure 'gone'" in wrong[0] and "no_such_module" in wrong[0]
    assert "figure 'text'" in wrong[1] and "not made by the decorator 'figure'" in wrong[1] and len(wrong) == 2
