"""A plugin written for an earlier layout ends in one sentence with the line to write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from smope_bench import run_all
from smope_bench.harness.errors import UserError
from smope_bench.harness.registry.old_imports import RENAMED, ROOMS, _new_module
from smope_bench.harness.registry.registry import add_plugin, open_registries

ROOT = Path(run_all.__file__).resolve().parent
API = "from smope_bench.api import"
OLD_AND_NEW = [
    ("from methods.common.api import Method, MethodCard", f"{API} Method, MethodCard"),
    ("from methods.common.api import Method as M", f"{API} Method as M"),
    ("from methods.common.prefix import PlainPrefix", f"{API} PlainPrefix"),
    ("from methods.common.vit import PromptedViT", f"{API} PromptedViT"),
    ("from benchmarks.base import Benchmark", f"{API} Benchmark"),
    ("from benchmarks.avalanche_bridge import AvalancheBenchmark", f"{API} AvalancheBenchmark"),
    ("from harness.conformance import check_target, failed", f"{API} check_target, failed"),
    ("import methods.common.vit as v", "import smope_bench.methods.common.vit.vit as v"),
    ("import methods.common.vit", "import smope_bench.methods.common.vit.vit"),
    ("import json, methods.common.rules as r", "import json, smope_bench.methods.common.vit.attention_rules as r"),
    ("import benchmarks", "import smope_bench.benchmarks"),
    ("from methods.common import vit", "from smope_bench.methods.common.vit import vit"),
    ("from methods.common import rules", "from smope_bench.methods.common.vit import attention_rules as rules"),
    ("from methods.l2p import L2P", "from smope_bench.methods.l2p import L2P"),
    ("from methods.deep_l2p import DeepL2P", "from smope_bench.methods.l2p import DeepL2P"),
    ("from methods.common.pools import KeyedPool", "from smope_bench.api import … (KeyedPool is not there"),
    ("from benchmarks.stored import StoredArray", "from smope_bench.benchmarks.image_store.arrays import StoredArray"),
    ("from harness.plain import sentence", "from smope_bench.harness.text import sentence"),
    ("from reports.figures import no_such_thing", "from smope_bench.api import … (no_such_thing is not there"),
    ("from smope_bench.methods.common.backbone.vit import PromptedViT", f"{API} PromptedViT"),
    ("import smope_bench.harness.cli.listing as l", "import smope_bench.harness.cli.commands.listing as l"),
    (
        "from smope_bench.harness.cli.listing import planned",
        "from smope_bench.harness.cli.commands.listing import planned",
    ),
    ("from smope_bench.harness.nowhere import nothing", "from smope_bench.api import … (nothing is not there"),
    (
        "from methods.common.tap import TapConfig, Sampler",
        f"{API} TapConfig; from smope_bench.methods.common.alignment.tap import Sampler",
    ),
    (
        "from methods.common.api import (\n    Method,\n    learnable_count,\n)",
        f"{API} Method; from smope_bench.methods.common.api import learnable_count",
    ),
]


def refusal(folder: Path, text: str) -> str:
    file = folder / "mine.py"
    file.write_text(f"import torch\n\n{text}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        add_plugin(open_registries(), file)
    return str(caught.value)


@pytest.mark.parametrize(("old", "new"), OLD_AND_NEW)
def test_the_line_to_write_is_said(tmp_path: Path, old: str, new: str) -> None:
    where = f"plugin {str(tmp_path / 'mine.py')!r} cannot be imported: line 3 of {tmp_path / 'mine.py'} imports from"
    said = refusal(tmp_path, old)
    assert said.startswith(f"{where} an earlier layout; write: {new}") and "\n" not in said


@pytest.mark.parametrize(("old", "new"), [pair for pair in OLD_AND_NEW if "…" not in pair[1]])
def test_the_line_works(old: str, new: str) -> None:
    exec(new, {})


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_the_renamed_modules_are_there(old: str, new: str) -> None:
    assert _new_module(old) == f"smope_bench.{new}"
    assert (ROOT / new.replace(".", "/")).with_suffix(".py").is_file()


def test_a_helper_beside_an_installed_plugin_is_named_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old_helper.py").write_text("from methods.common.api import Batch\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    said = refusal(tmp_path, "import old_helper")
    assert f"line 1 of {tmp_path / 'old_helper.py'} imports from" in said and said.endswith(f"write: {API} Batch")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("from methods.own import missing", "cannot import name 'missing' from 'methods.own'"),
        ("import methods.own\nfrom . import x", "attempted relative import"),
        ("raise ImportError('methods')", "ImportError: methods"),
        ("from smope_bench.api import nothing", "cannot import name 'nothing' from 'smope_bench.api'"),
        (
            "from smope_bench.harness.text import nothing",
            "cannot import name 'nothing' from 'smope_bench.harness.text'",
        ),
    ],
)
def test_other_errors_stay_as_they_are(tmp_path: Path, text: str, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "methods").mkdir()
    for name in ("__init__.py", "own.py"):
        (tmp_path / "methods" / name).write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "methods"]:
        monkeypatch.delitem(sys.modules, name)
    said = refusal(tmp_path, text)
    for name in [name for name in sys.modules if name.partition(".")[0] == "methods"]:
        del sys.modules[name]
    assert error in said and "write:" not in said


@pytest.mark.parametrize("place", ["checkout", "folder", "own packages"])
def test_it_is_said_wherever_the_command_is_given(place: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from methods.common.api import Method, MethodCard\n", encoding="utf-8")
    if place == "own packages":
        for room in ROOMS:
            (tmp_path / room).mkdir()
            (tmp_path / room / "__init__.py").write_text("mine = True\n", encoding="utf-8")
    command = [sys.executable, "-m", "smope_bench.run_all", "check", str(file)]
    folder = ROOT if place == "checkout" else tmp_path
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.endswith(f"write: {API} Method, MethodCard\n") and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_a_folder_imported_by_its_bare_name_says_what_to_write(room: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {room}"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert f"'{room}' is smope_bench.{room} now; plugins write `from smope_bench.api import" in done.stderr
