"""Nothing from outside is executed, and no string from outside is more than a string."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import io
import pickle
import re
import tarfile
import textwrap
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smope_bench import run_all
from smope_bench.benchmarks.download.archives import members
from smope_bench.benchmarks.download.fetch import Remote
from smope_bench.benchmarks.download.safe_pickle import load_plain
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.harness.provenance import PROJECT_ROOT
from smope_bench.harness.records.observations import npz_arrays
from smope_bench.methods.common.errors import MethodError
from tests.reports.conftest import Factory  # pyright: ignore[reportMissingImports]

SOURCES = sorted(
    file
    for room in ("benchmarks", "harness", "methods", "reports", "run_all.py")
    for file in ([PROJECT_ROOT / room] if room.endswith(".py") else (PROJECT_ROOT / room).rglob("*.py"))
)
FORBIDDEN = re.compile(
    r"^(eval|exec|compile|__import__|pickle\.loads?|cloudpickle\..*|dill\..*|joblib\..*|marshal\..*|shelve\..*|yaml\.(unsafe_|full_)?load"
    r"|os\.(system|popen|exec\w*|spawn\w*)|shutil\.unpack_archive|.*\.extract|.*\.extractall|pandas\.read_pickle"
    r"|numpy\.fromregex|torch\.hub\..*)$"
)
SAFE_ONLY = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
}
PICKLES = re.compile(r"import (pickle|marshal|shelve|dill|joblib|cloudpickle)$")
NETWORK = re.compile(r"import (urllib\.request|http\.client|requests|ftplib|huggingface_hub|torch\.hub)$")
MAY_CALL = {
    "benchmarks/download/safe_pickle.py": ("import pickle",),  # a reader that knows three names, all ours
    "methods/common/pretrained_files/containers.py": (
        "import pickle",
    ),  # catches what torch's reader of tensors refuses
    "benchmarks/download/transfer.py": ("import urllib.request", "import http.client"),  # the one place that downloads
    "methods/common/backbone/pretrained.py": ("import huggingface_hub",),  # asks its cache, not the network
    "methods/common/pretrained_files/any_vit/timm_models.py": (
        "import huggingface_hub",
        "torch.hub.get_dir",
    ),  # likewise
    "harness/registry/plugins.py": ("exec", "compile"),  # a plugin that the user names is a program, and is run
}


def full_names(tree: ast.AST) -> dict[str, str]:
    """What names stand for that a source imports: ``t`` for torch, ``load`` for torch.load."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def calls_and_imports(text: str) -> Iterator[tuple[str, ast.AST]]:
    """Dotted names of what a source calls or imports, whatever it calls them itself."""
    tree = ast.parse(text)
    names = full_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield f"{names.get(first, first)}{dot}{rest}", node
        elif isinstance(node, ast.Import):
            yield from ((f"import {alias.name}", node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"import {node.module}", node
            yield from ((f"import {node.module}.{alias.name}", node) for alias in node.names)


def wrong_with(place: str, text: str) -> Iterator[str]:
    """What a source does that could run, unpack or fetch something that nobody checked."""
    for name, node in calls_and_imports(text):
        if FORBIDDEN.match(name) and name not in MAY_CALL.get(place, ()):
            yield f"{place} calls {name}"
        if isinstance(node, ast.Call) and name in SAFE_ONLY:
            keyword, wanted = SAFE_ONLY[name]
            if {one.arg: ast.unparse(one.value) for one in node.keywords}.get(keyword) != str(wanted):
                yield f"{place} calls {name} without {keyword}={wanted}"
        if PICKLES.match(name) and name not in MAY_CALL.get(place, ()):
            yield f"{place}: {name}"
        if NETWORK.match(name) and name not in MAY_CALL.get(place, ()):
            yield f"{place}: {name}"
        if any(one.arg == "shell" for one in getattr(node, "keywords", [])):
            yield f"{place} calls {name} with a shell"


def test_no_source_runs_what_it_reads() -> None:
    assert len(SOURCES) > 150
    texts = {file.relative_to(PROJECT_ROOT).as_posix(): file.read_text(encoding="utf-8") for file in SOURCES}
    assert [wrong for place, text in texts.items() for wrong in wrong_with(place, text)] == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("import torch\ntorch.load(f)", "x.py calls torch.load without weights_only=True"),
        ("import torch as t\nt.load(f, weights_only=False)", "x.py calls torch.load without weights_only=True"),
        ("from torch import load\nload(f)", "x.py calls torch.load without weights_only=True"),
        ("from torch import load as read\nread(f)", "x.py calls torch.load without weights_only=True"),
        ("import numpy as np\nnp.load(f)", "x.py calls numpy.load without allow_pickle=False"),
        ("import numpy\nnumpy.load(f, allow_pickle=True)", "x.py calls numpy.load without allow_pickle=False"),
        ("from os import system as run\nrun('x')", "x.py calls os.system"),
        ("import pandas as p\np.read_pickle(f)", "x.py calls pandas.read_pickle"),
        ("from shutil import unpack_archive\nunpack_archive(f)", "x.py calls shutil.unpack_archive"),
        ("import pickle as p", "x.py: import pickle"),
        ("from urllib import request", "x.py: import urllib.request"),
        ("import torch\ntorch.hub.load('x')", "x.py calls torch.hub.load"),
        ("import subprocess as s\ns.run('x', shell=True)", "x.py calls subprocess.run with a shell"),
        ("eval('1')", "x.py calls eval"),
    ],
)
def test_what_it_is_called_hides_nothing(text: str, wrong: str) -> None:
    assert list(wrong_with("x.py", text)) == [wrong]


def test_what_is_safe_is_let_be() -> None:
    text = "import torch as t, numpy as np, re\nt.load(f, weights_only=True)\nnp.load(f, allow_pickle=False)\nre.compile('')"
    assert list(wrong_with("x.py", f"{text}\nmodel.eval()")) == []


class Bomb:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.mark,)


def test_a_hostile_pickle_is_never_executed(tmp_path: Path) -> None:
    from smope_bench.methods.common.pretrained_files.conversion import LAYOUTS, convert

    mark, bomb = tmp_path / "executed", pickle.dumps(Bomb(tmp_path / "executed"))
    with pytest.raises(BenchmarkError):
        load_plain(bomb, "the batch")
    packed = io.BytesIO()
    np.savez(packed, labels=np.array([Bomb(mark)], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        npz_arrays(packed.getvalue())
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": Bomb(mark)}, file)
    for layout in LAYOUTS:
        with pytest.raises(MethodError):
            convert(file, layout, {}, 2)
    assert not mark.exists()
    pickle.loads(bomb)
    assert mark.exists(), "the pickle is one that would have been felt"


HOSTILE_NAMES = (
    "../up.txt",
    "a/../../up.txt",
    "/tmp/absolute.txt",
    "C:\\x.txt",
    "a\\..\\..\\x",
    "nul\x01l",
    "\x1b[31m.txt",
)


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_an_archive_writes_nothing_and_hostile_names_are_refused(kind: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / f"hostile.{kind}"
    if kind == "tar":
        with tarfile.open(file, "w") as archive:
            archive.addfile(tarfile.TarInfo(name))
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), b"")
    with pytest.raises(BenchmarkError, match="refused"):
        list(members(file))
    assert list(tmp_path.iterdir()) == [file] and not (tmp_path.parent / "up.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("innocent.png")
    info.type, info.linkname = kind, "../../etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(info)
    with pytest.raises(BenchmarkError, match="refused"):
        list(members(tmp_path / "a.tar"))


def test_every_download_has_a_digest_or_says_that_it_is_pinned() -> None:
    from smope_bench.benchmarks.datasets.published import cifar100, cub200, fashion_mnist, imagenet_r

    remotes = [
        v
        for room in (cifar100, cub200, fashion_mnist, imagenet_r)
        for v in vars(room).values()
        if isinstance(v, Remote)
    ]
    assert len(remotes) >= 4
    without = {remote.name for remote in remotes if remote.digest is None}
    assert without <= {"imagenet-r.tar"}, "nothing public is known of that file: it is pinned at first use"
    assert all(re.match(r"https://", url) for remote in remotes for url in remote.urls if remote.digest is None)


HOSTILE = (
    "</script></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"
    "{% raw %}</title><!--\x1b[31m\x1b]0;x\x07"
)
CSS, FORMULA, LATEX = "x{} *{background:url(//evil)}", '=HYPERLINK("//evil")', r"\input{/etc/passwd}\write18{id}$&%#_^~"


class Seen(HTMLParser):
    """What of a page could do something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.addresses: list[str] = []
        self.styles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            if name in ("href", "src", "action", "formaction", "srcset", "data", "xlink:href"):
                self.addresses.append(value or "")
            if name == "style":
                self.styles.append(value or "")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(report folder, what the terminal was sent) of a results folder whose every text is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    made = Factory(folder / "results", title=HOSTILE, description=HOSTILE)
    for number, evil in enumerate((HOSTILE, CSS, FORMULA, LATEX, "+1", "-1", "@x", "\t=1")):
        for seed in range(2):
            spec = made.spec(evil, evil, seed, seed, 2, note=evil)
            result = made.result(spec, made.matrix(2, 90 - number, 1, seed), class_names=[evil] * 4)
            for key in ("cpu", "torch", "git_revision", "device_name"):
                result["provenance"][key] = evil
            made.plan(evil, spec, column="digits" if number else HOSTILE)
            made.cells[-1] |= {"settings": [f"x={evil}"], "recipe": evil}
            made.store.write_result(spec.run_id, result)
        made.rows[evil] |= {"paper": evil, "url": f"javascript:alert({number})", "summary": evil}
        failed = made.fail(evil, made.spec(evil, evil, 7, 7, 2), evil, column="digits" if number else HOSTILE)
        assert failed.run_id
    made.columns[HOSTILE] |= {"summary": HOSTILE}
    made.write()
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", told)
        patch.setattr("sys.stderr", told)
        status = run_all.main(["report", made.suite, f"--results={folder / 'results'}", f"--out={folder / 'report'}"])
    assert status == 0, told.getvalue()[-500:]
    return folder / "report", told.getvalue()


def test_a_report_of_hostile_texts_runs_nothing(reported: tuple[Path, str]) -> None:
    text = (reported[0] / "index.html").read_text(encoding="utf-8")
    seen = Seen(text)
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == seen.tags.count("script") == 6
    run = [content for kind, content in scripts if "application/json" not in kind and "text/plain" not in kind]
    assert len(run) == 3, "two libraries and ours"
    hashes = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in run]
    assert all(f"'sha256-{each}'" in text for each in hashes), "the page's own policy names them"
    assert seen.handlers == [] and "iframe" not in seen.tags and "img" not in seen.tags and "base" not in seen.tags
    assert not [
        address for address in seen.addresses if re.match(r"\s*(javascript|vbscript|data:text/html|//)", address, re.I)
    ]
    assert not [style for style in seen.styles if "url(" in style or "{" in style]
    assert "default-src 'none'" in text and "'unsafe-eval'" not in text
    headings = re.findall(r"<h[1-6][^>]*>(.*?)</h[1-6]>", text, re.S)
    assert any("7*7" in heading for heading in headings), "a heading shows the text that would be reckoned out"
    assert not any("49" in heading for heading in headings)
    assert "\x1b" not in text and "\x07" not in text


def test_tables_of_hostile_texts_are_data(reported: tuple[Path, str]) -> None:
    files = [file for file in reported[0].rglob("*") if file.is_file()]
    assert all(file.resolve().is_relative_to(reported[0].resolve()) for file in files)
    for file in files:
        if file.suffix in (".csv", ".tex", ".svg", ".md", ".html", ".json"):
            controls = {"\x1b", "\x07", "\x9b"} & set(file.read_text(encoding="utf-8"))
            assert not controls, f"{file.name} would be obeyed by a terminal that shows it"
        if file.suffix == ".csv":
            fields = [field for row in csv.reader(io.StringIO(file.read_text(encoding="utf-8"))) for field in row]
            run = [field for field in fields if re.match(r"[=+@\t]|-(?![\d.])", field)]
            assert not run, (file.name, run[:3])
        elif file.suffix == ".tex":
            assert not re.search(r"\\(input|write18|include)\b", file.read_text(encoding="utf-8")), file.name
        elif file.suffix == ".svg":
            drawn = Seen(file.read_text(encoding="utf-8"))
            assert "script" not in drawn.tags and drawn.handlers == [], file.name
        elif file.suffix == ".md":
            assert "<script" not in file.read_text(encoding="utf-8"), file.name
    assert {".csv", ".tex"} <= {file.suffix for file in files}


def test_hostile_texts_do_not_reach_the_terminals_controls(reported: tuple[Path, str]) -> None:
    assert not {"\x1b", "\x9b", "\x07", "\x08"} & set(reported[1])


PLUGIN = """
    from smope_bench.methods.common.api import Method, MethodCard

    class Evil(Method):
        name = "evil"
        card = MethodCard(title="\\x1b]0;title\\x07", summary="\\x1b[2J", paper="\\x9b31m", paper_url="javascript:alert(1)")

        def fit_task(self, data):
            raise RuntimeError("first\\n\\x1b[2Jsecond")
"""


@pytest.mark.parametrize(
    "command", [["run", "ci", "--methods", "evil", "--workers", "1", "--device", "cpu"], ["list", "methods"]]
)
def test_a_plugin_cannot_steer_the_terminal(command: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(textwrap.dedent(PLUGIN), encoding="utf-8")
    status = run_all.main([*command, "--plugin", "evil.py"])
    told = capsys.readouterr()
    assert status == (1 if command[0] == "run" else 0)
    assert not {"\x1b", "\x9b", "\x07"} & set(told.out + told.err)
    assert command[0] == "list" or ("second" in told.err and told.err.count("\n") == 1)
