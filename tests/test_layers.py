"""Rooms import only what lies below them: the rule of .importlinter."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINT = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"


def lint(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LINT, "--no-cache", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_every_room_keeps_to_its_layer() -> None:
    done = lint()
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_a_forbidden_import_is_found(tmp_path: Path) -> None:
    rule = tmp_path / "rule.ini"
    rule.write_text(
        "[importlinter]\nroot_package = smope_bench\n"
        "[importlinter:contract:upside_down]\nname = methods above reports\ntype = layers\ncontainers = smope_bench\n"
        "layers =\n    methods\n    harness\n",
        encoding="utf-8",
    )
    done = lint("--config", str(rule))
    assert done.returncode == 1 and "harness is not allowed to import smope_bench.methods" in done.stdout


def test_types_are_checked_in_every_room() -> None:
    """pyright follows a link where it is named, not below a folder: findings/pyright-include-symlink.sh."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pyright"]
    links = {link.relative_to(ROOT).as_posix() for link in (ROOT / "src" / "smope_bench").iterdir() if link.is_dir()}
    assert {name for name in links if not name.endswith("__pycache__")} <= set(settings["include"])


def test_a_folder_of_the_same_name_hides_nothing(tmp_path: Path) -> None:
    """A clone may be called smope_bench and lie where the user works: findings/setuptools-editable-hidden-by-folder.sh."""
    (tmp_path / "smope_bench").mkdir()
    code = "import smope_bench.harness.errors as found; print(found.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("errors.py")
