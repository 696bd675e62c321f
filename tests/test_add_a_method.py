"""docs/add-a-method.md does what it says: every block is run, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from smope_bench import run_all

ROOT = Path(run_all.__file__).resolve().parent
PAGE = ROOT / "docs" / "add-a-method.md"
BLOCK = re.compile(r"(?:^<!-- exit status (\d+) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)(, continued)?\n")


def run_block(text: str, folder: Path, capsys: pytest.CaptureFixture[str], status: int) -> str:
    """What the lines of a shell block print, of which the last ends with ``status``; ``smope-bench`` runs in this process."""
    *first, last = text.splitlines()
    printed = [run_line(line, folder, capsys, 0) for line in first]
    return "".join([*printed, run_line(last, folder, capsys, status)])


def run_line(line: str, folder: Path, capsys: pytest.CaptureFixture[str], status: int) -> str:
    if line.startswith("smope-bench "):
        capsys.readouterr()
        ended = run_all.main(shlex.split(line, comments=True)[1:])
        said = capsys.readouterr()
        assert ended == status, f"{line}\n{said.out}\n{said.err}"
        return said.out
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
    }
    command = ["bash", "-c", line]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def write_source(text: str, folder: Path) -> None:
    found = FILE.match(text)
    assert found, f"a python block must begin with the name of its file: {text[:40]!r}"
    file = folder / found[1]
    if found[2]:
        file.write_text(f"{file.read_text(encoding='utf-8')}\n{text[found.end() :]}", encoding="utf-8")
    else:
        file.write_text(text[found.end() :], encoding="utf-8")


def assert_shown(expected: str, output: str) -> None:
    """Each line, with ``…`` for anything, occurs in the output, whose own line breaks do not count."""
    said = " ".join(output.split())
    for line in expected.splitlines():
        pattern = ".*?".join(re.escape(" ".join(part.split())) for part in line.split("…"))
        assert re.search(pattern, said), f"{line!r} is not in\n{output}"


def test_every_block_does_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output, ran = tmp_path / "mine", "", 0
    folder.mkdir()
    monkeypatch.chdir(folder)
    for status, kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "bash":
            output, ran = run_block(text, folder, capsys, int(status or 0)), ran + 1
        elif kind == "python":
            write_source(text, folder)
        elif kind == "text":
            assert_shown(text, output)
        else:
            assert kind == "toml" and "smope_bench.methods" in tomllib.loads(text)["project"]["entry-points"]
    assert ran >= 5 and {"results", "data", "aper.py", "leaky.py"} <= {file.name for file in folder.iterdir()}


def test_the_page_shows_a_method_of_about_sixty_lines() -> None:
    blocks = [text for _, kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if kind == "python"]
    assert 40 <= sum(bool(line.strip()) for text in blocks for line in text.splitlines()) <= 75


def test_a_wrong_page_would_be_noticed(tmp_path: Path) -> None:
    try:
        assert_shown("✓ this … that", "✓ that and this")
    except AssertionError:
        return
    raise AssertionError("an output that is not there was taken for shown")
