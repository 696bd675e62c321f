"""Output reaches terminals of every encoding."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from smope_bench.harness.console import print_rows
from smope_bench.run_all import main


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "koi8-r"])
@pytest.mark.parametrize(
    "command", ["list suites", "list methods", "plan smoke --methods ncm", "run --help", "nonsense"]
)
def test_what_the_terminal_cannot_print_is_replaced(
    encoding: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, bytes_ in written.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(bytes_, encoding=encoding))
    with pytest.raises(UnicodeEncodeError):
        print("🧭")
    assert main(command.split()) == (2 if command == "nonsense" else 0)
    print("🧭", flush=True)
    assert written["stdout"].getvalue().endswith(b"?\n")


def test_ids_are_whole_in_a_narrow_terminal() -> None:
    out = io.StringIO()
    rows = [{"run": "37ab4a23e79e7bbe", **dict.fromkeys("abcde", "some words here")}]
    columns = tuple((key, lambda row, key=key: row[key]) for key in rows[0])
    print_rows(rows, columns, Console(file=out, width=60))
    lines = out.getvalue().splitlines()
    assert any("37ab4a23e79e7bbe" in line for line in lines) and max(map(len, lines)) <= 60
