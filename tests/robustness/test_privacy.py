"""What a run leaves behind names no user, no machine and no home folder, whether it finished, failed or was stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smope_bench import run_all

ROOT = Path(run_all.__file__).resolve().parent
USER, HOST = "markeduser7531", "markedhost8642"

# Imported by every process of the sweep before anything else.
MARKS = f"""
    import os, platform, socket

    real = os.uname()
    os.uname = lambda: os.uname_result((real.sysname, "{HOST}", real.release, real.version, real.machine))
    socket.gethostname = socket.getfqdn = lambda *_: "{HOST}"
    platform.node = lambda: "{HOST}"
"""
# One process for both commands; its workers are forks of it, with what it imported under those names.
BOTH = """
    import json, sys
    import timm
    from forked import forked_workers
    from smope_bench import run_all

    with forked_workers():
        statuses = [run_all.main(command) for command in json.loads(sys.argv[1])]
    print(json.dumps(statuses))
"""
PLUGIN = """
    from pathlib import Path
    from smope_bench.methods.common.api import Method, MethodCard

    class Fails(Method):
        name = "fails"
        card = MethodCard(title="Fails", summary="raises")

        def fit_task(self, data):
            raise RuntimeError(f"{Path.home()}/secret/file is not there")
"""


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of a user who ran a sweep on own images with a plugin that fails; returns the folder of all that it wrote."""
    home = tmp_path_factory.mktemp("homes") / USER
    (home / "marks").mkdir(parents=True)
    (home / "marks" / "sitecustomize.py").write_text(textwrap.dedent(MARKS), encoding="utf-8")
    (home / "mine.py").write_text(textwrap.dedent(PLUGIN), encoding="utf-8")
    draw = np.random.default_rng(0)
    for label in ("left", "right"):
        (home / "images" / label).mkdir(parents=True)
        for i in range(6):
            pixels = draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / "images" / label / f"{i}.png")
    environment = os.environ | {"HOME": str(home), "USER": USER, "LOGNAME": USER, "USERNAME": USER, "HOSTNAME": HOST}
    environment |= {"PYTHONPATH": os.pathsep.join([str(home / "marks"), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    kept = home / "kept"
    run = ["run", "ci", "--methods", "ncm,fails", "--plugin", home / "mine.py", "--workers", "2", "--device", "cpu"]
    run += ["--benchmarks", "imagefolder", "--set", f"benchmark.path={home / 'images'}", "--set", "benchmark.tasks=1"]
    run += ["--results", kept / "results", "--data", kept / "data"]
    report = ["report", "ci", "--results", kept / "results", "--out", kept / "report"]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BOTH), json.dumps([run, report], default=str)],
        capture_output=True, text=True, env=environment, timeout=300, check=False, cwd=home,
    )  # fmt: skip
    assert done.returncode == 0 and "secret/file is not there" in done.stderr, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [1, 0], done.stderr
    return kept


@pytest.mark.parametrize("part", ["results", "data", "report"])
def test_no_file_names_the_user_the_machine_or_the_home_folder(part: str, left: Path) -> None:
    files = [file for file in (left / part).rglob("*") if file.is_file()]
    assert files
    if part == "results":
        assert {"result.json", "failure.json", "events.jsonl", "ci.json"} <= {file.name for file in files}
    for file in files:
        text = (str(file.relative_to(left)).encode() + b"\n" + file.read_bytes()).lower()
        for marker in (USER, HOST):
            assert marker.encode() not in text, f"{file.relative_to(left)} says {marker}"
