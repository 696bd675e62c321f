"""The site of joined folders: its pages and data, who ran what, hostile names, and what the command refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from smope_bench import run_all
from smope_bench.harness.errors import UserError
from smope_bench.reports.leaderboard.site import make_site, parse_folders, read_folders, write_site

pytestmark = pytest.mark.usefixtures("only_svg")


@pytest.fixture
def sides(factory, tmp_path: Path) -> dict[str, Path]:
    """Two folders: one shared run, two of their own, one that they disagree on, and a method of bob's."""
    make = type(factory)
    alice, bob = make(tmp_path / "one" / "alice"), make(tmp_path / "other" / "bob")
    for side, levels in ((alice, {0: 90.0, 1: 91.0, 3: 92.0}), (bob, {0: 90.0, 2: 89.0, 3: 95.0})):
        for seed, level in levels.items():
            spec = side.spec("a", "digits", seed, seed, 4)
            side.publish("A", spec, side.matrix(4, level, 1.0, seed))
    for seed in (0, 1):
        bob.publish("B", bob.spec("b", "digits", seed, seed, 4), bob.matrix(4, 80.0, 1.0, seed), kind="floor")
    return {"alice": alice.write().root, "bob": bob.write().root}


def written(folders: dict[str, Path], out: Path) -> dict[str, bytes]:
    joined = read_folders(folders)
    write_site(make_site(joined), joined, out)
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}


def test_a_suite_that_no_folder_has_is_named(sides) -> None:
    with pytest.raises(UserError, match=r"no folder of --merge has runs of suite 'bob=results'.*a --merge of its own"):
        read_folders(sides, ["bob=results"])


def test_the_same_folders_give_the_same_bytes_in_any_order(sides, tmp_path) -> None:
    files = written(sides, tmp_path / "x")
    assert files == written(dict(reversed(sides.items())), tmp_path / "y")
    pages = {name for name in files if name.endswith(".html")}
    assert pages == {"index.html", "benchmark-digits.html", "method-a.html", "method-b.html"}
    assert "figures/benchmark-digits-1-final.svg" in files


def test_every_number_has_who_ran_it_where(sides, tmp_path) -> None:
    files = written(sides, tmp_path)
    page = files["benchmark-digits.html"].decode()
    assert "alice (1 run), alice and bob (1 run), bob (1 run)" in page and "a CPU of two cores" in page
    assert 'href="method-a.html"' in page and "git 01234567" in page
    assert "order 0, training 0, by alice and bob" in page
    assert 'href="index.html"' in page and 'href="benchmark-digits.html"' in files["index.html"].decode()
    assert str(tmp_path.parent) not in b"".join(files.values()).decode(errors="replace"), "no path of the machine"


def test_disputed_runs_are_named_and_in_no_mean(sides, tmp_path) -> None:
    files = written(sides, tmp_path)
    data, page = json.loads(files["results.json"]), files["index.html"].decode()
    (mine,) = [one for one in data["results"] if one["method"] == "a"]
    assert [run["folders"] for run in mine["runs"]] == [["alice", "bob"], ["alice"], ["bob"]]
    assert mine["metrics"]["faa"]["n"] == 3 and mine["spec"]["method"]["name"] == "a"
    (disputed,) = data["disputed"]
    assert [one["left_out"] for one in disputed["results"]] == [True, True]
    assert disputed["run_id"] in page and "left out: same code, other numbers" in page and "1 run is left out" in page


def test_the_data_says_what_records_say(sides, tmp_path) -> None:
    data = json.loads(written(sides, tmp_path)["results.json"])
    assert [(one["label"], one["records"]) for one in data["folders"]] == [("alice", 3), ("bob", 5)]
    (environment,) = data["environments"]
    assert environment["device_name"] == "a CPU of two cores" and "started" not in environment
    run = data["results"][0]["runs"][0]
    assert run["environment"] == 0 and len(run["accuracy_matrix"]) == 4 and run["costs"]["peak_memory_mb"] == 812.5
    assert {"faa", "caa", "fm"} <= {metric["name"] for metric in data["metrics"]} and data["schema_version"] == 1


def test_hostile_names_are_text(factory, tmp_path) -> None:
    evil = '"><script>alert(1)</script>'
    side = type(factory)(tmp_path / "side")
    for method in (evil, "../../x"):
        side.publish(f"{evil}{method}", side.spec(method, "digits", 0, 0, 2), side.matrix(2, 90.0, 1.0, 0))
    files = written({evil: side.write().root}, tmp_path / "out")
    for name, data in files.items():
        if name.endswith(".html"):
            assert b"<script>alert" not in data and evil not in data.decode(), name
    assert sorted(name for name in files if name.startswith("method")) == [
        "method-script-alert-1-script.html",
        "method-x.html",
    ]
    assert not (tmp_path / "x").exists()
    assert json.loads(files["results.json"])["folders"][0]["label"] == evil


def test_pages_of_an_earlier_site_go(sides, tmp_path) -> None:
    written(sides, tmp_path)
    (tmp_path / "method-own.html").write_text("mine")
    left = written({"alice": sides["alice"]}, tmp_path)
    assert "method-b.html" not in left and "method-own.html" in left and "method-a.html" in left


def test_methods_of_one_name_are_named_first(factory, tmp_path) -> None:
    folders = {}
    for label in ("alice", "bob"):
        side = type(factory)(tmp_path / label)
        spec = side.spec("mine", "digits", 0, 0, 2)
        made: dict[str, Any] = side.result(spec, side.matrix(2, 90, 1, 0))["provenance"]
        side.publish("Mine", spec, side.matrix(2, 90, 1, 0), provenance=made | {"plugins": {"method": label * 20}})
        folders[label] = side.write().root
    files = written(folders, tmp_path / "out")
    assert "2 methods of different code are called &#39;mine&#39;" in files["index.html"].decode()
    assert {"method-mine-plugin-aliceali.html", "method-mine-plugin-bobbobbo.html"} <= files.keys()


def test_records_that_cannot_be_used_are_listed_with_their_folder(sides, tmp_path) -> None:
    run = next(folder for folder in sorted(sides["bob"].iterdir()) if folder.name != "suites")
    (run / "result.json").write_text("{")
    page = written(sides, tmp_path)["index.html"].decode()
    assert "bob: Records" in page and run.name in page and "bob: 1 of 5 records was left out" in page


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["alice=gone"], "'gone' is not a folder"),
        (["=alice"], "has no label"),
        (["a=alice", "A=bob"], "two folders 'A'; label them"),
        (["a=alice", "a=bob and eve"], "label them, as in: --merge 'alice=bob and eve'"),
        (["a=alice", "b=alice/../alice"], "one folder twice, as 'a' and 'b'"),
        (["file"], "is not a folder"),
    ],
)
def test_folders_that_cannot_be_told_apart_or_read_are_refused(tmp_path, monkeypatch, texts, said) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("alice", "bob", "bob and eve"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=re.escape(said)):
        parse_folders(texts)


def test_a_folder_goes_by_its_name_unless_it_has_a_label(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("alice", "a=b"):
        (tmp_path / name).mkdir()
    assert parse_folders(["alice", "a=b", "x=alice/.."]) == {
        "alice": Path("alice"),
        "a=b": Path("a=b"),
        "x": Path("alice/.."),
    }


def test_the_command_writes_the_site_and_refuses_what_does_not_go_with_it(sides, tmp_path, capsys) -> None:
    merged = [f"--merge={label}={folder}" for label, folder in sides.items()]
    assert run_all.main(["report", *merged, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert f"site: {tmp_path / 'out' / 'index.html'}" in said and "Runs with different results" in said
    assert run_all.main(["report", *merged, "--against", str(sides["bob"])]) == 2
    assert "--merge makes a site" in capsys.readouterr().err
    assert run_all.main(["report", *merged, "--out", str(sides["bob"] / "suites")]) == 2
    assert run_all.main(["report", "nosuch", *merged, "--out", str(tmp_path / "out")]) == 2
