"""Names to methods, benchmarks and so on: built-in tables, entry points of installed packages, and plugin files.

A name's module is imported when the name is loaded: listing names needs no torch, and a broken package breaks only its own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.registry.old_imports import API
from smope_bench.harness.registry.plugin_hash import source_of
from smope_bench.harness.registry.plugins import (
    call_outside_code,
    installed_points,
    is_usable_name,
    run_file,
    unusable_name,
)
from smope_bench.harness.text import plain

if TYPE_CHECKING:
    from smope_bench.harness.run_spec import BackboneRef
    from smope_bench.methods.common.backbone.backbones import Backbone

BUILT_IN = "built-in"
IN_DATA = "the data folder"
"""Owner of what was imported into the data folder."""


@dataclass(frozen=True)
class Kind:
    """One kind of thing that a plugin file or a package's entry point adds.

    ``base``: ``module:class`` of which an addition is a subclass with a class attribute ``name``, or an instance with an
    attribute ``name``. ``builtin``: ``module:table`` of the project's own, names to ``module:attribute``; without it the room
    of the kind keeps its own table. ``card``, ``config``: ``module:class`` of the class attributes ``card`` and ``Config``.
    ``function``: attribute with the function that an instance was made of by a decorator.
    """

    name: str
    base: str
    builtin: str | None = None
    card: str | None = None
    config: str | None = None
    function: str | None = None
    named: str | None = None
    """``module:function`` that makes a value of a name that is in no table, as of a user's own weights; None without one."""

    @property
    def is_class(self) -> bool:
        """Whether an addition is a class, and not an instance."""
        return self.config is not None

    @property
    def group(self) -> str:
        """The group of its entry points."""
        return f"smope_bench.{self.name}s"

    def defined_in(self, module: ModuleType) -> list[Any]:
        """The additions of this kind that a module defines itself, each once and in order; what it imports is not its own."""
        module_name, _, class_name = self.base.partition(":")
        base = getattr(sys.modules.get(module_name), class_name, None)
        if base is None:  # not imported: then nothing can be made of it
            return []
        values = {id(value): value for value in vars(module).values()}.values()
        if not self.is_class:
            mine = [one for one in values if issubclass(type(one), base) and isinstance(one.name, str)]
            return [one for one in mine if self._is_defined_in(module, one)]
        own = [value for value in values if isinstance(value, type) and issubclass(value, base)]
        # A name that is only inherited would make a helper base class and its child collide.
        return [one for one in own if one.__module__ == module.__name__ and isinstance(vars(one).get("name"), str)]

    def _is_defined_in(self, module: ModuleType, instance: Any) -> bool:
        if self.function is not None:
            return getattr(instance, self.function).__module__ == module.__name__
        target = _target(self.builtin).get(instance.name) if self.builtin else None
        return target is None or _target(target) is not instance

    def fault(self, value: Any) -> str | None:
        """What keeps a value from being of this kind, and the remedy; None where nothing does."""
        base = _target(self.base)
        if self.is_class and not (isinstance(value, type) and issubclass(value, base)):
            return f"it is of type {type(value).__name__}, not a subclass of {_public(base)}"
        if not self.is_class and not isinstance(value, base):
            return f"it is of type {type(value).__name__}, not an instance of {_public(base)}"
        if self.card and not isinstance(getattr(value, "card", None), _target(self.card)):
            return f"{value.__name__} has no class attribute `card` of type {_public(_target(self.card))}"
        own = getattr(value, "Config", None)
        if self.config and not (isinstance(own, type) and issubclass(own, _target(self.config))):
            return f"{value.__name__}.Config is not a subclass of {_public(_target(self.config))}"
        kept = getattr(value, "exemplars", 0)
        if type(kept) is not int or kept < 0:
            return f"{value.__name__}.exemplars is {kept!r}, not the number of training images that it keeps at most"
        return None


_METHODS, _BENCHMARKS = "smope_bench.methods.common.api", "smope_bench.benchmarks.base"
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "method",
            f"{_METHODS}:Method",
            "smope_bench.methods:BUILTIN",
            card=f"{_METHODS}:MethodCard",
            config=f"{_METHODS}:MethodConfig",
        ),
        Kind(
            "benchmark",
            f"{_BENCHMARKS}:Benchmark",
            "smope_bench.benchmarks:BUILTIN",
            card=f"{_BENCHMARKS}:BenchmarkCard",
            config=f"{_BENCHMARKS}:BenchmarkConfig",
        ),
        Kind(
            "backbone",
            "smope_bench.methods.common.backbone.backbones:Backbone",
            "smope_bench.methods.common.backbone.backbones:BUILTIN",
            named="smope_bench.methods.common.backbone.imported:imported_backbone",
        ),
        Kind("metric", "smope_bench.harness.metrics:Metric", function="function"),
        Kind("figure", "smope_bench.reports.figures.kinds:FigureKind", function="draw"),
        Kind("executor", "smope_bench.harness.execution.executor_registry:Executor", function="run"),
        Kind("tracker", "smope_bench.harness.tracking.tracker:Tracker", function="open"),
    )
}
"""All that a plugin file can add."""


@dataclass(frozen=True)
class Entry:
    """A name in a registry: its owner, and the function that loads its value."""

    name: str
    owner: str
    resolve: Callable[[], Any]


@dataclass(frozen=True)
class Listing:
    """A row of ``list``: ``value`` is None and ``error`` the reason where the name cannot be loaded."""

    name: str
    owner: str
    value: Any | None
    error: str | None


class Registry:
    """A lazy table from names to the things of one kind (see ``KINDS``)."""

    def __init__(
        self,
        kind: str,
        builtin: Mapping[str, str],
        entry_point_group: str | None = None,
        fault: Callable[[Any], str | None] = lambda _: None,
        named: str | None = None,
    ) -> None:
        """``builtin`` maps names to ``module:attribute``; the group's installed entry points are added. ``named``: see ``Kind``.

        ``fault`` gives the reason why a value from outside the project is not of this kind; None where it is.
        """
        self.kind = kind
        self._fault = fault
        self._named = named
        self._takes_plugins = entry_point_group is not None
        self._entries: dict[str, list[Entry]] = {}
        for name, target in builtin.items():
            self._add(Entry(name, BUILT_IN, partial(_target, target)))
        if entry_point_group is not None:
            for point in installed_points(entry_point_group):
                self._add(Entry(point.name, point.owner, point.load))

    def names(self) -> list[str]:
        """All names, sorted, those that cannot be loaded included."""
        return sorted(self._entries)

    def loadable_names(self) -> list[str]:
        """The names that can be loaded, sorted: the default of commands that take names. Imports everything."""
        return [row.name for row in self.listing() if row.error is None]

    def owner(self, name: str) -> str:
        """Where a name comes from: ``built-in``, ``package 'x'`` or ``plugin 'file.py'``."""
        return " and ".join(entry.owner for entry in self._claims(name))

    def load(self, name: str) -> Any:
        """Import and return the value of a name. Raises UserError for one that is unknown, defined twice or broken."""
        claims = self._claims(name)
        if len(claims) > 1:
            owners = " and by ".join(entry.owner for entry in claims)
            raise UserError(f"{self.kind} {name!r} is defined twice, by {owners}: rename or uninstall one of them.")
        entry = claims[0]
        if entry.owner in (BUILT_IN, IN_DATA):  # a failure is a bug of the project: show its traceback
            return entry.resolve()
        value = call_outside_code(entry.resolve, f"{self.kind} {name!r} of {entry.owner} cannot be imported")
        if (fault := self._fault(value)) is not None:
            raise UserError(f"{self.kind} {name!r} of {entry.owner} cannot be used: {fault}.")
        return value

    def source(self, name: str) -> str | None:
        """Hash of the source of a name that is not built-in; None for one that the code fingerprint covers."""
        return None if self.owner(name) in (BUILT_IN, IN_DATA) else source_of(self.load(name))

    def knows(self, name: str) -> bool:
        """Whether a name can be looked up, those of the data folder included."""
        return name in self._entries or self._of_the_data_folder(name) is not None

    def listing(self) -> list[Listing]:
        """Every name with its value, or the error of loading it. Imports everything."""
        rows = []
        for name in self.names():
            try:
                rows.append(Listing(name, self.owner(name), self.load(name), None))
            except UserError as error:
                rows.append(Listing(name, self.owner(name), None, str(error)))
        return rows

    def add(self, name: str, owner: str, value: Any) -> None:
        """Add a loaded value. Raises UserError for a name that is taken."""
        if name in self._entries:
            raise UserError(
                f"{self.kind} {name!r} of {owner} already exists, from {self.owner(name)}: choose another name."
            )
        self._add(Entry(name, owner, lambda: value))

    def _add(self, entry: Entry) -> None:
        # Two packages may offer one name: an error only where that name is loaded.
        self._entries.setdefault(entry.name, []).append(entry)

    def _claims(self, name: str) -> list[Entry]:
        if name not in self._entries:
            if (value := self._of_the_data_folder(name)) is not None:
                return [Entry(name, IN_DATA, lambda: value)]
            plugin = " One of your own needs --plugin FILE.py." if self._takes_plugins else ""
            raise UserError(f"unknown {self.kind} {name!r}{did_you_mean(name, self._entries)}{plugin}")
        return self._entries[name]

    def _of_the_data_folder(self, name: str) -> Any | None:
        return _target(self._named)(name) if self._named else None


@dataclass(frozen=True)
class Registries:
    """Every table a command needs, made once and handed down. Pickled as its plugin files: a worker opens its own."""

    methods: Registry
    benchmarks: Registry
    backbones: Registry
    plugins: tuple[Path, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    """The names of the backbones that a suite's columns give as files or models of timm."""

    def backbone(self, ref: BackboneRef, data: Path) -> Backbone:
        """The backbone of a run's specification, with its weights under a data folder and what was changed of it."""
        return self.backbones.load(ref.name).at(data).adapted(ref.settings)

    def sources_of(self, method: str, benchmark: str, backbone: str) -> dict[str, str]:
        """Hashes of the sources of a run's plugins, by kind; empty where all three are the project's own."""
        named = ((self.methods, method), (self.benchmarks, benchmark), (self.backbones, backbone))
        found = {registry.kind: registry.source(name) for registry, name in named}
        return {kind: source for kind, source in found.items() if source is not None}

    def __reduce__(self) -> tuple[Callable[..., Registries], tuple[tuple[Path, ...]]]:
        return open_registries, (self.plugins,)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No search for cyclic garbage within, for a block whose very many objects all stay: the import of PyTorch, of which the
    search takes a sixth of the time, and the reading of a hundred thousand records, of which it takes half."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def open_registries(plugins: Sequence[Path] = ()) -> Registries:
    """Built-in tables plus entry points plus the given plugin files; UserError for a plugin that cannot be used."""
    files = tuple(Path(plugin).resolve() for plugin in plugins)
    made = [
        Registry(one.name, _target(one.builtin), one.group, one.fault, one.named)
        for one in KINDS.values()
        if one.builtin
    ]
    registries = Registries(*made, plugins=files)
    for file in files:
        add_plugin(registries, file)
    return registries


def open_room(kind: str, room: str, plugins: Sequence[Path] = ()) -> Registry:
    """All things of a kind that decorators make: those in the modules of a package, which is searched and not listed, those of
    entry points and those of plugin files. Raises UserError for a plugin file that cannot be used or takes a name that exists."""
    found = KINDS[kind]
    names = [each.name for each in pkgutil.iter_modules(importlib.import_module(room).__path__)]
    modules = [importlib.import_module(f"{room}.{name}") for name in names]
    assert found.function is not None
    builtin = {
        one.name: f"{module.__name__}:{getattr(one, found.function).__name__}"
        for module in modules
        for one in found.defined_in(module)
    }
    registry = Registry(kind, builtin, found.group, partial(_decorated_fault, found))
    for file in plugins:
        for one in found.defined_in(run_file(file.resolve())):
            registry.add(one.name, f"plugin {plain(file.name)!r}", one)
    return registry


def _decorated_fault(kind: Kind, value: Any) -> str | None:
    decorator = f"{API}.{kind.name}"
    return (
        None if isinstance(value, _target(kind.base)) else f"it is no {kind.name}: decorate a function with {decorator}"
    )


def add_plugin(registries: Registries, file: Path) -> list[str]:
    """Run a plugin file and add the methods, benchmarks and backbones that it defines; returns their names.

    Raises UserError for a file that defines nothing of any kind.
    """
    module = run_file(file)
    owner = f"plugin {plain(file.name)!r}"
    added = []
    for registry in (registries.methods, registries.benchmarks, registries.backbones):
        for value in KINDS[registry.kind].defined_in(module):
            if not is_usable_name(value.name):
                raise UserError(f"{owner} names a {registry.kind} {unusable_name(value.name)}.")
            registry.add(value.name, owner, value)
            added.append(value.name)
    if not added and not any(kind.defined_in(module) for kind in KINDS.values() if not kind.builtin):
        raise UserError(
            f"plugin {str(file)!r} defines nothing to add: write a subclass of {API}.Method with a class attribute `name`,"
            f" or one of {', '.join(kind for kind in KINDS if kind != 'method')} (docs/develop.md)."
        )
    return added


def _target(target: str) -> Any:
    """What ``module:attribute`` names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _public(base: type) -> str:
    """The name by which plugins import a class."""
    return f"{API}.{base.__name__}"
