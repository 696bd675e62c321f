"""What a script of the user's own meets: a plugin that breaks, and workers that would run the script again."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from smope_bench import run_all
from smope_bench.harness.errors import UserError
from smope_bench.harness.executors import local


def test_a_plugin_that_breaks_in_a_run_is_named_with_its_line_and_the_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_all.main(["new-method", "mine"]) == 0
    source = Path("mine.py").read_text(encoding="utf-8")
    lines = source.splitlines()
    at = next(i for i, line in enumerate(lines) if "def training_step" in line)
    indent = " " * (len(lines[at]) - len(lines[at].lstrip()) + 4)
    lines.insert(at + 1, f"{indent}batch.nonsense")
    Path("mine.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    capsys.readouterr()
    asked = [
        "run",
        "smoke",
        "--tiny",
        "--plugin",
        "mine.py",
        "--methods",
        "mine",
        "--seeds",
        "0",
        "--executor",
        "serial",
    ]
    assert run_all.main(asked) == 1
    error = capsys.readouterr().err
    assert "AttributeError: " in error and f"mine.py line {at + 2}, training_step)" in error
    (file,) = Path("results").glob("*/failure.json")
    assert str(file) in error and "Traceback (most recent call last)" in json.loads(file.read_text())["traceback"]


@pytest.mark.parametrize("is_guarded", [True, False])
def test_a_script_that_starts_workers_unguarded_is_refused_at_once(is_guarded: bool, tmp_path: Path) -> None:
    body = """
    from smope_bench.harness.main_guard import require_main_guard
    def begin():
        require_main_guard()
        print("begun")
    """
    call = 'if __name__ == "__main__":\n    begin()\n' if is_guarded else "begin()\n"
    script = tmp_path / "mine.py"
    script.write_text(textwrap.dedent(body) + call, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60)
    if is_guarded:
        assert (done.returncode, done.stdout) == (0, "begun\n")
    else:
        assert "begun" not in done.stdout
        assert "mine.py line 6 starts workers" in done.stderr.splitlines()[-1]


def test_the_executor_asks_for_the_guard_before_it_starts_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise UserError("no guard")

    monkeypatch.setattr(local, "require_main_guard", refuse)
    with pytest.raises(UserError, match="no guard"):
        next(local.run_in_processes([], None, lambda *_: None))  # pyright: ignore[reportArgumentType]
