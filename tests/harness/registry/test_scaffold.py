"""A new method works as it is written, and nothing of the user's is overwritten."""

from __future__ import annotations

import io
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from smope_bench import run_all
from smope_bench.harness.errors import UserError
from smope_bench.harness.registry import plugins as plugin_loading
from smope_bench.harness.registry.scaffold import new_method
from tests.forked import Forked  # pyright: ignore[reportMissingImports]


def test_what_is_written_passes_its_own_test_under_pytest(tmp_path: Path) -> None:
    plugin, test = new_method("my_prompt", tmp_path / "new")
    assert [plugin.name, test.name] == ["my_prompt.py", "test_my_prompt.py"]

    def own_pytest() -> int:
        os.environ.clear()
        return pytest.main(["-q", "-p", "no:cacheprovider", str(test)])

    out = tmp_path / "out"
    status = Forked(own_pytest, out, out, tmp_path).wait(300)
    assert status == 0 and "1 passed" in out.read_text(), out.read_text()


def test_it_is_short(tmp_path: Path) -> None:
    """Statements of the class and its settings, without imports, docstrings and blank lines."""
    text = new_method("mine", tmp_path)[0].read_text(encoding="utf-8")
    body = text[text.index("class MineConfig") :].splitlines()
    code = [line for line in body if line.strip() and not line.strip().startswith(('"""', "#"))]
    assert len(code) <= 25


def test_the_command_says_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["new-method", "mine", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"smope-bench check {tmp_path / 'mine.py'}\n" in out and "--methods mine --seeds 0" in out


def test_it_speaks_of_the_command_by_which_it_was_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/smope-bench", "new-method"])
    assert run_all.main(["new-method", "mine", "--out", str(tmp_path)]) == 0
    assert f"smope-bench check {tmp_path / 'mine.py'}\n" in capsys.readouterr().out


def test_what_comes_next_can_be_pasted_whatever_the_folder_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_all.main(["new-method", "mine", "--out", str(tmp_path / "my $(own) folder")]) == 0
    _, check, run = capsys.readouterr().out.splitlines()
    plugin = str(tmp_path / "my $(own) folder" / "mine.py")
    assert shlex.split(check) == ["smope-bench", "check", plugin]
    assert shlex.split(run)[3:5] == ["--plugin", plugin]


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_mine.py").write_text("mine", encoding="utf-8")
    assert run_all.main(["new-method", "mine", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "test_mine.py' exists and is not overwritten" in error and error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["test_mine.py"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mine", "use lower-case letters"),
        ("../mine", "use lower-case letters"),
        ("mine.py", "for example my_prompt"),
        ("2nd", "a letter first"),
        ("", "cannot name a new method"),
        ("a" * 61, "at most 60"),
        ("mine\x1b[31m", "cannot name a new method"),
        ("lambda", "word of Python's own"),
        ("match", "word of Python's own"),
        ("test_mine", "taken for a test"),
        ("conftest", "taken for a test"),
        ("ncm", "method 'ncm' already exists, from built-in"),
        ("torch", "installed module, which torch.py would hide: try my_torch"),
        ("harness", "installed module"),
    ],
)
def test_a_name_that_cannot_be_is_one_sentence(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        new_method(name, tmp_path)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_installed_packages_method_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = plugin_loading.EntryPoint("theirs", "x:y", "smope_bench.methods")
    monkeypatch.setattr(plugin_loading, "entry_points", lambda group: [point])
    with pytest.raises(UserError, match="'theirs' already exists, from entry point 'x:y'"):
        new_method("theirs", tmp_path)


def test_a_class_does_not_take_a_name_that_the_file_needs(tmp_path: Path) -> None:
    text = new_method("plain_prefix", tmp_path)[0].read_text(encoding="utf-8")
    assert "class PlainPrefixMethod(Method):" in text and "PlainPrefix(self.keys" in text


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be written into .*--out DIR"):
        new_method("mine", tmp_path / "file" / "inside")


def test_half_a_method_is_not_left_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: io.TextIOWrapper, text: str) -> int:
        raise OSError(28, "No space left on device")

    real = Path.open

    def opened(path: Path, *rest: Any, **options: Any) -> Any:
        stream = real(path, *rest, **options)
        if path.name == "test_mine.py":
            monkeypatch.setattr(stream, "write", full.__get__(stream), raising=False)
        return stream

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        with pytest.raises(UserError, match=r"cannot be written into .*No space left on device"):
            new_method("mine", tmp_path)
    assert list(tmp_path.iterdir()) == []
    new_method("mine", tmp_path)
