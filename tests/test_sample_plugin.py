"""Packages from outside, installed by pip into a fresh environment: found, checked and run; a broken one hurts nobody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from smope_bench import run_all

ROOT = Path(run_all.__file__).resolve().parent
PACKAGES = ("sample_plugin", "sample_plugin_broken")


def command(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    texts = [str(one) for one in arguments]
    return subprocess.run(texts, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment of its own with both packages; it sees what is installed around this interpreter."""
    place = tmp_path_factory.mktemp("fresh")
    venv.create(place / "env", with_pip=False)
    python = place / "env" / "bin" / "python"
    inside = command(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).stdout.strip()
    seen = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(ROOT / "src")])
    (Path(inside) / "around.pth").write_text("\n".join(seen) + "\n", encoding="utf-8")
    copies = [shutil.copytree(ROOT / "tests" / name, place / name) for name in PACKAGES]  # a build leaves traces
    offline = ("--no-index", "--no-build-isolation", "--no-deps", "--quiet")
    done = command(sys.executable, "-m", "pip", "--python", python, "install", *offline, *copies, cwd=place)
    assert done.returncode == 0, done.stderr
    return python


COMMANDS = (
    ("list", "methods", "--json"),
    ("list", "benchmarks", "--json"),
    ("check", "sign_means"),
    ("check", "broken"),
    ("run", "smoke", "--methods", "sign_means", "--benchmarks", "stripes", "--seeds", "0", "--workers", "1"),
)
ONE_BY_ONE = """
    import contextlib, io, json, runpy, sys

    main, ends = runpy.run_path(sys.argv[1])["main"], []
    for command in json.loads(sys.argv[2]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(command)
        ends.append((status, out.getvalue(), err.getvalue()))
    print(json.dumps(ends))
"""


@dataclass
class Answers:
    """What the commands ended with, and the folder in which they ran."""

    folder: Path
    ends: dict[tuple[str, ...], tuple[int, str, str]]

    def to(self, *words: str) -> tuple[int, str, str]:
        """Status, output and errors of the command that begins with ``words``."""
        (found,) = [end for command, end in self.ends.items() if command[: len(words)] == words]
        return found


@pytest.fixture(scope="module")
def answers(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """All commands in one process of the fresh environment, which starts more slowly than most of them take."""
    folder = tmp_path_factory.mktemp("commands")
    code, asked = textwrap.dedent(ONE_BY_ONE), json.dumps(COMMANDS)
    done = command(fresh, "-c", code, ROOT / "run_all.py", asked, cwd=folder)
    assert done.returncode == 0, done.stderr
    return Answers(folder, dict(zip(COMMANDS, json.loads(done.stdout.splitlines()[-1]), strict=True)))


def test_they_are_listed_and_the_broken_one_with_its_error(answers: Answers) -> None:
    status, out, err = answers.to("list", "methods")
    assert status == 0, err
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["sign_means"]["owner"] == "package 'smope-bench-sample'" and rows["sign_means"]["kind"] == "floor"
    error = (
        "method 'broken' of package 'smope-bench-broken' cannot be imported: SystemExit: �[31mno [bold]licence[/] found"
    )
    assert rows["broken"]["error"] == error
    assert not [name for name, row in rows.items() if row.get("error") and name != "broken"] and len(rows) > 10


def test_benchmarks_likewise(answers: Answers) -> None:
    rows = {row["name"]: row for row in json.loads(answers.to("list", "benchmarks")[1])}
    assert rows["stripes"]["title"] == "Stripes" and "SystemExit" in rows["broken_too"]["error"]


def test_an_installed_method_is_checked_by_its_name(answers: Answers) -> None:
    status, out, err = answers.to("check", "sign_means")
    assert status == 0 and "sign_means" in out and "are met" in out, out + err
    status, out, err = answers.to("check", "broken")
    assert status == 2 and err.splitlines()[-1].startswith("error: method 'broken' of package")


def test_an_installed_method_runs_on_an_installed_benchmark(answers: Answers) -> None:
    status, out, err = answers.to("run", "smoke")
    assert status == 0 and "1 of 1 run finished" in out, out + err
    (file,) = answers.folder.glob("results/*/result.json")
    assert sorted(json.loads(file.read_text(encoding="utf-8"))["provenance"]["plugins"]) == ["benchmark", "method"]
