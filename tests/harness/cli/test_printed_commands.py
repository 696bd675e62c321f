"""Every command that a message prints can be pasted as it stands: each is parsed by a shell's rules and run in this process."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.core import TyperGroup
from typer.main import get_command

from smope_bench import run_all
from smope_bench.benchmarks.datasets.emoji_r import EmojiR, EmojiRConfig
from smope_bench.harness.cli.command import EXAMPLES, QUOTED, make_app
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning import assets
from smope_bench.harness.planning.settings import Setting, parse_setting, validated
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.text import program, shell_command

USAGE = ("is not a command", "No such", "Missing", "unexpected extra", "nvalid value", "requires an argument", "Got ")
"""What the option parser answers to a line that it cannot read."""
FAR = "a folder whose name alone is longer than the lines of a terminal/with its eighty letters/my data"
SITUATIONS: dict[str, Sequence[str]] = {
    "a run that ended": ["run", "smoke", "--tiny", "--methods", "ncm", "--seeds", "0", "--executor", "serial"],
    "no results": ["report", "--results", "no results/here"],
    "a suite that was not run": ["report", "table1"],
    "counts that were not made": ["report", "table3"],
    "a suite's file": ["suite", "table1", "--out", "my suite.yaml"],
    "a suite's file that is missing": ["run", "missing suite.yaml"],
    "a suite's file that is empty": ["run", "empty.yaml"],
    "a method of one's own": ["new-method", "mine", "--out", "my $(own) plugins"],
    "a name that is unknown": ["describe", "xyzzy"],
    "weights that are missing": ["describe", "sup21k"],
    "a backbone that is missing": ["plan", "smoke", "--backbone", "missing.safetensors", "--data", "my data"],
    "a suite's column without a backbone": ["plan", "bare.yaml"],
    "benchmarks that are not prepared": ["list", "benchmarks", "--data", FAR],
    "backbones that are not prepared": ["list", "backbones", "--data", FAR],
    "images that are missing": ["plan", "table1", "--methods", "ncm", "--seeds", "0", "--data", "my data"],
}
PLACES = (["--results", "2024"], ["--results=my results"])


def printed(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> list[str]:
    """The commands that a command prints, each in backquotes, as a line begins with it, or as its sentence ends with it."""
    run_all.main(list(arguments))
    out, err = capsys.readouterr()
    text = re.sub(r"\s+\n", "\n", f"{out}\n{err}")
    return re.findall(rf"{re.escape(program())} ([^\n]*?)(?=`|\), |; |, | \(or |\)?$)", text, flags=re.MULTILINE)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/else/smope-bench"])
    monkeypatch.setattr("shutil.which", lambda _: None)
    for name, value in {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": "80"}.items():  # a terminal that shows no styles
        monkeypatch.setenv(name, value)
    Path("empty.yaml").write_text("", encoding="utf-8")
    Path("bare.yaml").write_text("columns: [digits]\nrows: [ncm]\n", encoding="utf-8")


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_is_printed_can_be_pasted(situation: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, SITUATIONS[situation])
    assert found, "no command was printed"
    for line in found:
        words = shlex.split(line)
        if words[0] == "data":  # would download
            words.append("--help")
        if words[0] in ("check", "bench"):  # takes seconds
            words.append("--help")
        if words[0] == "run":  # reads the same suites and options, and trains nothing
            words[0] = "plan"
        assert run_all.main(words) in (0, 1, 2)
        error = capsys.readouterr().err
        assert not any(part in error for part in USAGE), error


def test_a_narrow_terminal_breaks_no_remedy_and_no_path(capsys: pytest.CaptureFixture[str]) -> None:
    ncm, far = SITUATIONS["a run that ended"], ["--results", FAR]
    assert run_all.main([*ncm, *far]) == 0
    (record,) = Path(FAR).glob("*/result.json")
    record.write_text("{", encoding="utf-8")
    capsys.readouterr()
    lines = printed(capsys, ["report", *far])
    assert lines and all(shlex.split(line)[-2:] == far for line in lines)
    pictures = Path(FAR, "my pictures")
    for kind in "ab":
        (pictures / kind).mkdir(parents=True)
        for shade in range(6):
            Image.new("RGB", (20, 20), (shade, 0, 40 * (kind == "a"))).save(pictures / kind / f"{shade}.png")
    assert run_all.main(["data", "prepare", "imagefolder", "--from", str(pictures), "--data", FAR]) == 0
    assert run_all.main(["data", "list", "--data", FAR]) == 0
    assert f"{pictures.absolute()}\n" in capsys.readouterr().out


@pytest.mark.parametrize("place", PLACES)
def test_what_is_printed_names_the_folder_that_was_given(place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = printed(capsys, [*SITUATIONS["a run that ended"], *place])
    capsys.readouterr()
    assert run_all.main(shlex.split(line)) == 0
    assert "page" in capsys.readouterr().out


@pytest.mark.parametrize("place", [[], ["--data", "my data"]])
def test_what_a_plan_prepares_is_what_its_runs_train_on(
    place: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image size belongs to the stored images; the number of tasks does not, so that the command leaves it out."""
    prepared: list[str] = []

    def prepare(
        name: str, registries: Registries, data: Path, _given: object, _notify: object, settings: list[Setting]
    ) -> None:
        benchmark: Any = registries.benchmarks.load(name)
        values = validated(benchmark.Config, assets.benchmark_values(settings), "benchmark")
        prepared.append(f"{data} {benchmark(values, data).images_key()}")
        raise UserError("enough")

    monkeypatch.setattr(assets, "prepare_named", prepare)
    given = [
        "--set",
        "benchmark.image_size=48",
        "--set",
        "benchmark.tasks=4",
        "--set",
        "backbone.image_size=48",
        *place,
    ]
    asked = ["plan", "smoke", "--tiny", "--methods", "ncm", "--seeds", "0", "--benchmarks", "emoji_r", *given]
    (line,) = printed(capsys, asked)
    assert "tasks" not in line and run_all.main(shlex.split(line)) == 2 and "enough" in capsys.readouterr().err
    assert run_all.main([*asked, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    planned = EmojiR(EmojiRConfig(**row["benchmark_settings"]), Path(place[-1] if place else "data"))
    assert prepared == [f"{planned.root} {planned.images_key()}"]


TRACKER = """
from smope_bench.api import tracker

@tracker("full_disk")
def full_disk(run, folder):
    raise OSError(28, "No space left on device")
"""


def test_what_trained_models_and_trackers_print_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("full disk.py").write_text(TRACKER, encoding="utf-8")
    place = ["--results", "my results"]
    first = [
        "run",
        "smoke",
        "--methods",
        "ncm",
        "--benchmarks",
        "digits",
        "--seeds",
        "0",
        "--executor",
        "serial",
        *place,
    ]
    learnt = [*first, "--limit", "20", "--set", "benchmark.stop_after=2", "--plugin", "full disk.py"]
    tracked = [line for line in printed(capsys, [*learnt, "--track", "full_disk"]) if line.startswith("track ")]
    assert len(tracked) == 1
    assert run_all.main(shlex.split(tracked[0])) == 1, "the tracker fails again, by its own fault"
    assert "No space left on device" in capsys.readouterr().err
    later = [line for line in printed(capsys, [*learnt, "--track", "full_disk"]) if line.startswith("track ")]
    assert len(later) == 1 and run_all.main(shlex.split(later[0])) == 1 and "No space" in capsys.readouterr().err
    (run,) = (file.parent.name for file in Path("my results").glob("*/result.json"))
    (line,) = printed(capsys, ["extend", run, "--executor", "serial", *place])
    assert run_all.main(shlex.split(line)) == 0 and "accuracy" in capsys.readouterr().out
    kept = Path("my results", run, "model.safetensors")
    kept.write_bytes(b"")
    (line,) = printed(capsys, ["predict", run, "picture.png", *place])
    assert run_all.main([*shlex.split(line), "--executor", "serial"]) == 0 and kept.stat().st_size
    assert "1 of 1 run finished" in capsys.readouterr().out
    Path("my results/0123456789abcdef").mkdir()
    (line,) = printed(capsys, ["predictions", "0123", *place])
    assert run_all.main(shlex.split(line)) == 0


def test_the_program_is_named_as_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/my tools/smope-bench"])
    assert shell_command("run", "a b.yaml") == "'/my tools/smope-bench' run 'a b.yaml'"
    monkeypatch.setattr("shutil.which", lambda _: "/my tools/smope-bench")
    assert shell_command("status", results=Path("my r")) == "smope-bench status --results 'my r'"
    monkeypatch.setattr(sys, "argv", ["../my bench/run_all.py"])
    monkeypatch.setattr(sys, "orig_argv", [".venv/bin/python", "../my bench/run_all.py"])
    assert program() == ".venv/bin/python '../my bench/run_all.py'"
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    assert program() == "smope-bench"


@pytest.mark.parametrize("written", ["--results=~/r", "--results=~nobody/r", "--results ~/r"])
def test_a_tilde_is_the_users_folder_and_no_folder_of_that_name_is_made(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        "os.path.expanduser", lambda path: path.replace("~nobody", "/h").replace("~", f"{tmp_path}/home")
    )
    assert run_all.main(["report", *written.split()]) == 2
    error = capsys.readouterr().err
    assert "~" not in error and ("/h/r" in error or f"{tmp_path}/home/r" in error)


@pytest.mark.parametrize("name", ["2024", "1e3", "true", "a b", "None of it", "[1]"])
def test_a_folder_may_be_called_like_a_number(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_setting(f"benchmark.path={name}").value == name
    for kind in ("x", "y"):
        (Path(name) / kind).mkdir(parents=True)
        for shade in range(6):
            Image.new("RGB", (20, 20), (shade, len(kind), 40 * (kind == "x"))).save(Path(name) / kind / f"{shade}.png")
    asked = ["plan", "smoke", "--tiny", "--benchmarks", "imagefolder", "--set", "benchmark.tasks=2", "--methods", "ncm"]
    assert run_all.main([*asked, "--seeds", "0", "--set", f"benchmark.path={name}"]) == 0, capsys.readouterr().err


def read_words(group: Any, words: Sequence[str]) -> Any:
    """The command that these words call; the option parser's error where it cannot read them."""
    found, rest = group, list(words)
    while isinstance(found, TyperGroup):
        assert rest and rest[0] in found.commands, f"{' '.join(words)}: {rest[:1]} is not a command"
        found, rest = found.commands[rest[0]], rest[1:]
    found.make_context(str(found.name), rest)
    return found


def test_the_example_of_each_command_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    group = get_command(make_app(run_all.default))
    assert isinstance(group, TyperGroup)
    for name, example in EXAMPLES.items():
        if not example:  # of a group
            continue
        words = shlex.split(example)
        assert run_all.main([*name.split(), "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert f" Example: {program()} {example}" in lines
        found = read_words(group, words)
        texts = [found.help, *(getattr(parameter, "help", None) for parameter in found.params)]
        for named in QUOTED.findall(" ".join(filter(None, texts))):
            assert f" See also: {program()} {named}" in lines
            read_words(group, [*shlex.split(named)])


COMMAND = re.compile(r"(?:run_all\.py|(?<![\w/.])smope-bench) ([a-z][^`\n]*)")
SHELL = re.compile(r" && | \|\| |; | > | 2>| \| |\s#| &$")
ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_documents_can_be_read(page: Path) -> None:
    group = get_command(make_app(run_all.default))
    assert isinstance(group, TyperGroup)
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    text = re.sub(r"(?<!`)`[^`]+`(?!`)", lambda found: " ".join(found[0].split()), text)  # in one line, as it is shown
    for line in (SHELL.split(found)[0] for found in COMMAND.findall(text)):
        words = shlex.split(line)
        if len(words) < 2 or "…" in line or "--help" in words or words[0] not in group.commands:
            continue  # the name of a command, or prose
        read_words(group, words)


def test_help_is_in_the_order_of_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["--help"]) == 0
    out = capsys.readouterr().out
    named = [name for name in EXAMPLES if " " not in name]
    places = [re.search(rf"^\W*{name}\s", out, re.MULTILINE) for name in named]
    assert all(places) and (at := [place.start() for place in places if place]) == sorted(at)


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["--version"]) == 0
    assert re.fullmatch(r"smope-bench \S+ · Python 3\S+ · torch \S+ · timm \S+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("new-m", ["new-method"]),
        ("run smo", ["smoke"]),
        ("report smoke fig2", ["fig2"]),
        ("suite table1", ["table1"]),
        ("predict 3f", ["3f2a", "3f2b"]),
        ("predictions --results other 9", ["91aa"]),
        ("extend 9", []),
    ],
)
def test_a_shell_completes_names(
    line: str, offered: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_all.main(["--help"]) == 0
    assert "--install-completion" in capsys.readouterr().out
    for record in ("results/3f2a", "results/3f2b", "results/77aa", "other/91aa"):
        Path(record).mkdir(parents=True)
        Path(record, "result.json").touch()
    Path("results/3f99").mkdir()  # not finished
    monkeypatch.setenv("_SMOPE_BENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"smope-bench {line}")
    monkeypatch.setenv("COMP_CWORD", str(len(line.split())))
    monkeypatch.setattr(sys, "argv", ["smope-bench"])
    with pytest.raises(SystemExit):
        run_all.main([])
    assert capsys.readouterr().out.split() == offered
