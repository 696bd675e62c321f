"""Rooms import only what lies below them: the rule of .importlinter."""

from __future__ import annotations

import subprocess
import sys
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
