"""Runs the code blocks of a page in a folder, as a reader would. For docs/add-a-method.md and docs/develop.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from smope_bench import run_all

ROOT = Path(run_all.__file__).resolve().parent
BLOCK = re.compile(r"(?:^<!-- exit status (\d+) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)(, continued)?\n")


def place_commands(folder: Path) -> Path:
    """``smope-bench`` and ``python`` as an installation has them, for this checkout and this interpreter."""
    commands = folder / "bin"
    commands.mkdir()
    for name, arguments in (("smope-bench", f'"{ROOT / "run_all.py"}"'), ("python", "")):
        file = commands / name
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', encoding="utf-8")
        file.chmod(0o755)
    return commands


def run_shell(text: str, folder: Path, commands: Path, status: int) -> str:
    environment = os.environ | {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-e", "-c", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, f"{text}\n{done.stdout}\n{done.stderr}"
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


def follow(text: str, folder: Path) -> dict[str, int]:
    """Do what a text's blocks say, in order, in a new folder; returns how many blocks there were of each language.

    A python block is a file, a bash block is run, a text block must occur in the output of the last one.
    """
    folder.mkdir()
    commands, output = place_commands(folder.parent), ""
    ran: dict[str, int] = {}
    for status, language, block in BLOCK.findall(text):
        ran[language] = ran.get(language, 0) + 1
        if language == "bash":
            output = run_shell(block, folder, commands, int(status or 0))
        elif language == "python":
            write_source(block, folder)
        elif language == "text":
            assert_shown(block, output)
        else:
            assert language == "toml" and tomllib.loads(block)["project"]["entry-points"]
    return ran
