"""The recipe "A command" of docs/develop.md, followed as it stands."""

import importlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smope_bench import run_all
from smope_bench.harness.cli import command as commands
from tests.develop.pages import blocks  # pyright: ignore[reportMissingImports]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with disk.py and three bytes of results, in which commands are run."""
    (code,) = blocks("A command")
    (tmp_path / "disk.py").write_text(code, encoding="utf-8")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "file").write_bytes(b"abc")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("disk", f"{commands.ROOM}.disk"):
        sys.modules.pop(name, None)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, points: str) -> None:
    """What pip leaves of a package with these entry points."""
    info = folder / "disk-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: disk\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()


def page_command() -> list[str]:
    (text,) = blocks("A command", "bash")
    return shlex.split(text)[1:]


def test_a_file_in_the_room_is_a_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from smope_bench.harness.cli import commands as room

    monkeypatch.setattr(room, "__path__", [*room.__path__, str(folder)])
    assert run_all.main(page_command()) == 0
    assert capsys.readouterr().out == "results: 1 files, 3 bytes\n"
    assert run_all.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert "Print how many files the results folder has" in listed
    assert listed.index("│ run ") < listed.index("│ report ") < listed.index("│ migrate ") < listed.index("│ disk ")


def test_an_installed_package_s_command_is_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (toml,) = blocks("A command", "toml")
    table, point = toml.splitlines()
    assert table == f'[project.entry-points."{commands.GROUP}"]'
    points = [f"[{commands.GROUP}]", point.replace('"', ""), "broken = disk:absent", "run = disk:disk"]
    install(folder, monkeypatch, "\n".join(points))
    assert run_all.main(page_command()) == 0
    assert capsys.readouterr().out == "results: 1 files, 3 bytes\n"
    assert run_all.main(["broken"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: command 'broken' of package 'disk' cannot be imported:") and error.count("\n") == 1
    assert run_all.main(["run", "nothing"]) == 2, "a built-in command cannot be replaced"
    assert "unknown suite 'nothing'" in capsys.readouterr().err


def test_a_name_that_is_taken_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from smope_bench.harness.cli import commands as room

    file = folder / "disk.py"
    file.write_text(file.read_text(encoding="utf-8").replace('@command("disk")', '@command("run")'), encoding="utf-8")
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(folder)])
    assert run_all.main(["list", "suites"]) == 2
    assert "command 'run' already exists, from smope_bench.run_all" in capsys.readouterr().err


BROKEN = """
from smope_bench.api import command

number = 3


class Callable:
    def __call__(self) -> None: ...


instance = Callable()


@command("shelf size")
def grouped() -> None:
    \"\"\"In a group of its own.\"\"\"
    print("42")


@command("run size")
def beside_a_command() -> None: ...


@command("a b c")
def long() -> None: ...


@command("")
def nameless() -> None: ...


def strange(value: int | str) -> None: ...
"""


def test_a_command_that_cannot_be_used_hurts_itself_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "disk.py").write_text(BROKEN, encoding="utf-8")
    names = {"number": "number", "instance": "instance", "grouped": "grouped", "beside": "beside_a_command"}
    names |= {"long": "long", "nameless": "nameless", "strange": "strange", "my size": "grouped"}
    points = [f"{name} = disk:{function}" for name, function in names.items()]
    install(folder, monkeypatch, "\n".join([f"[{commands.GROUP}]", *points]))
    assert run_all.main(["list", "suites", "--json"]) == 0
    assert run_all.main(["shelf", "size"]) == 0
    assert capsys.readouterr().out.endswith("42\n")
    for name, reason in {
        "number": "it is of type int, not a function",
        "instance": "it is of type Callable, not a function",
        "beside": "'run' is a command and no group",
        "long": "'a b c', which cannot be chosen",
        "nameless": "'', which cannot be chosen",
        "strange": "command 'strange' of package 'disk' cannot be used: ",
        "my-size": "'my size', which cannot be chosen",
    }.items():
        assert run_all.main([name]) == 2, name
        error = capsys.readouterr().err
        assert reason in error and error.count("\n") == 1, error
    assert run_all.main(["run", "nothing"]) == 2
    assert "unknown suite" in capsys.readouterr().err
    assert run_all.main(["--help"]) == 0
