"""Packages from outside, installed by pip into a fresh environment: found, checked and run; a broken one hurts nobody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
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
    seen = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (Path(inside) / "around.pth").write_text("\n".join(seen) + "\n", encoding="utf-8")
    copies = [shutil.copytree(ROOT / "tests" / name, place / name) for name in PACKAGES]  # a build leaves traces
    offline = ("--no-index", "--no-build-isolation", "--no-deps", "--quiet")
    done = command(sys.executable, "-m", "pip", "--python", python, "install", *offline, *copies, cwd=place)
    assert done.returncode == 0, done.stderr
    return python


def ours(fresh: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command(fresh, ROOT / "run_all.py", *arguments, cwd=folder)


def test_they_are_listed_and_the_broken_one_with_its_error(fresh: Path, tmp_path: Path) -> None:
    done = ours(fresh, tmp_path, "list", "methods", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["sign_means"]["owner"] == "package 'smope-bench-sample'" and rows["sign_means"]["kind"] == "floor"
    error = (
        "method 'broken' of package 'smope-bench-broken' cannot be imported: SystemExit: �[31mno [bold]licence[/] found"
    )
    assert rows["broken"]["error"] == error
    assert not [name for name, row in rows.items() if row.get("error") and name != "broken"] and len(rows) > 10


def test_benchmarks_likewise(fresh: Path, tmp_path: Path) -> None:
    rows = {row["name"]: row for row in json.loads(ours(fresh, tmp_path, "list", "benchmarks", "--json").stdout)}
    assert rows["stripes"]["title"] == "Stripes" and "SystemExit" in rows["broken_too"]["error"]


def test_an_installed_method_is_checked_by_its_name(fresh: Path, tmp_path: Path) -> None:
    done = ours(fresh, tmp_path, "check", "sign_means")
    assert done.returncode == 0 and "sign_means" in done.stdout and "are met" in done.stdout, done.stdout + done.stderr
    broken = ours(fresh, tmp_path, "check", "broken")
    assert broken.returncode == 2 and broken.stderr.splitlines()[-1].startswith("error: method 'broken' of package")


def test_an_installed_method_runs_on_an_installed_benchmark(fresh: Path, tmp_path: Path) -> None:
    chosen = ("--methods", "sign_means", "--benchmarks", "stripes", "--seeds", "0", "--workers", "1")
    done = ours(fresh, tmp_path, "run", "smoke", *chosen)
    assert done.returncode == 0 and "1 of 1 run finished" in done.stdout, done.stdout + done.stderr
    (file,) = tmp_path.glob("results/*/result.json")
    assert sorted(json.loads(file.read_text(encoding="utf-8"))["provenance"]["plugins"]) == ["benchmark", "method"]
