"""The recipe "A tracker" of docs/develop.md, followed as it stands."""

import json
import shlex
from pathlib import Path

import pytest

from smope_bench import run_all
from tests.develop.pages import blocks  # pyright: ignore[reportMissingImports]


def test_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("A tracker")
    Path("lines.py").write_text(code, encoding="utf-8")
    listing, running, again = (shlex.split(line)[1:] for line in blocks("A tracker", "bash")[0].splitlines())
    assert run_all.main(listing) == 0
    assert "lines" in (out := capsys.readouterr().out) and "plugin 'lines.py'" in out and "tensorboard" in out
    assert run_all.main([*running, "--device", "cpu"]) == 0
    (file,) = Path("results/tracked/lines").iterdir()
    *points, final = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert [point["step"] for point in points if point["name"] == "accuracy/average"] == [1, 2, 3, 4, 5]
    assert final["state"] == "done" and final["FAA"] > 50
    assert run_all.main(again) == 0
    (copy,) = Path("copy/lines").iterdir()
    assert copy.read_text(encoding="utf-8") == file.read_text(encoding="utf-8")
