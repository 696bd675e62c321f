"""Output reaches terminals of every encoding."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

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


class Full(io.StringIO):
    """A log on a full disk, or a pipe whose reader has ended: what is written stays unwritten."""

    def __init__(self, number: int, room: int = 0) -> None:
        super().__init__()
        self.number, self.room = number, room

    def write(self, text: str) -> int:
        self.room -= 1
        if self.room < 0:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO])
@pytest.mark.parametrize("room", [0, 3])
def test_a_launch_whose_output_is_lost_goes_on(
    number: int, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", Full(number, room))
    words = "run ci --methods ncm --seeds 0 --limit 5 --executor serial --device cpu"
    assert main(words.split()) == 0
    assert len(list(tmp_path.glob("results/*/result.json"))) == 1
    assert capsys.readouterr().err == f"note: output was lost ({os.strerror(number)}); no run was stopped by it\n"


def test_other_commands_say_in_a_sentence_that_their_output_has_no_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Full(errno.ENOSPC))
    assert main(["list", "executors"]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("error: a file, or what is printed, cannot be written (No space left") and said.count("\n") == 1
    )
    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="Input/output"),
    ):  # a fault of ours, or of the disk's
        patch.setattr(sys, "stdout", Full(errno.EIO))
        main(["list", "executors"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_python_s_own_last_flush_of_lost_output_does_not_change_the_exit_status() -> None:
    program = "\n".join(
        (
            "import sys",
            "from smope_bench.harness.console import output_may_fail",
            "with output_may_fail():",
            "    print('lost')",
            "print('lost too')",
            "sys.exit(7)",
        )
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (
        7,
        "note: output was lost (No space left on device); no run was stopped by it\n",
    )
