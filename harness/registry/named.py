"""Methods and benchmarks as a user names them: by name, by the plugin file that defines them, or by their class."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from smope_bench.harness.errors import UserError
from smope_bench.harness.main_guard import require_main_guard
from smope_bench.harness.registry.plugins import run_file
from smope_bench.harness.registry.registry import KINDS, Registry, open_registries
from smope_bench.harness.text import plain

Name: TypeAlias = "str | os.PathLike[str] | type"
Names: TypeAlias = "Name | Iterable[Name]"


def read_names(kind: str, values: Names | None) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """(names, plugin files that define some of them) of one kind, ``method`` or ``benchmark``, each once.

    Texts may list several names, divided by commas. A file, a path or a text that ends in ``.py``, stands for all of the kind
    that it defines. A class stands for its name, and for the file that defines it. Raises UserError.
    """
    names, files = list[str](), list[Path]()
    for value in _each(kind, values):
        if isinstance(value, type):
            name, file = _of_class(kind, value)
            names.append(name)
            files += [] if file is None else [file]
        elif isinstance(value, str) and not value.endswith(".py"):
            names.append(value)
        else:
            file = Path(value).expanduser()
            names += _defined_in(kind, file)
            files.append(file)
    return tuple(dict.fromkeys(names)), tuple(dict.fromkeys(file.resolve() for file in files))


def _each(kind: str, values: Names | None) -> Iterator[Name]:
    if isinstance(values, str | bytes | os.PathLike | type) or not isinstance(values, Iterable):
        values = [] if values is None else [values]
    for value in values:
        if isinstance(value, str):
            yield from filter(None, (part.strip() for part in value.split(",")))
        elif isinstance(value, os.PathLike | type):
            yield value
        else:
            raise UserError(
                f"--{kind}s {plain(value, 60)!r} is of type {type(value).__name__}: give a name, a file or a class"
            )


def _defined_in(kind: str, file: Path) -> list[str]:
    found = [value.name for value in KINDS[kind].defined_in(run_file(file))]
    if not found:
        raise UserError(f"--{kind}s {str(file)!r}: this file defines no {kind}")
    return found


def _of_class(kind: str, value: type) -> tuple[str, Path | None]:
    """The name of a class, and its file unless the project or an installed package offers the class by this name."""
    where = f"--{kind}s {value.__name__}"
    if fault := KINDS[kind].fault(value):
        raise UserError(f"{where}: {fault}.")
    name = vars(value).get("name")
    if not isinstance(name, str):
        raise UserError(f"{where}: the class has no attribute `name` of its own")
    registries = open_registries()
    tables: dict[str, Registry] = {table.kind: table for table in (registries.methods, registries.benchmarks)}
    if name in tables[kind].names() and tables[kind].load(name) is value:
        return name, None
    file = getattr(sys.modules.get(value.__module__), "__file__", None)
    if not isinstance(file, str) or not Path(file).is_file():
        raise UserError(
            f"{where}: the class is in no file, where a worker, or load_model later, would find it; write it to one, in a"
            f" notebook by %%writefile {name}.py in the first line of its cell, and give {name + '.py'!r}"
        )
    if value.__module__ == "__main__":
        require_main_guard(
            f"gives a class of this script, which is run again to load it from {Path(file).name}",
            "move the class to a file of its own",
        )
    if name not in _defined_in(kind, Path(file)):
        raise UserError(f"{where}: {file!r} does not define it outside of functions")
    return name, Path(file)
