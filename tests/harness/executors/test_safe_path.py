"""Worker processes import nothing from the folder in which a command is called."""

import os
import subprocess
import sys
from pathlib import Path

from smope_bench.harness.executors.local import SAFE_PATH, safe_path
from smope_bench.harness.provenance import IMPORT_ROOT

TRAP = "raise RuntimeError('imported from the current folder')\n"
COMMAND = "import sys; from smope_bench import run_all; sys.exit(run_all.main(sys.argv[1:]))"


def trapped(folder: Path, *modules: str) -> Path:
    """A folder whose packages ``methods``, ``benchmarks`` and ``harness``, and these modules, cannot be imported."""
    for package in ("methods", "benchmarks", "harness"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(TRAP, encoding="utf-8")
    for module in modules:
        (folder / f"{module}.py").write_text(TRAP, encoding="utf-8")
    return folder


def test_modules_of_the_current_folder_hurt_no_worker(tmp_path: Path) -> None:
    """Modules on PYTHONPATH go before the standard library in any Python program: there only packages of ours are doubled."""
    here, on_path = trapped(tmp_path / "here", "random", "types"), trapped(tmp_path / "path")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(on_path), str(IMPORT_ROOT)])}
    run = ["run", "ci", "--methods", "ncm", "--executor", "local", "--workers", "1", "--device", "cpu"]
    command = [sys.executable, "-P", "-c", COMMAND, *run]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 run finished" in done.stdout and "1 worker on cpu" in done.stdout


def test_the_setting_is_as_before_afterwards() -> None:
    before = os.environ.get(SAFE_PATH)
    with safe_path():
        assert os.environ[SAFE_PATH] == "1"
    assert os.environ.get(SAFE_PATH) == before
