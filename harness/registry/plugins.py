"""Finds what installed packages offer and imports code from outside the project, so that its errors stop nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

from smope_bench.harness.cancellation import Stopped
from smope_bench.harness.errors import UserError
from smope_bench.harness.provenance import code_bytes
from smope_bench.harness.registry.old_imports import advice
from smope_bench.harness.registry.plugin_hash import PINNED
from smope_bench.harness.text import plain, sentence

PLUGIN_MODULE = "smope_bench_plugin_"
"""Beginning of the names of modules that are plugin files."""
T = TypeVar("T")

LONGEST_NAME = 60
_NAME = re.compile(rf"\w[\w+.-]{{0,{LONGEST_NAME - 1}}}")


@dataclass(frozen=True)
class InstalledEntryPoint:
    """An entry point of an installed package; ``load`` imports it, or raises UserError with the reason why it cannot."""

    name: str
    owner: str
    load: Callable[[], Any]


def is_usable_name(name: str) -> bool:
    """Whether a name can be chosen on the command line, where commas separate names."""
    return _NAME.fullmatch(name) is not None


def unusable_name(name: str) -> str:
    """The name and what to write in its place, as the end of a sentence."""
    return (
        f"{plain(name, LONGEST_NAME)!r}, which cannot be chosen: use letters, digits, '_', '+', '.' and '-', a letter, digit"
        f" or '_' first, at most {LONGEST_NAME}"
    )


def installed_points(group: str) -> list[InstalledEntryPoint]:
    """The entry points of ``group``, sorted; imports nothing.

    A package that names the group and whose list of entry points cannot be read becomes a point that cannot be loaded, as
    does a point with a name that cannot be given on the command line.
    """
    try:
        return [_point(point) for point in sorted(entry_points(group=group), key=_order)]
    except Exception:  # one package's broken metadata stops the reading of all others'
        return sorted(_one_by_one(group), key=lambda point: point.name)


def call_outside_code(load: Callable[[], T], failed: str) -> T:
    """The result of ``load()``, which runs code from outside: its prints go to standard error, its errors become UserError.

    ``failed`` begins the message. Ctrl-C and SIGTERM pass through.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return load()
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:  # an import may call sys.exit or raise a BaseException
        raise UserError(f"{failed}: {advice(error) or _of_a_package(error) or sentence(error)}") from error


def _of_a_package(error: BaseException) -> str | None:
    """What to do about a file of a package that was named as a plugin; None for any other error."""
    if not (isinstance(error, ImportError) and "relative import with no known parent package" in str(error)):
        return None
    return (
        f"{sentence(error)}. A file of a package is no plugin by itself: name what it offers as an entry point of the package,"
        " install that (pip install -e .), and leave --plugin out (docs/add-a-method.md), or write the import without the dot"
    )


def run_file(file: Path) -> ModuleType:
    """Run a plugin file as a module, once a process for each content. Raises UserError for one that cannot be run."""
    file = file.resolve()  # one file is one module, however its path is written
    try:
        source = file.read_bytes()
    except OSError as error:
        raise UserError(f"plugin {str(file)!r} cannot be read: {error.strerror or error}.") from error
    # The content is in the module's name: the same file is run once a process, an edited one anew.
    name = f"{PLUGIN_MODULE}{hashlib.sha256(str(file).encode('utf-8', 'surrogateescape') + source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"plugin {str(file)!r} is not a Python file: its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    setattr(module, PINNED, hashlib.sha256(code_bytes(source)).hexdigest())
    sys.modules[name] = module  # typed configurations look their module up while it is being run
    try:
        # Not through the loader: it would read the file again, or a compiled form of an earlier content.
        call_outside_code(
            lambda: exec(compile(source, str(file), "exec"), vars(module)),
            f"plugin {str(file)!r} cannot be imported",
        )
    except BaseException:
        del sys.modules[name]
        raise
    return module


def plugin_place(error: BaseException) -> str:
    """The last line of a plugin file that an error passed through, as ``my_prompt.py line 47, training_step``; else empty."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).startswith(PLUGIN_MODULE):
            place = f"{frame.f_code.co_filename} line {line}, {frame.f_code.co_name}"
    return place


def _point(point: EntryPoint) -> InstalledEntryPoint:
    load = point.load if is_usable_name(point.name) else _refusal(f"it is named {unusable_name(point.name)}")
    return InstalledEntryPoint(plain(point.name), _owner(point), load)


def _order(point: EntryPoint) -> tuple[str, str]:
    return point.name, point.value


def _owner(point: EntryPoint) -> str:
    with contextlib.suppress(Exception):  # a package may have lost its own name
        if point.dist is not None and point.dist.name:
            return f"package {plain(point.dist.name)!r}"
    return f"entry point {plain(point.value)!r}"


def _one_by_one(group: str) -> Iterator[InstalledEntryPoint]:
    known: set[str] = set()
    for number, distribution in enumerate(_readable(distributions())):
        name = _name_of(distribution) or f"package {number}"
        if name in known:  # an earlier place on the path goes first
            continue
        known.add(name)
        try:
            yield from [_point(point) for point in distribution.entry_points if point.group == group]
        except Exception as error:
            if f"[{group}]" in _text(distribution):
                yield InstalledEntryPoint(
                    name, f"package {name!r}", _refusal(f"its list of entry points is broken: {sentence(error)}")
                )


def _readable(found: Iterable[Distribution]) -> Iterator[Distribution]:
    iterator = iter(found)
    while True:
        try:
            yield next(iterator)
        except StopIteration:
            return
        except Exception:  # a place on the path that cannot be searched ends the search
            return


def _name_of(distribution: Distribution) -> str:
    with contextlib.suppress(Exception):
        return plain(distribution.name)
    return ""


def _text(distribution: Distribution) -> str:
    with contextlib.suppress(Exception):
        return distribution.read_text("entry_points.txt") or ""
    return ""


def _refusal(reason: str) -> Callable[[], NoReturn]:
    def refuse() -> NoReturn:
        raise UserError(reason)

    return refuse
