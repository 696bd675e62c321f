"""The gallery: every suite of the papers is there or listed as missing, with its command and without run ids."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.store import Store
from smope_bench.reports import gallery
from smope_bench.reports import gallery as gallery_figures
from smope_bench.reports.build import ReportFiles
from smope_bench.reports.figures.figure import FigureFile, FigureGroup
from smope_bench.reports.gallery import main, seeds_option, write_gallery
from smope_bench.reports.loading.model import Run


@pytest.fixture
def rehearsed(factory) -> Any:
    """A folder with the tiny form of one table, three seeds."""
    world = replace(factory, suite="table4", title="Table 4: parts")
    rows = (("One prompt", "smope", "method", 70.0, 3.0), ("+ sparse selection", "smope", "method", 75.0, 2.0))
    for i, row in enumerate(rows):
        for seed in range(3):
            spec = world.spec("smope", "glyphs", seed, seed, 3, top_k=i)
            world.publish(row[0], spec, world.matrix(3, row[3], row[4], seed), column="glyphs, 3 tasks")
    world.write()
    return world


def add_curve(world: Any) -> None:
    """The runs of a curve over one setting in the same folder."""
    curve = replace(world, suite="fig5", title="Figure 5", rows={}, columns={}, cells=[])
    for tenth in (0, 5, 10):
        spec = curve.spec("smope", "glyphs", 0, 0, 3, epsilon=tenth / 10)
        matrix = curve.matrix(3, 70.0 + tenth, 1.0, tenth)
        curve.publish(f"epsilon {tenth / 10}", spec, matrix, column="glyphs, 3 tasks")
    curve.write()


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the examples, which take long to draw."""
    monkeypatch.setattr(gallery, "example_figures", lambda results: [])


def drawn(*names: str) -> list[FigureFile]:
    """Figures without pictures."""
    return [FigureFile(name, name, "A caption.", f"What {name} shows.", "", b"png", b"") for name in names]


def test_pictures_are_the_papers_and_one_example_of_each_common_figure(
    rehearsed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_curve(rehearsed)
    names = [f"table4-{i}-{kind}" for i in (1, 2) for kind in ("final", "stages", "matrices", "tradeoff", "forgetting")]
    names.append("table4-critical-difference")
    groups = (FigureGroup("all", tuple(drawn(*names))),)
    monkeypatch.setattr(gallery_figures, "figure_groups", lambda results, prefix, observed: groups)
    out = tmp_path / "gallery"
    page = write_gallery(rehearsed.store, out).read_text()
    shown = re.findall(r"!\[(.+)\]\(([\w-]+\.png)\)", page)
    curve, *examples = (name for _, name in shown)
    assert curve.startswith("fig5-1-") and (out / curve).read_bytes().startswith(b"\x89PNG")
    assert examples == [
        "table4-1-final.png", "table4-1-stages.png", "table4-1-matrices.png", "table4-1-tradeoff.png",
        "table4-critical-difference.png",
    ]  # fmt: skip
    assert sorted(name for _, name in shown) == sorted(file.name for file in out.glob("*.png"))
    assert all(len(alt) > 20 for alt, _ in shown)
    (rehearsed.store.root / "suites/table4.json").rename(tmp_path / "table4.json")
    assert write_gallery(rehearsed.store, out, keep=True).read_text() == page
    assert all((out / name).is_file() for name in examples), "the kept page still shows them"


@pytest.mark.usefixtures("plain")
def test_parts_of_suites_without_runs_can_be_kept(rehearsed, tmp_path: Path) -> None:
    out = tmp_path / "gallery"
    add_curve(rehearsed)
    whole = write_gallery(rehearsed.store, out).read_text()
    manifests = rehearsed.store.root / "suites"
    (manifests / "fig5.json").rename(tmp_path / "fig5.json")
    assert write_gallery(rehearsed.store, out, keep=True).read_text() == whole
    assert list(out.glob("fig5-1-*.png")), "the kept part still shows it"
    lost = write_gallery(rehearsed.store, out).read_text()
    assert "run fig5 --tiny" in lost and "fig5-1" not in lost and not list(out.glob("fig5-1-*.png"))
    assert write_gallery(rehearsed.store, out, keep=True).read_text() == lost, "a missing part is not worth keeping"


def test_a_report_has_the_figures_of_which_examples_are_shown(smoke_report: ReportFiles) -> None:
    stems = [file.stem for file in smoke_report.figures]
    assert all(any(stem.endswith(f"-{kind}") for stem in stems) for kind in gallery_figures.EXAMPLES)


@pytest.mark.usefixtures("plain")
def test_every_suite_of_the_papers_is_shown_or_listed_as_missing(rehearsed, tmp_path: Path) -> None:
    page = write_gallery(rehearsed.store, tmp_path).read_text()
    suites = [suite for suite in SUITES.values() if not suite.is_tiny_only]
    assert page.count("\n## ") == len(suites)
    assert page.count("**Missing**") == len(suites) - 1
    assert "Make it with `python run_all.py run fig3 --tiny`" in page
    assert "Make it with `python run_all.py run table3`" in page
    assert "smoke" not in page


@pytest.mark.usefixtures("plain")
def test_a_part_says_how_it_was_made_and_leaves_ids_to_the_report(rehearsed, tmp_path: Path) -> None:
    page = write_gallery(rehearsed.store, tmp_path).read_text()
    assert "`python run_all.py run table4 --tiny --seeds 0-2`: 6 runs, seeds 0-2, code `ffffffff`" in page
    assert "tiny rehearsals" in page and "**One prompt**" not in page and "One prompt" in page
    assert not [cell["run_id"] for cell in rehearsed.cells if cell["run_id"] in page]
    assert "<details>" not in page


@pytest.mark.usefixtures("plain")
def test_equal_stores_give_equal_pages_and_only_its_own_old_pictures_go(rehearsed, tmp_path: Path) -> None:
    out = tmp_path / "gallery"
    out.mkdir()
    (out / "README.md").write_text("![a picture](old-1.png)\n![a trap](../outside.png)\n")
    for name in ("gallery/old-1.png", "gallery/mine.png", "outside.png"):
        (tmp_path / name).write_bytes(b"png")
    first = write_gallery(rehearsed.store, out).read_bytes()
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "mine.png"]
    assert (tmp_path / "outside.png").exists()
    assert write_gallery(rehearsed.store, out).read_bytes() == first


@pytest.mark.usefixtures("plain")
def test_a_figure_without_its_observations_is_told_and_shown_as_a_table(factory, tmp_path: Path) -> None:
    world = replace(factory, suite="fig4", title="Figure 4")
    world.publish("SMoPE", world.spec("smope", "glyphs", 0, 0, 3), world.matrix(3, 70.0, 1.0, 0))
    page = write_gallery(world.write(), tmp_path / "gallery").read_text()
    assert "cannot be drawn" in page and "| SMoPE |" in page


def test_a_folder_without_suites_of_the_papers_is_a_mistake_that_says_what_to_run(
    smoke: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"run table1 --tiny"):
        write_gallery(smoke, tmp_path)
    assert main(["--results", str(smoke.root), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no suite of the papers was run in")


@pytest.mark.parametrize(
    ("pairs", "text"),
    [([(0, 0)], "0"), ([(0, 0), (1, 1), (2, 2)], "0-2"), ([(0, 0), (2, 2)], "0,2"), ([(0, 1), (0, 0)], "0:0,0:1")],
)
def test_seeds_are_written_as_the_option_takes_them(pairs: Iterable[tuple[int, int]], text: str) -> None:
    assert seeds_option([Run("id", order, train, "missing") for order, train in pairs]) == text
