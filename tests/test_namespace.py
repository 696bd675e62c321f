"""The code is importable as ``smope_bench`` alone, beside a user's packages of the same names, and from a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from smope_bench import run_all
from tests.wheel_walk import README_LINES, build_wheel, commands_of_readme  # pyright: ignore[reportMissingImports]

ROOT = Path(run_all.__file__).resolve().parent
ROOMS = ("benchmarks", "harness", "methods", "reports")
DATA = {".json", ".txt", ".csv", ".safetensors", ".j2", ".css", ".js", ".ttf"}
TOP = ("__init__.py", "api.py", "audit.py", "run_all.py", "py.typed")


def python(folder: Path, *arguments: str, path: Path | str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(path)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder with packages of its own under our folders' names; each of them notes that it was imported."""
    for room in ROOMS:
        (tmp_path / room).mkdir()
        note = f"open({str(tmp_path / 'imported')!r}, 'a').write('{room} ')\n"
        (tmp_path / room / "__init__.py").write_text(note, encoding="utf-8")
    return tmp_path


def test_a_suite_and_a_new_method_s_test_run_beside_the_users_own_packages(project: Path) -> None:
    """In one process, because PyTorch takes longer to import than they take."""
    code = """
        import pytest
        from smope_bench import run_all

        print("ENDS", run_all.main(["run", "ci", "--methods", "ncm"]), run_all.main(["new-method", "mine"]))
        print("TESTS", int(pytest.main(["-q", "-p", "no:cacheprovider", "test_mine.py"])))
    """
    done = python(project, "-c", textwrap.dedent(code), path=project)
    assert "ENDS 0 0" in done.stdout and "TESTS 0" in done.stdout, done.stdout + done.stderr
    assert "finished" in done.stdout and "1 passed" in done.stdout
    assert not (project / "imported").exists() and list(project.glob("results/*/result.json"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout, built from a copy of what git tracks or would track."""
    return zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("wheel")))


def test_a_wheel_has_all_rooms_and_nothing_beside_the_namespace(wheel: zipfile.ZipFile) -> None:
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        f"smope_bench/{file.relative_to(ROOT).as_posix()}"
        for room in ROOMS
        for file in (ROOT / room).rglob("*")
        if file.suffix in {".py", *DATA} and "__pycache__" not in file.parts
    }
    assert files == expected | {f"smope_bench/{name}" for name in TOP}
    assert {Path(name).suffix for name in files} >= DATA
    others = {name.split("/")[0] for name in wheel.namelist()} - {"smope_bench"}
    assert len(others) == 1 and others.pop().endswith(".dist-info")


def test_a_wheel_works_without_the_checkout(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    code = "import smope_bench.run_all as r, sys; print(r.__file__); sys.exit(r.main(['list', 'methods']))"
    done = python(tmp_path, "-P", "-c", code, path=tmp_path / "site")
    assert done.returncode == 0 and done.stdout.startswith(str(tmp_path)) and "ncm" in done.stdout, done.stderr


def test_the_walk_through_the_wheel_decides_on_every_command_of_the_readme() -> None:
    assert commands_of_readme() == list(README_LINES), (
        "say in tests/wheel_walk.py how a command of the README is walked"
    )
