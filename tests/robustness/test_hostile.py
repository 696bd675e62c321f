"""Damaged files for every parser, drawn by coverage; ``hostile.py`` draws thousands. What it found has a test of its own here."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("hostile.py")


def test_damaged_files_are_refused_in_a_sentence(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--cases", "300"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    told = json.loads(capsys.readouterr().out)
    assert stop.value.code == 0 and told["faults"] == 0, told
    assert told["cases"] >= 300 and all(one["cases"] and one["lines"] for one in told["parsers"].values())
