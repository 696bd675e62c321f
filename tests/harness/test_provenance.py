import getpass
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from smope_bench.harness import provenance


def make_tree(root: Path) -> Path:
    for name, text in {
        "methods/a.py": "a = 1\n",
        "methods/common/w.safetensors": "weights",
        "benchmarks/b.py": "b = 1\n",
        "benchmarks/suites/__init__.py": "suite = 1\n",
        "harness/training/trainer.py": "e = 1\n",
        "harness/execution/progress.py": "p = 1\n",
        "reports/r.py": "r = 1\n",
        "tests/test_a.py": "t = 1\n",
        "methods/__pycache__/a.py": "junk",
        "methods/notes.md": "notes",
    }.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root


def fingerprint(root: Path) -> str:
    return provenance.fingerprint_of(provenance.source_files(root), root)


@pytest.mark.parametrize(
    "name", ["methods/a.py", "methods/common/w.safetensors", "benchmarks/b.py", "harness/training/trainer.py"]
)
def test_editing_what_a_run_executes_changes_the_fingerprint(tmp_path: Path, name: str) -> None:
    before = fingerprint(make_tree(tmp_path))
    (tmp_path / name).write_text("changed", encoding="utf-8")
    assert fingerprint(tmp_path) != before


@pytest.mark.parametrize(
    "name",
    [
        "reports/r.py",
        "tests/test_a.py",
        "benchmarks/suites/__init__.py",
        "harness/execution/progress.py",
        "methods/notes.md",
        "methods/__pycache__/a.py",
    ],
)
def test_editing_anything_else_does_not(tmp_path: Path, name: str) -> None:
    before = fingerprint(make_tree(tmp_path))
    (tmp_path / name).write_text("changed", encoding="utf-8")
    assert fingerprint(tmp_path) == before


def test_renaming_a_file_or_moving_a_line_between_files_changes_the_fingerprint(tmp_path: Path) -> None:
    before = fingerprint(make_tree(tmp_path))
    (tmp_path / "methods/a.py").rename(tmp_path / "methods/c.py")
    assert fingerprint(tmp_path) != before
    (tmp_path / "methods/c.py").rename(tmp_path / "methods/a.py")
    assert fingerprint(tmp_path) == before


def test_the_folder_a_project_lies_in_does_not_matter(tmp_path: Path) -> None:
    assert fingerprint(make_tree(tmp_path / "one")) == fingerprint(make_tree(tmp_path / "two"))


def test_files_left_out_of_the_fingerprint_exist() -> None:
    absent = [pattern for pattern in provenance.NOT_PART_OF_A_RUN if not any(provenance.PROJECT_ROOT.glob(pattern))]
    assert absent == []


def test_the_fingerprint_costs_no_torch() -> None:
    code = "import sys; from smope_bench.harness.provenance import code_fingerprint; code_fingerprint(); print('torch' in sys.modules)"
    root = provenance.PROJECT_ROOT
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_record_says_what_ran_and_not_who_ran_it() -> None:
    block = provenance.collect("cpu", split_hash="abc")
    assert block["code_fingerprint"] == provenance.code_fingerprint()
    assert block["split_hash"] == "abc"
    assert block["torch"] and block["numpy"] and block["timm"] and block["project"] and block["cpu"]
    assert block["device_name"] == block["cpu"]
    text = json.dumps(block)
    assert str(Path.home()) + "/" not in text
    for private in {socket.gethostname(), getpass.getuser()} - {"root", "localhost", ""}:
        assert private not in text


def test_no_revision_is_claimed_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PROJECT_ROOT", tmp_path)
    assert provenance.git_state.__wrapped__() == (None, None)


def test_the_revision_and_whether_it_was_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(provenance, "PROJECT_ROOT", tmp_path)
    assert provenance.git_state.__wrapped__() == (git("rev-parse", "HEAD"), False)
    (tmp_path / "file").write_text("two")
    assert provenance.git_state.__wrapped__()[1] is True


def test_time_is_in_utc_to_the_second() -> None:
    assert len(provenance.now()) == len("2026-11-22T05:00:00Z") and provenance.now().endswith("Z")
