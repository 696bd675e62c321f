"""The recipe "A metric" of docs/develop.md: its file is written, its commands are run, and the metric is found everywhere."""

from __future__ import annotations

import csv
import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from smope_bench import run_all
from smope_bench.harness.errors import UserError
from smope_bench.harness.metrics import METRICS
from smope_bench.harness.registry import plugins
from smope_bench.harness.registry.metrics import open_metrics
from smope_bench.harness.registry.plugins import run_file
from tests.develop.pages import blocks  # pyright: ignore[reportMissingImports]
from tests.page_blocks import run_shell  # pyright: ignore[reportMissingImports]


def run(text: str, folder: Path) -> str:
    """Run the commands of a page in ``folder``; returns what they print."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        return run_shell(text, folder, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after the recipe, with what its commands printed in ``printed.txt``."""
    place = tmp_path_factory.mktemp("metric")
    [source] = blocks("A metric")
    (place / "bwt3.py").write_text(source, encoding="utf-8")
    [commands] = blocks("A metric", "bash")
    (place / "printed.txt").write_text(run(commands, place), encoding="utf-8")
    return place


def expected_value(folder: Path, method: str) -> float:
    """BWT over the last three earlier tasks, from the stored record of a method."""
    [matrix] = [
        record["accuracy_matrix"]
        for file in (folder / "results").glob("*/result.json")
        if (record := json.loads(file.read_text(encoding="utf-8")))["spec"]["method"]["name"] == method
    ]
    assert len(matrix) == 5
    return sum(matrix[4][i] - matrix[i][i] for i in (1, 2, 3)) / 3


def test_the_metric_is_in_every_form_of_the_table(folder: Path) -> None:
    value = expected_value(folder, "ncm")
    shown = f"{value:.2f} (one seed)"
    tables = folder / "report" / "tables"
    markdown = (tables / "smoke-1.md").read_text(encoding="utf-8")
    assert (
        "| BWT-3 |" in markdown
        and shown in markdown
        and "Backward transfer in percentage points over the last" in markdown
    )
    latex = (tables / "smoke-1.tex").read_text(encoding="utf-8")
    assert "{BWT-3}" in latex and shown.replace("±", r"$\pm$").replace("–", "--") in latex
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert ">BWT-3\n" in page and '"BWT-3"' in page and "<dt>BWT-3</dt>" in page
    assert (folder / "printed.txt").read_text(encoding="utf-8").count("BWT-3") >= 2, "in `run` and in `report`"


def test_the_metric_is_in_the_csv_files_to_full_precision(folder: Path) -> None:
    value = expected_value(folder, "ncm")
    with (folder / "report" / "tables" / "smoke-1.csv").open(encoding="utf-8", newline="") as file:
        [line] = [line for line in csv.DictReader(file) if line["Method"] == "Nearest class mean"]
    assert float(line["BWT-3 mean"]) == value
    with (folder / "report" / "table.csv").open(encoding="utf-8", newline="") as file:
        lines = [one for one in csv.DictReader(file) if one["metric"] == "bwt3" and one["method"] == "ncm"]
    assert [float(one["mean"]) for one in lines if one["mean"]] == [value]


def test_expected_values_may_be_of_the_metric(folder: Path) -> None:
    [text] = blocks("A metric", "json")
    again = "smope-bench run smoke --methods ncm --seeds 0 --plugin bwt3.py --expect mine.json"
    (folder / "mine.json").write_text(text, encoding="utf-8")
    assert f"ok      Nearest class mean on digits, 5 tasks: BWT-3 {expected_value(folder, 'ncm'):.2f}" in run(
        again, folder
    )
    cells = json.loads(text)
    cells["cells"][0] |= {"bwt3": 50.0, "tolerance": 1.0}
    (folder / "mine.json").write_text(json.dumps(cells), encoding="utf-8")
    with pytest.raises(AssertionError, match="OUTSIDE Nearest class mean"):
        run(again, folder)


FAULTS = {
    "taken": (
        '@metric("faa", "F", "x.")\ndef f(matrix): return 0.0',
        "metric 'faa' of plugin 'mine.py' already exists",
    ),
    "named": ('@metric("B 3", "F", "x.")\ndef f(matrix): return 0.0', "'B 3' must be lower-case"),
    "input": ('@metric("b", "F", "x.")\ndef f(losses): return 0.0', "has a parameter 'losses'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_metric_that_cannot_be_registered_is_one_sentence(tmp_path: Path, fault: str) -> None:
    text, message = FAULTS[fault]
    (tmp_path / "mine.py").write_text(f"from smope_bench.api import metric\n{text}\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        open_metrics([tmp_path / "mine.py"])


@pytest.mark.parametrize(
    ("body", "message"),
    [("1 / 0", "cannot be computed: ZeroDivisionError"), ("'high'", "must be a finite number or None, and is 'high'")],
)
def test_a_metric_that_fails_names_itself_and_its_run(folder: Path, body: str, message: str, capsys) -> None:
    (folder / "bad.py").write_text(
        f'from smope_bench.api import metric\n@metric("bad", "Bad", "x.")\ndef bad(matrix): return {body}\n',
        encoding="utf-8",
    )
    options = ["--plugin", str(folder / "bad.py"), "--results", str(folder / "results"), "--out", str(folder / "out")]
    assert run_all.main(["report", "smoke", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: metric 'bad' of run ") and message in error


def test_a_broken_metric_of_a_package_is_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from smope_bench.api import metric\n"
        "@metric('fine', 'Fine', 'x.')\ndef fine(matrix): return 1.0\n"
        "@metric('faa', 'F', 'x.')\ndef taken(matrix): return 0.0\n",
        encoding="utf-8",
    )
    module = run_file(tmp_path / "mine.py").__name__
    targets = {"gone": "no_such_module:gone", "text": f"{module}:__name__", "taken": f"{module}:taken"}
    points = [EntryPoint(name, value, "smope_bench.metrics") for name, value in targets.items()]
    fine = EntryPoint("fine", f"{module}:fine", "smope_bench.metrics")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [*points, fine])
    assert [found.name for found in open_metrics()] == [*(found.name for found in METRICS), "fine"]
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 3 and all(line.startswith("warning: a metric is left out: metric '") for line in warnings)
    assert "no_such_module" in warnings[0] and "already exists, from the project" in warnings[1]
