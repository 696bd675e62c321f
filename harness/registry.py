"""Names to classes: built-in tables, installed packages' entry points and plugin files, all looked up lazily.

Nothing is imported until a name is asked for, so that a listing of names costs no torch and a broken package costs nobody else.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import UserError, did_you_mean

METHOD_GROUP = "smope_bench.methods"
BENCHMARK_GROUP = "smope_bench.benchmarks"


@dataclass(frozen=True)
class Entry:
    """One name of a registry: who owns it, and how to get at what it names."""

    name: str
    owner: str
    resolve: Callable[[], Any]


@dataclass(frozen=True)
class Listing:
    """What ``list`` shows of a name: ``value`` is None, and ``error`` says why, where it cannot be loaded."""

    name: str
    owner: str
    value: Any | None
    error: str | None


class Registry:
    """A lazy table from names to classes of one kind (``method``, ``benchmark``, ``backbone``)."""

    def __init__(self, kind: str, builtin: Mapping[str, str], entry_point_group: str | None = None) -> None:
        """``builtin`` maps a name to ``module:attribute``; the group's installed entry points are added to it."""
        self.kind = kind
        self._entries: dict[str, list[Entry]] = {}
        for name, target in builtin.items():
            self._add(Entry(name, "built-in", _target_loader(target)))
        if entry_point_group is not None:
            for point in sorted(entry_points(group=entry_point_group), key=lambda point: (point.name, point.value)):
                owner = f"package {point.dist.name!r}" if point.dist is not None else f"entry point {point.value!r}"
                self._add(Entry(point.name, owner, point.load))

    def names(self) -> list[str]:
        """All names, sorted, those that cannot be loaded included."""
        return sorted(self._entries)

    def owner(self, name: str) -> str:
        """Who supplies a name: ``built-in``, ``package 'x'`` or ``plugin 'file.py'``."""
        return " and ".join(entry.owner for entry in self._claims(name))

    def load(self, name: str) -> Any:
        """Import and return what ``name`` stands for; UserError if unknown, claimed twice or broken."""
        claims = self._claims(name)
        if len(claims) > 1:
            owners = " and by ".join(entry.owner for entry in claims)
            raise UserError(f"{self.kind} {name!r} is defined twice, by {owners}: rename or uninstall one of them.")
        entry = claims[0]
        try:
            return entry.resolve()
        except Exception as error:
            if entry.owner == "built-in":  # our own fault: the traceback is worth seeing
                raise
            raise UserError(f"{self.kind} {name!r} of {entry.owner} cannot be imported: {_one_line(error)}") from error

    def listing(self) -> list[Listing]:
        """Every name with what it loads to, or the error that loading it gives. Imports everything."""
        rows = []
        for name in self.names():
            try:
                rows.append(Listing(name, self.owner(name), self.load(name), None))
            except UserError as error:
                rows.append(Listing(name, self.owner(name), None, str(error)))
        return rows

    def add(self, name: str, owner: str, value: Any) -> None:
        """Add something already loaded; a name that is taken is refused at once, naming both owners."""
        if name in self._entries:
            raise UserError(
                f"{self.kind} {name!r} of {owner} already exists, from {self.owner(name)}: choose another name."
            )
        self._add(Entry(name, owner, lambda: value))

    def _add(self, entry: Entry) -> None:
        # An installed package that takes a taken name is an error only for whoever asks for that name.
        self._entries.setdefault(entry.name, []).append(entry)

    def _claims(self, name: str) -> list[Entry]:
        if name not in self._entries:
            raise UserError(f"unknown {self.kind} {name!r}{did_you_mean(name, self._entries)}")
        return self._entries[name]


@dataclass(frozen=True)
class Registries:
    """Every table a command needs, made once and handed down. Pickled as its plugin files: a worker opens its own."""

    methods: Registry
    benchmarks: Registry
    backbones: Registry
    plugins: tuple[Path, ...] = ()

    def __reduce__(self) -> tuple[Callable[..., Registries], tuple[tuple[Path, ...]]]:
        return open_registries, (self.plugins,)


def open_registries(plugins: Sequence[Path] = ()) -> Registries:
    """Built-in tables plus entry points plus the given plugin files; UserError for a plugin that cannot be used."""
    import benchmarks
    import methods
    from methods.common import backbones

    files = tuple(Path(plugin).resolve() for plugin in plugins)
    registries = Registries(
        methods=Registry("method", methods.BUILTIN, METHOD_GROUP),
        benchmarks=Registry("benchmark", benchmarks.BUILTIN, BENCHMARK_GROUP),
        backbones=Registry("backbone", backbones.BUILTIN),
        plugins=files,
    )
    for file in files:
        add_plugin(registries, file)
    return registries


def add_plugin(registries: Registries, file: Path) -> list[str]:
    """Run a plugin file and add the methods and benchmarks it defines; returns their names.

    What counts is a subclass of ``Method`` or ``Benchmark`` written in the file itself with a ``name`` of its own.
    """
    from benchmarks.base import Benchmark
    from methods.common.api import Method

    module = _run_plugin(file)
    owner = f"plugin {file.name!r}"
    added = []
    for registry, base in ((registries.methods, Method), (registries.benchmarks, Benchmark)):
        for value in _named_subclasses(module, base):
            registry.add(value.name, owner, value)
            added.append(value.name)
    if not added:
        raise UserError(
            f"plugin {str(file)!r} defines no method and no benchmark: "
            "write a subclass of methods.common.api.Method with a class attribute `name`."
        )
    return added


def _run_plugin(file: Path) -> ModuleType:
    try:
        source = file.read_bytes()
    except OSError as error:
        raise UserError(f"plugin {str(file)!r} cannot be read: {error.strerror or error}.") from error
    # The content is in the module's name: the same file is run once a process, an edited one anew.
    name = f"smope_bench_plugin_{hashlib.sha256(str(file).encode() + source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"plugin {str(file)!r} is not a Python file: its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # typed configurations look their module up while it is being run
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"plugin {str(file)!r} cannot be imported: {_one_line(error)}") from error
    return module


def _named_subclasses(module: ModuleType, base: type) -> Iterable[Any]:
    found = {
        id(value): value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    }
    # A name that is only inherited would make a helper base class and its child collide.
    return [value for value in found.values() if isinstance(vars(value).get("name"), str)]


def _target_loader(target: str) -> Callable[[], Any]:
    module, _, attribute = target.partition(":")
    return lambda: getattr(importlib.import_module(module), attribute)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    where = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"
