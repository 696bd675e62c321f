"""The recipe "An executor" of docs/develop.md, followed as it stands."""

import json
import shlex
from pathlib import Path

import pytest

from smope_bench import run_all
from smope_bench.harness.errors import UserError
from smope_bench.harness.execution.executor_registry import open_executors
from tests.develop.pages import blocks  # pyright: ignore[reportMissingImports]

FILE = "reverse.py"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("An executor")
    (tmp_path / FILE).write_text(code, encoding="utf-8")
    return tmp_path / FILE


def test_the_page_does_what_it_says(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (commands,) = blocks("An executor", "bash")
    listing, running = (shlex.split(line)[1:] for line in commands.splitlines())
    assert run_all.main(listing) == 0
    listed = capsys.readouterr().out
    assert "reverse" in listed and "the last one first" in listed and "plugin 'reverse.py'" in listed
    assert run_all.main([*running, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "1 worker on cpu" in out, "one at a time, in this process"
    ends = [line for line in out.splitlines() if "finished  " in line]
    assert ["seed 1" in line for line in ends] == [True, False] and "[2/2]" in ends[1]
    assert run_all.main([*running, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("2 of 2 runs are already done")


def test_a_file_in_the_room_is_found_without_editing_another(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smope_bench.harness import executors

    monkeypatch.setattr(executors, "__path__", [*executors.__path__, str(plugin.parent)])
    registry = open_executors()
    assert registry.names() == ["auto", "local", "ray", "reverse", "serial", "slurm"]
    assert registry.owner("reverse") == "built-in" and registry.load("reverse").place == "process"
    with pytest.raises(UserError, match=r"executor 'reverse' of plugin 'reverse.py' already exists"):
        open_executors([plugin])


def test_an_installed_package_s_executor_is_found(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = plugin.parent / "reverse-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: reverse\nVersion: 1\n", encoding="utf-8")
    points = (
        "[smope_bench.executors]\nreverse = reverse:run_in_reverse\nbroken = reverse:absent\nother = reverse:FILE\n"
    )
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    with plugin.open("a", encoding="utf-8") as stream:
        stream.write("\n\nFILE = __file__\n")
    monkeypatch.syspath_prepend(plugin.parent)
    registry = open_executors()
    assert registry.load("reverse").name == "reverse" and registry.owner("reverse") == "package 'reverse'"
    for name, words in (("broken", "cannot be imported"), ("other", "it is no executor")):
        with pytest.raises(UserError, match=words):
            registry.load(name)


def test_an_unknown_executor_is_a_mistake_in_one_sentence(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["run", "smoke", "--executor", "revers", "--plugin", FILE]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown executor 'revers'; did you mean 'reverse'?") and error.count("\n") == 1
    assert not (plugin.parent / "results").exists()


def test_executors_are_listed_as_json(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["list", "executors", "--json", "--plugin", FILE]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["reverse"]["place"] == "process" and rows["slurm"]["place"] == "cluster"
    assert all(row["summary"] for row in rows.values())
