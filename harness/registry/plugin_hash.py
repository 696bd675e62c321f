"""Hash of the source of a plugin's class: records of an edited plugin are stale, as those of edited code are. No torch."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from smope_bench.harness.errors import UserError
from smope_bench.harness.provenance import PROJECT_ROOT, ROOMS, fingerprint_of
from smope_bench.harness.text import plain

SUFFIXES = frozenset({".py", ".pyx", ".so", ".pyd", ".json", ".yaml", ".yml", ".toml", ".csv", ".safetensors"})
PINNED = "__smope_bench_source__"
"""Attribute of a plugin file's module: the hash of the text that was run; the file may have changed since."""


def source_of(value: object) -> str | None:
    """sha256 (hex) of the file, or of the whole package, that defines ``value``; None for the project's own code.

    A module without a file of its own, as in an archive, is hashed by its text. Raises UserError where there is none: an edit
    would go unnoticed.
    """
    module = sys.modules.get(str(getattr(value, "__module__", "")))
    pinned = getattr(module, PINNED, None)
    if isinstance(pinned, str):
        return pinned
    if module is not None and _is_own(module):
        return None
    root = _root(module) if module is not None else None
    if root is None:
        return hashlib.sha256(_text(value, module).encode("utf-8", "surrogateescape")).hexdigest()
    if root.is_file():
        return fingerprint_of([root], root.parent)
    return fingerprint_of(sorted(_files(root)), root)


def _is_own(module: ModuleType) -> bool:
    """Whether a module is the project's own code, which the code fingerprint covers."""
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and any(Path(file).resolve().is_relative_to(PROJECT_ROOT / room) for room in ROOMS)


def _text(value: object, module: ModuleType | None) -> str:
    """The module's text from its loader."""
    with contextlib.suppress(OSError, TypeError):
        if module is not None:
            return inspect.getsource(module)
    name = plain(getattr(value, "__name__", value))
    raise UserError(
        f"the source of {name} cannot be found, so that no edit of it would be noticed: define it in a file."
    )


def _files(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.suffix in SUFFIXES and "__pycache__" not in file.parts and file.is_file():
            yield file


def _root(module: ModuleType) -> Path | None:
    """The module's file, or the folder of the outermost package around it; a namespace package does not count."""
    found: Path | None = None
    parts = module.__name__.split(".")
    for count in range(len(parts), 0, -1):
        around = sys.modules.get(".".join(parts[:count]))
        file = getattr(around, "__file__", None)
        if not isinstance(file, str):
            break
        place = Path(file).resolve()
        found = place.parent if hasattr(around, "__path__") else place
    return found if found is not None and found.exists() else None
