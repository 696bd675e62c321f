"""Runs the code blocks of a page in a folder, as a reader would."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from smope_bench import run_all
from tests.forked import forked_workers  # pyright: ignore[reportMissingImports]

ROOT = Path(run_all.__file__).resolve().parent
BLOCK = re.compile(r"(?:^<!-- exit status (\d+) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.(?:py|yaml))(, continued)?\n")


def run_shell(text: str, folder: Path, status: int) -> str:
    """What the lines of a shell block print; the last one ends with ``status``, the others with 0."""
    *first, last = text.splitlines()
    return "".join([*(_run_line(line, folder, 0) for line in first), _run_line(last, folder, status)])


def _run_line(line: str, folder: Path, status: int) -> str:
    if line.startswith("smope-bench "):  # in this process: a new one would import torch anew
        printed, errors = io.StringIO(), io.StringIO()
        redirected = contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors)
        with contextlib.chdir(folder), redirected[0], redirected[1], forked_workers():
            ended = run_all.main(shlex.split(line, comments=True)[1:])
        assert ended == status, f"{line}\n{printed.getvalue()}\n{errors.getvalue()}"
        return printed.getvalue()
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_python_page(text: str, folder: Path) -> dict[str, Any]:
    """Run the python and bash blocks of docs/python.md in a folder; returns the names that the python blocks define.

    ``RUN`` in a command is the id in ``run``. ``python FILE.py …`` is run in this process, where torch is imported already.
    """
    names = dict[str, Any](__name__="__main__")
    for status, language, block in BLOCK.findall(text):
        if language == "python":
            with contextlib.chdir(folder), forked_workers():
                exec(compile(block, "docs/python.md", "exec"), names)
            continue
        for line in block.replace("RUN", str(names.get("run"))).splitlines():
            if line.startswith("python "):
                _run_program(line.split()[1:], folder)
            else:
                run_shell(line, folder, int(status or 0))
    return names


def _run_program(arguments: list[str], folder: Path) -> None:
    before, sys.argv = sys.argv, arguments
    try:
        with contextlib.chdir(folder):
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        sys.argv = before


def write_source(text: str, folder: Path) -> None:
    found = FILE.match(text)
    assert found, f"a block of a file must begin with the name of its file: {text[:40]!r}"
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
    """Do what a text's blocks say, in order, in a folder; returns how many blocks there were of each language.

    A python or yaml block is a file, a bash block is run, a text block must occur in the output of the last one.
    """
    folder.mkdir(exist_ok=True)
    output = ""
    ran: dict[str, int] = {}
    for status, language, block in BLOCK.findall(text):
        ran[language] = ran.get(language, 0) + 1
        if language == "bash":
            output = run_shell(block, folder, int(status or 0))
        elif language in ("python", "yaml"):
            write_source(block, folder)
        elif language == "text":
            assert_shown(block, output)
        else:
            assert language == "toml" and tomllib.loads(block)["project"]["entry-points"]
    return ran
