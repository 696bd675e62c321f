import getpass
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from smope_bench.harness import provenance


def make_tree(root: Path) -> Path:
    for name, text in {
        "methods/a.py": "a = 1\n",
        "methods/common/backbone/weights/w.safetensors": "weights",
        "benchmarks/b.py": "b = 1\n",
        "benchmarks/suites/__init__.py": "suite = 1\n",
        "harness/training/trainer.py": "e = 1\n",
        "harness/execution/monitoring/progress.py": "p = 1\n",
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
    "name",
    ["methods/a.py", "methods/common/backbone/weights/w.safetensors", "benchmarks/b.py", "harness/training/trainer.py"],
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
        "harness/execution/monitoring/progress.py",
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


def test_rooms_of_the_fingerprint_exist() -> None:
    absent = [part for part in provenance.PARTS_OF_A_RUN if not any(provenance.PROJECT_ROOT.glob(part))]
    assert absent == []


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    for room in provenance.ROOMS:
        shutil.copytree(provenance.PROJECT_ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.mark.parametrize(
    ("name", "before", "after", "changes"),
    [
        ("harness/hardware/device.py", "allow_tf32 = False", "allow_tf32 = True", True),
        ("methods/smope.py", "return ", "return 2 * ", True),
        ("benchmarks/datasets/published/imagenet_r_classes.txt", "n0", "n1", True),
        ("harness/training/trainer.py", "\n\n\n", "\n\n\n# A comment about nothing.\n", False),
        ("methods/smope.py", '"""', '"""In other words: ', False),
        ("harness/execution/scheduler.py", "return ", "return 2 * ", False),
        ("harness/cli/commands/listing.py", "return ", "return 2 * ", False),
    ],
)
def test_what_an_edit_of_the_code_does(copy: Path, name: str, before: str, after: str, changes: bool) -> None:
    file, original = copy / name, fingerprint(copy)
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after, 1), encoding="utf-8")
    try:
        assert (fingerprint(copy) != original) is changes
    finally:
        file.write_text(text, encoding="utf-8")


def test_a_new_file_changes_it_only_with_code_and_only_in_a_room_of_runs(copy: Path) -> None:
    original = fingerprint(copy)
    for name, text, changes in (
        ("harness/executors/new.py", "x = 1\n", False),
        ("harness/training/new.py", '"""Nothing yet."""\n', False),
        ("harness/training/new.py", "x = 1\n", True),
    ):
        (copy / name).write_text(text, encoding="utf-8")
        assert (fingerprint(copy) != original) is changes
        (copy / name).unlink()


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("x = 1\n", "# why\nx  =  1", True),
        ("def f():\n    'text'\n    return 1\n", "def f(): return 1", True),
        ("x = 'a'\n'what x is'\n", 'x = "a"', True),
        ("x = 1", "x = 1.0", False),
        ("x = None", "x = 'None'", False),
        ("f(a, b)", "f(a, *b)", False),
        ("x = a[1:]", "x = a[:1]", False),
        ("if a:\n    b\n", "if a:\n    pass\nelse:\n    b\n", False),
        ("no Python at all", "no python at all", False),
    ],
)
def test_code_is_what_it_does(one: str, two: str, same: bool) -> None:
    assert (provenance.code_bytes(one.encode()) == provenance.code_bytes(two.encode())) is same


def test_the_fingerprint_costs_no_torch() -> None:
    code = (
        "import sys; from smope_bench.harness.provenance import code_fingerprint; "
        "code_fingerprint(); print('torch' in sys.modules)"
    )
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
