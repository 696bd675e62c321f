"""Provenance of results: versions, revision, hardware, and the fingerprint, a hash of the code that can change a number.

No user name, host name or path is collected. Imports no torch, because reports need the fingerprint too.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import smope_bench

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""The folder with ``benchmarks``, ``harness`` and ``methods``: the checkout or the installed package."""
IMPORT_ROOT = Path(smope_bench.__file__).resolve().parent.parent
"""The folder from which another Python imports ``smope_bench``."""
ROOMS = ("benchmarks", "harness", "methods")
SOURCE_SUFFIXES = frozenset({".py", ".safetensors", ".json", ".txt"})
PARTS_OF_A_RUN = (
    "benchmarks/*.py",
    "benchmarks/avalanche/",
    "benchmarks/datasets/",
    "benchmarks/image_store/",
    "benchmarks/transforms/",
    "harness/checkpointing/",
    "harness/hardware/",
    "harness/records/",
    "harness/run_spec.py",
    "harness/training/",
    "methods/*.py",
    "methods/baselines/",
    "methods/common/*.py",
    "methods/common/alignment/",
    "methods/common/backbone/",
    "methods/common/prompts/",
    "methods/common/vit/",
)
"""Folders and files whose code can change a number of a run; the rest chooses, schedules, shows or checks runs.

The decisions of suites and recipes are part of each run's specification, downloaded and converted files by their hash.
"""


def source_files(root: Path = PROJECT_ROOT) -> list[Path]:
    """The project's files that can change a run's numbers, in a fixed order. ``root``: as ``PROJECT_ROOT``."""
    files = (
        file
        for part in PARTS_OF_A_RUN
        for file in ((root / part).rglob("*") if part.endswith("/") else root.glob(part))
        if file.suffix in SOURCE_SUFFIXES and "__pycache__" not in file.parts
    )
    return sorted(files)


def fingerprint_of(files: Iterable[Path], root: Path) -> str:
    """Hexadecimal SHA-256 of names (relative to ``root``, with forward slashes) and contents, for Python as ``code_bytes``."""
    digest = hashlib.sha256()
    for file in files:
        content = code_bytes(file.read_bytes()) if file.suffix == ".py" else file.read_bytes()
        if content:  # a file without code, such as an empty package, changes nothing
            digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def code_bytes(source: bytes) -> bytes:
    """The syntax tree of Python source, without docstrings, comments and layout; invalid Python is returned as it is.

    Not written by ``ast.dump``, because its text differs between versions of Python.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return source
    written: list[str] = []
    _write_node(tree, written)
    text = "".join(written)
    return b"" if text == "Module()" else text.encode("utf-8", "surrogatepass")


def _write_node(node: ast.AST, written: list[str]) -> None:
    written.append(f"{type(node).__name__}(")
    if isinstance(node, ast.Constant):
        written.append(repr(node.value))
    else:
        for field in node._fields:
            value = getattr(node, field, None)
            if isinstance(value, list):
                parts = [item for item in value if not _is_docstring(item)]
                if parts:
                    written.append(f"{field}=[")
                    for item in parts:
                        _write_value(item, written)
                    written.append("]")
            elif value is not None and not isinstance(value, ast.expr_context):
                written.append(f"{field}=")
                _write_value(value, written)
    written.append(")")


def _write_value(value: object, written: list[str]) -> None:
    if isinstance(value, ast.AST):
        _write_node(value, written)
    else:
        written.append(repr(value))
    written.append(",")


def _is_docstring(node: object) -> bool:
    """Whether a statement is an unused string: a docstring, or the description of a constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@functools.cache
def code_fingerprint() -> str:
    """Fingerprint of the code of this process; records with another one are stale."""
    return fingerprint_of(source_files(), PROJECT_ROOT)


def with_sources(code: str, sources: Mapping[str, str]) -> str:
    """One hash of a code fingerprint and the hashes of a run's plugins; without plugins the fingerprint itself."""
    if not sources:
        return code
    plugins = "".join(f"\0{kind}\0{source}" for kind, source in sorted(sources.items()))
    return hashlib.sha256(f"{code}{plugins}".encode()).hexdigest()


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """(revision, whether tracked files differ from it); (None, None) outside a checkout of this project."""
    if not (PROJECT_ROOT / ".git").exists():  # an installed copy may lie in the repository of another project
        return None, None
    try:
        revision = _git("rev-parse", "HEAD")
        return revision, bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


@functools.cache
def version_of(distribution: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def project_version() -> str:
    """This project's version; from pyproject.toml in a checkout that is not installed."""
    installed = version_of("smope-bench")
    if installed is not None:
        return installed
    import tomllib

    try:
        return str(tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    except (OSError, KeyError):
        return "unknown"


def now() -> str:
    """The time in UTC to the second, in the format of records."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def collect(device: str = "cpu", **extra: Any) -> dict[str, Any]:
    """The ``provenance`` field of a record; ``extra``: values of the run (times, hashes of weights and splits)."""
    revision, dirty = git_state()
    return {
        "project": project_version(),
        "git_revision": revision,
        "git_dirty": dirty,
        "code_fingerprint": code_fingerprint(),
        "python": platform.python_version(),
        **{name: version_of(name) for name in ("torch", "timm", "numpy")},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "device": device,
        "device_name": device_name(device),
        **({"deterministic": True} if is_deterministic() else {}),
        **extra,
    }


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PROJECT_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def cpu_model() -> str:
    """The processor's name as given by the system, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """The name of ``cpu`` or ``cuda[:n]``; uses torch only where it is loaded already."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return str(torch.cuda.get_device_name(device))
    return cpu_model()


def is_deterministic() -> bool:
    """Whether torch refuses operations whose bits may differ from call to call; False where torch is not loaded."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.are_deterministic_algorithms_enabled())
