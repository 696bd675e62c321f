"""Names to classes: built-in tables, installed packages' entry points and plugin files, all looked up lazily.

Nothing is imported until a name is asked for, so that a listing of names costs no torch and a broken package costs nobody else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.metrics import metrics_in
from smope_bench.harness.registry.plugin_hash import source_of
from smope_bench.harness.registry.plugins import installed_points, is_usable_name, run_file, unhurt, unusable_name
from smope_bench.harness.text import plain

METHOD_GROUP = "smope_bench.methods"
BENCHMARK_GROUP = "smope_bench.benchmarks"
BUILT_IN = "built-in"


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

    def __init__(
        self,
        kind: str,
        builtin: Mapping[str, str],
        entry_point_group: str | None = None,
        fault: Callable[[Any], str | None] = lambda _: None,
    ) -> None:
        """``builtin`` maps a name to ``module:attribute``; the group's installed entry points are added to it.

        ``fault`` says what keeps something that a stranger supplies from being of this kind; None where nothing does.
        """
        self.kind = kind
        self._fault = fault
        self._takes_plugins = entry_point_group is not None
        self._entries: dict[str, list[Entry]] = {}
        for name, target in builtin.items():
            self._add(Entry(name, BUILT_IN, _target_loader(target)))
        if entry_point_group is not None:
            for point in installed_points(entry_point_group):
                self._add(Entry(point.name, point.owner, point.load))

    def names(self) -> list[str]:
        """All names, sorted, those that cannot be loaded included."""
        return sorted(self._entries)

    def loadable_names(self) -> list[str]:
        """The names that can be loaded, sorted: what a command means by all where the user names none. Imports everything."""
        return [row.name for row in self.listing() if row.error is None]

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
        if entry.owner == BUILT_IN:  # our own fault where it fails: the traceback is worth seeing
            return entry.resolve()
        value = unhurt(entry.resolve, f"{self.kind} {name!r} of {entry.owner} cannot be imported")
        if (fault := self._fault(value)) is not None:
            raise UserError(f"{self.kind} {name!r} of {entry.owner} cannot be used: {fault}.")
        return value

    def source(self, name: str) -> str | None:
        """Hash of the source behind a name that is not built-in; None for what the project's own fingerprint covers."""
        return None if self.owner(name) == BUILT_IN else source_of(self.load(name))

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
            plugin = " One of your own needs --plugin FILE.py." if self._takes_plugins else ""
            raise UserError(f"unknown {self.kind} {name!r}{did_you_mean(name, self._entries)}{plugin}")
        return self._entries[name]


@dataclass(frozen=True)
class Registries:
    """Every table a command needs, made once and handed down. Pickled as its plugin files: a worker opens its own."""

    methods: Registry
    benchmarks: Registry
    backbones: Registry
    plugins: tuple[Path, ...] = ()

    def sources_of(self, method: str, benchmark: str) -> dict[str, str]:
        """Hashes of the sources of a run's plugins, by kind; empty where method and benchmark are the project's own."""
        found = {"method": self.methods.source(method), "benchmark": self.benchmarks.source(benchmark)}
        return {kind: source for kind, source in found.items() if source is not None}

    def __reduce__(self) -> tuple[Callable[..., Registries], tuple[tuple[Path, ...]]]:
        return open_registries, (self.plugins,)


def open_registries(plugins: Sequence[Path] = ()) -> Registries:
    """Built-in tables plus entry points plus the given plugin files; UserError for a plugin that cannot be used."""
    from smope_bench import benchmarks, methods
    from smope_bench.methods.common.backbone import backbones

    files = tuple(Path(plugin).resolve() for plugin in plugins)
    registries = Registries(
        methods=Registry("method", methods.BUILTIN, METHOD_GROUP, _method_fault),
        benchmarks=Registry("benchmark", benchmarks.BUILTIN, BENCHMARK_GROUP, _benchmark_fault),
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
    from smope_bench.benchmarks.base import Benchmark
    from smope_bench.methods.common.api import Method

    module = run_file(file)
    owner = f"plugin {plain(file.name)!r}"
    added = []
    for registry, base in ((registries.methods, Method), (registries.benchmarks, Benchmark)):
        for value in _named_subclasses(module, base):
            if not is_usable_name(value.name):
                raise UserError(f"{owner} names a {registry.kind} {unusable_name(value.name)}.")
            registry.add(value.name, owner, value)
            added.append(value.name)
    if not added and not metrics_in(vars(module).values()):
        raise UserError(
            f"plugin {str(file)!r} defines no method and no benchmark: "
            "write a subclass of smope_bench.methods.common.api.Method with a class attribute `name`."
        )
    return added


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


def _method_fault(value: Any) -> str | None:
    from smope_bench.methods.common.api import Method, MethodCard, MethodConfig

    return _class_fault(value, Method, MethodCard, MethodConfig)


def _benchmark_fault(value: Any) -> str | None:
    from smope_bench.benchmarks.base import Benchmark, BenchmarkCard, BenchmarkConfig

    return _class_fault(value, Benchmark, BenchmarkCard, BenchmarkConfig)


def _class_fault(value: Any, base: type, card: type, config: type) -> str | None:
    """What keeps ``value`` from being a subclass of ``base`` with a card and a configuration, and the remedy."""
    if not (isinstance(value, type) and issubclass(value, base)):
        return f"it is of type {type(value).__name__}, not a subclass of {base.__module__}.{base.__name__}"
    if not isinstance(getattr(value, "card", None), card):
        return f"{value.__name__} has no class attribute `card` of type {card.__module__}.{card.__name__}"
    own = getattr(value, "Config", None)
    if not (isinstance(own, type) and issubclass(own, config)):
        return f"{value.__name__}.Config is not a subclass of {config.__module__}.{config.__name__}"
    return None
