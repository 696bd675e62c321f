"""Commands by name: a function with the decorator ``command`` is one, in whichever of these places its file lies.

Searched are the modules of this room, those of the reports that are named in ``OTHERS``, and the entry points
``smope_bench.commands`` of installed packages.
``--plugin FILE.py`` adds none: a command must be known before its options are read. This module imports nothing heavy.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn, TypeVar

import typer
from typer.core import TyperGroup

from smope_bench.harness.errors import UserError
from smope_bench.harness.registry.plugins import InstalledEntryPoint, call_outside_code, installed_points

GROUP = "smope_bench.commands"
ROOM = "smope_bench.harness.cli"
OTHERS = ("smope_bench.reports.cli", "smope_bench.reports.report_timing")
ORDER = (
    "run",
    "plan",
    "report",
    "status",
    "cancel",
    "list",
    "describe",
    "suite",
    "data",
    "tune",
    "check",
    "new-method",
    "cost",
    "bench",
    "migrate",
)
"""Order in ``--help``; other commands follow by name."""

Function = TypeVar("Function", bound=Callable[..., Any])
COMMANDS: dict[str, Callable[..., Any]] = {}


def command(name: str) -> Callable[[Function], Function]:
    """Decorator: makes a function, whose parameters typer reads, the command ``name``; ``"data prepare"`` is one of a group.

    The docstring is the help. Raises UserError if the name is taken.
    """

    def register(function: Function) -> Function:
        other = COMMANDS.setdefault(name, function)
        if other.__code__.co_filename != function.__code__.co_filename:
            raise UserError(f"command {name!r} already exists, from {other.__module__}: choose another name")
        COMMANDS[name] = function
        return function

    return register


class _Ordered(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return sorted(self.commands, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def make_app(default: Callable[..., None]) -> typer.Typer:
    """The command line with every command that is found. ``default`` is called before each, and alone if none is given."""
    app = typer.Typer(
        name="run_all.py",
        cls=_Ordered,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(default)
    groups: dict[str, typer.Typer] = {"": app}
    for name in (*(f"{ROOM}.{found.name}" for found in pkgutil.iter_modules(_path(ROOM))), *OTHERS):
        groups |= _groups_in(importlib.import_module(name))
    for group in list(groups.values())[1:]:
        app.add_typer(group)
    for point in installed_points(GROUP):
        _load(point)
    for name, function in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        groups[group].command(last)(function)
    return app


def _path(package: str) -> list[str]:
    return list(importlib.import_module(package).__path__)


def _groups_in(module: ModuleType) -> dict[str, typer.Typer]:
    """The groups of commands that a module makes itself, as ``data = typer.Typer(name="data")``."""
    return {str(value.info.name): value for value in vars(module).values() if isinstance(value, typer.Typer)}


def _load(point: InstalledEntryPoint) -> None:
    """Register an installed package's command; one that cannot be loaded says so when it is called, and hurts no other."""
    try:
        function = call_outside_code(point.load, f"command {point.name!r} of {point.owner} cannot be imported")
        if function not in COMMANDS.values():
            command(point.name)(function)
    except UserError as error:
        sentence = str(error)

        def refuse() -> NoReturn:
            raise UserError(sentence)

        refuse.__doc__ = sentence
        COMMANDS.setdefault(point.name, refuse)
