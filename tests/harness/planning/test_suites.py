"""Suites in YAML files: what they plan, what they are called, and one sentence for whatever is wrong with one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from smope_bench import run_all
from smope_bench.benchmarks.suites import SUITES, Suite
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.planner import PlannedRun, plan
from smope_bench.harness.planning.selection import Selection
from smope_bench.harness.planning.suites.find import find_suite, find_suites
from smope_bench.harness.planning.suites.read import read_suite
from smope_bench.harness.planning.suites.write import suite_text
from smope_bench.harness.registry.registry import open_registries

REGISTRIES = open_registries(())
DIGITS = "tiny: true\ncolumns: [{benchmark: digits, settings: {tasks: 2}}]\n"


def written(folder: Path, text: str | bytes, name: str = "mine.yaml") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def planned(file: Path | str, **selection: object) -> list[PlannedRun]:
    return plan([str(file)], Selection(**selection), REGISTRIES, Path("data"))  # type: ignore[arg-type]


def specs(runs: list[PlannedRun]) -> list[tuple[object, ...]]:
    return [(run.row, run.benchmark, run.run_id, run.recipe, run.observe) for run in runs]


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_a_built_in_suite_written_as_a_file_is_the_same_suite(suite: Suite, tmp_path: Path) -> None:
    found = read_suite(written(tmp_path, suite_text(suite, "mine")))
    rows, tiny_rows = (tuple(replace(row, variant="") for row in part) for part in (suite.rows, suite.tiny_rows))
    tiny, full = (tuple(replace(one, printed_backbone="") for one in part) for part in (suite.tiny, suite.full))
    same = replace(suite, name="mine", rows=rows, tiny_rows=tiny_rows, tiny=tiny, full=full, printed=None, settings=())
    same = replace(same, where_prepared=())  # a file has the columns that it names, whatever is prepared
    assert replace(found, settings=()) == same
    assert dict(text.split("=") for text in found.settings) == dict(text.split("=") for text in suite.settings)


@pytest.mark.parametrize(("name", "tiny"), [("ci", True), ("hash_layers", True), ("table4", False), ("table2", True)])
def test_it_plans_the_same_runs(name: str, tiny: bool, tmp_path: Path) -> None:
    file = written(tmp_path, suite_text(SUITES[name], "mine"))
    runs = planned(file, tiny=tiny)
    assert specs(runs) == specs(planned(name, tiny=tiny)) and {run.suite for run in runs} == {"mine"}


def test_rows_columns_and_seeds(tmp_path: Path) -> None:
    text = """
        title: Mine
        backbone: tiny_random
        seeds: "0-2"
        columns:
          - {benchmark: digits, settings: {tasks: 2}}
          - {benchmark: glyphs, backbone: tiny, label: letters}
        rows:
          - smope
          - {method: smope, label: No TAP, settings: {tap: {enabled: false}, lr: 0.05, schedule.epochs: 3}}
    """
    suite = read_suite(written(tmp_path, text))
    assert (suite.name, suite.title, suite.seeds, [row.label for row in suite.rows]) == (
        "mine", "Mine", (0, 1, 2), ["SMoPE", "No TAP"]
    )  # fmt: skip
    runs = planned(tmp_path / "mine.yaml", seeds=())
    assert len(runs) == 12 and {run.benchmark for run in runs} == {"digits, 2 tasks, tiny_random", "letters"}
    changed = next(run.spec for run in runs if run.row == "No TAP")
    assert changed.method.config["tap"]["enabled"] is False
    assert (changed.schedule["lr"], changed.schedule["epochs"]) == (0.05, 3)


def test_a_sweep_and_an_ablation_take_a_line_each(tmp_path: Path) -> None:
    text = f"{DIGITS}rows: [{{method: smope, ablate: {{epsilon: 0, tap.enabled: false}}}}]\nsweep: {{schedule.lr: [0.01, 1e-1]}}"
    runs = planned(written(tmp_path, text))
    assert [run.row for run in runs] == [
        "SMoPE, lr 0.01", "SMoPE, lr 0.1", "SMoPE, epsilon 0, lr 0.01", "SMoPE, epsilon 0, lr 0.1",
        "SMoPE, tap.enabled false, lr 0.01", "SMoPE, tap.enabled false, lr 0.1",
    ]  # fmt: skip
    assert [run.spec.schedule["lr"] for run in runs[:2]] == [0.01, 0.1]
    assert runs[2].spec.method.config["epsilon"] == 0 and runs[4].spec.method.config["tap"]["enabled"] is False


def test_columns_are_swept_and_named_by_their_configuration(tmp_path: Path) -> None:
    text = "tiny: true\ncolumns: [{benchmark: digits, sweep: {tasks: [2, 5]}}]\nrows: [ncm]\nsettings: {benchmark.holdout: 0.2}"
    runs = planned(written(tmp_path, text))
    assert [run.benchmark for run in runs] == ["digits, 2 tasks, holdout=0.2", "digits, 5 tasks, holdout=0.2"]


def test_a_path_is_relative_to_the_file(tmp_path: Path) -> None:
    text = "tiny: true\ncolumns: [{benchmark: imagefolder, settings: {path: birds}}]\nrows: [ncm]"
    assert read_suite(written(tmp_path, text)).tiny[0].config["path"] == str(tmp_path / "birds")


def test_the_file_of_an_order_is_relative_to_the_suites(tmp_path: Path) -> None:
    (tmp_path / "order.txt").write_text("\n".join(map(str, reversed(range(10)))), encoding="utf-8")
    text = "tiny: true\ncolumns: [{benchmark: digits, settings: {class_order: order.txt}}]\nrows: [ncm]"
    assert planned(written(tmp_path, text))[0].spec.benchmark.config["class_order"] == list(reversed(range(10)))


def test_words_of_yaml_1_1_are_text_and_powers_of_ten_are_numbers(tmp_path: Path) -> None:
    text = f"{DIGITS}rows:\n" + "".join(
        f"  - {{method: ncm, label: {label}}}\n" for label in ("no", "off", "010", "12:30", "2026-01-01", "0x1f")
    )
    labels = [row.label for row in read_suite(written(tmp_path, text)).rows]
    assert labels == ["no", "off", "010", "12:30", "2026-01-01", "0x1f"]
    text = f"{DIGITS}rows: [{{method: smope, settings: {{alpha_router: 5e-6, dense_start: no, schedule.epochs: 1e1}}}}]"
    spec = planned(written(tmp_path, text, "two.yaml"))[0].spec
    assert spec.method.config["alpha_router"] == 5e-6 and spec.method.config["dense_start"] is False
    assert spec.schedule["epochs"] == 10


BAD = {
    "empty": ("", "the file is empty"),
    "a list": ("- 1", "line 1: a suite's file holds KEY: VALUE lines"),
    "unknown key": (f"{DIGITS}rowz: [ncm]", "line 3: 'rowz' is not a key here; did you mean 'rows'?"),
    "unknown key of a row": (
        f"{DIGITS}rows:\n  - {{method: ncm, lable: x}}",
        "line 4: 'lable' is not a key here; did you mean 'label'?",
    ),
    "half a file": (DIGITS, "rows is missing"),
    "half a line": (f"{DIGITS}rows: [{{method: ncm", "this is not YAML"),
    "wrong type": (f"{DIGITS}rows: ncm", "line 3: rows is ncm, but it must be a list"),
    "a number as a label": (
        f"{DIGITS}rows: [{{method: ncm, label: 5}}]",
        "line 3: label of row 1 is 5, but it must be text; put it in quotes",
    ),
    "a text as a switch": (DIGITS.replace("true", "yes") + "rows: [ncm]", "line 1: tiny is yes, but it must be true or false"),
    "a power as a seed": (f"{DIGITS}rows: [ncm]\nseeds: [1e3]", "must be a whole number, as 1000 and not 1e3"),
    "no seed": (f"{DIGITS}rows: [ncm]\nseeds: []", "line 4: seeds is empty"),
    "a negative seed": (f"{DIGITS}rows: [ncm]\nseeds: [-1]", "line 4: seeds: a seed is 0 or more"),
    "a key twice": (f"{DIGITS}rows: [ncm]\nrows: [ridge]", "line 4: 'rows' is written twice here, first in line 3"),
    "a key that is no text": (f"{DIGITS}rows: [ncm]\ntrue: 1", "line 4: a key must be text"),
    "two labels": (f"{DIGITS}rows: [ncm, ncm]", "line 3: two rows have the label 'Nearest class mean'"),
    "a tab": (f"{DIGITS}rows:\n\t- ncm", "that cannot start any token); indent with spaces"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0", "this is not a text file"),
    "control characters": (b"title: \x1b[31m", "it has control characters"),
    "latin 1": ("titel: \xfcber\n".encode("latin-1"), "line 1: this is not UTF-8"),
    "utf-16": (f"{DIGITS}rows: [ncm]".encode("utf-16"), "this is not a text file"),
    "an object": (f"{DIGITS}rows: [!!python/object/apply:os.getcwd []]", "line 3: this is not YAML"),
    "bytes": (f"{DIGITS}rows: [{{method: ncm, settings: {{a: !!binary aGk=}}}}]", "line 3: b'hi' is no number"),
    "infinity": (f"{DIGITS}rows: [{{method: ncm, settings: {{a: !!float .inf}}}}]", "line 3: inf is no number"),
    "a bomb": ("a: &a [x, x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi")),
               "values with its aliases written out; a suite has at most 20,000"),
    "an alias of itself": ("rows: &a [*a]", "line 1: an alias stands inside what it names"),
    "deep": ("rows: " + "[" * 5000, "nested too deeply"),
    "huge": ("#" * 200_001, "has 200,001 bytes; a suite's file has at most 200,000"),
    "two documents": (f"{DIGITS}rows: [ncm]\n---\na: 1", "this is not YAML (expected a single document"),
    "a built-in's name": (f"name: Table1\n{DIGITS}rows: [ncm]", "line 1: 'Table1' is the name of a suite of this project"),
    "a name that is a path": (f"name: ../x\n{DIGITS}rows: [ncm]", "line 1: '../x' cannot be a suite's name"),
    "no backbone": ("columns: [digits]\nrows: [ncm]", "line 1: column 'digits' names no backbone; add backbone: NAME"),
    "a benchmark's setting in a row": (
        f"{DIGITS}rows: [{{method: ncm, settings: {{benchmark.tasks: 5}}}}]",
        "benchmark is not of a row",
    ),
    "a backbone for all rows": (f"{DIGITS}rows: [ncm]\nsettings: {{backbone: tiny}}", "line 4: a backbone is no setting of rows"),
    "a sweep without values": (f"{DIGITS}rows: [ncm]\nsweep: {{lr: []}}", "line 4: sweep of lr has no values"),
    "an endless sweep": (f"{DIGITS}rows: [ncm]\nsweep: {{a: {list(range(40))}, b: {list(range(40))}}}", "more than 1,000"),
    "an unknown method": (f"{DIGITS}rows: [ncn]", "row 'ncn' (line 3) on column 'digits, 2 tasks' (line 2): "),
    "an unknown setting": (
        f"{DIGITS}rows: [{{method: smope, settings: {{epsilonn: 1}}}}]",
        "smope.epsilonn is not a setting; did you mean 'epsilon'?",
    ),
    "a value out of range": (f"{DIGITS}rows: [smope]\nsettings: {{epsilon: -1}}", "smope.epsilon=-1: "),
    "a setting that no row has": (f"{DIGITS}rows: [ncm]\nsettings: {{epsilonn: 1}}", "has a setting 'epsilonn'"),
    "an unknown benchmark": ("tiny: true\ncolumns: [digitz]\nrows: [ncm]", "column 'digitz' (line 2): "),
    "an unknown backbone": (f"{DIGITS.replace('tasks: 2}', 'tasks: 2}, backbone: tinny')}rows: [ncm]", "did you mean 'tiny'"),
    "an unknown metric": (f"{DIGITS}rows: [ncm]\nmetrics: [fa]", "metrics: there is no metric 'fa'; did you mean 'faa'?"),
    "an unknown observation": (f"{DIGITS}rows: [ncm]\nobserve: [expert_score]", "expert_score"),
    "a setting twice, once with a dot": (
        f"{DIGITS}rows: [{{method: smope, settings: {{tap.epochs: 1, tap: {{epochs: 2}}}}}}]",
        "line 3: tap.epochs is given twice, the second time by 'tap'; keep one",
    ),
    "a list as a key": (f"{DIGITS}rows: [ncm]\n? [a]\n: 2", "line 4: a key must be text; put it in quotes"),
    "seeds that are none": (f"{DIGITS}rows: [ncm]\nseeds: abc", "line 4: seeds: 'abc' is not a seed"),
    "a label in two lines": (
        f"{DIGITS}rows: [{{method: ncm, label: \"a\\e[31m\"}}]",
        "line 3: label has line breaks or control characters",
    ),
    "a title in two lines": (f"title: \"a\\nb\"\n{DIGITS}rows: [ncm]", "line 1: title has line breaks"),
    "a long label": (f"{DIGITS}rows: [{{method: ncm, label: {'x' * 201}}}]", "label has 201 characters; give at most 200"),
    "an unknown figure": (
        f"{DIGITS}rows: [ncm]\ndrawings: [{{kind: curv}}]",
        "drawings: there is no figure 'curv'; did you mean 'curve'?",
    ),
    "settings of what is only counted": (
        f"{DIGITS}counts_only: true\nrows: [ncm, {{method: smope, label: x, settings: {{experts: 3}}}}]",
        "line 4: counts are those of methods with their default settings",
    ),
    "missing images": ("tiny: true\ncolumns: [{benchmark: imagefolder, settings: {path: none}}]\nrows: [ncm]", "does not exist"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD)
def test_one_sentence_says_what_is_wrong(
    text: str | bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, text)
    assert run_all.main(["plan", str(file), "--results", str(tmp_path / "results")]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and "mine.yaml" in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"], "nothing is written"


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()
    for place, said in (
        ("a.yaml", "is a folder"),
        ("b.yaml", "does not exist; write one with: smope-bench suite table1"),
    ):
        with pytest.raises(UserError, match=said):
            find_suite(str(tmp_path / place))
    with pytest.raises(UserError, match="unknown suite 'tabel1'; did you mean 'table1'"):
        find_suite("tabel1")


def test_two_files_of_one_name_are_not_run_together(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    one, other = (
        written(place, f"{DIGITS}rows: [{row}]") for place, row in ((tmp_path, "ncm"), (tmp_path / "a", "ridge"))
    )
    assert len(find_suites([str(one), str(one), os.path.relpath(one)])) == 1
    with pytest.raises(UserError, match=r"are both suite 'mine'.* name: mine_2"):
        find_suites([str(one), str(other)])


def test_every_command_that_takes_a_suite_takes_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = str(written(tmp_path, f"{DIGITS}rows: [ncm]", "a b.yaml").relative_to(tmp_path))
    assert run_all.main(["run", file, "--device", "cpu"]) == 0
    assert "smope-bench report 'a b.yaml'" in capsys.readouterr().out
    for command in (
        ["plan", "--json"],
        ["status", "--json"],
        ["report"],
        ["cancel"],
        ["suite"],
        ["describe", "--json"],
    ):
        assert run_all.main([command[0], file, *command[1:]]) == 0, command
    assert run_all.main(["report", "a b"]) == 0, "the results folder knows it by its name"
    written(tmp_path, f"{DIGITS}rows: [ridge]", "a b.yaml")
    capsys.readouterr()
    assert run_all.main(["run", file, "--device", "cpu"]) == 0
    assert "was planned from other rows or columns before" in capsys.readouterr().out
    found = json.loads(Path("results/suites/a b.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in found["rows"]] == ["Ridge"]


def test_suite_writes_a_file_and_never_over_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_all.main(["suite", "ci", "--out", "new/ci.yaml"]) == 0
    assert read_suite(Path("new/ci.yaml")).name == "my_ci" and "smope-bench run new/ci.yaml" in capsys.readouterr().out
    assert run_all.main(["suite", "ci", "--out", "new/ci.yaml"]) == 2
    assert run_all.main(["suite", "ci", "--out", "ci.txt"]) == 2
    assert "exists and is not overwritten" in capsys.readouterr().err and not Path("ci.txt").exists()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run_all.main(["suite", "ci", "--out", "full.yaml"]) == 2
    assert "--out 'full.yaml' cannot be written: No space left on device, " in capsys.readouterr().err
    assert not Path("full.yaml").exists()


def test_a_reference_row_is_one_of_the_rows(tmp_path: Path) -> None:
    text = "tiny: true\ncolumns: [digits]\nrows: [ncm, {method: ridge, label: Ours}]\nreference: %s\n"
    (tmp_path / "a.yaml").write_text(text % "Ours", encoding="utf-8")
    suite = read_suite(tmp_path / "a.yaml")
    assert suite.reference == "Ours" and "reference: Ours" in suite_text(suite, "b")
    (tmp_path / "b.yaml").write_text(text % "Our", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 4: reference: no row has the label 'Our'; did you mean 'Ours'"):
        read_suite(tmp_path / "b.yaml")
